"""The loop: what wakes a task, what must not, deadlines, posts from other threads, and the end."""

import os
import socket
import threading
import time

import pytest

from tests.loop.driving import PATIENCE, Pair, begin, done, held, settle, told
from wrapper.loop.loop import NEVER, NEXT_TURN, STALE_MAX, Loop, Outcome
from wrapper.loop.poller import BATCH, BROKEN, Link, Notice
from wrapper.loop.workers import Workers
from wrapper.threads import NoThread


class Interrupt(Exception):
    pass


@pytest.fixture
def pair(loop):
    pairs = []

    def make():
        pairs.append(Pair(loop))
        return pairs[-1]

    yield make
    for made in pairs:
        made.close()


def waiting(wait, seen):
    """Steps that wait again and again, as `wait()` says, and note what they were resumed with."""
    while True:
        try:
            seen.append((yield wait()))
        except Interrupt as error:
            seen.append(error)


def is_quiet(loop):
    """True where nothing is ready that the loop listens to: it sleeps."""
    settle(loop)
    return loop.epoll.poll(0) == []


# Descriptors


def test_what_happens_while_the_loop_is_busy_comes_in_one_turn_and_in_order(loop, pair):
    pairs, seen = [pair() for _ in range(BATCH)], []

    def steps(number, link):
        yield NEVER, link.readable
        seen.append((number, loop.turn))

    answers = [begin(loop, steps(number, each.link))[1] for number, each in enumerate(pairs)]
    settle(loop)
    with held(loop):
        for each in pairs[1:]:  # and the self-pipe, on which the hold was rung
            each.theirs.send(b"x")
    for answer in answers[1:]:
        answer.get()
    assert [number for number, _ in seen] == list(range(1, BATCH))
    assert len({turn for _, turn in seen}) == 1
    pairs[0].theirs.send(b"x")
    answers[0].get()


def test_more_events_than_a_batch_are_all_told(loop, pair):
    pairs = [pair() for _ in range(3 * BATCH)]

    def steps(link):
        return (yield NEVER, link.readable)

    answers = [begin(loop, steps(each.link))[1] for each in pairs]
    settle(loop)
    with held(loop):
        for each in pairs:
            each.theirs.send(b"x")
    assert [answer.get() for answer in answers] == [each.link.readable for each in pairs]


def test_three_wait_at_one_descriptor_and_each_is_told_its_own(loop, pair):
    made, seen = pair(), {}
    size = fill(made.ours)
    link = made.link
    kinds = {"reads": link.readable, "writes": link.writable, "ends": link.ended}

    def steps(name, source):
        seen[name] = yield NEVER, source

    answers = {name: begin(loop, steps(name, source))[1] for name, source in kinds.items()}
    settle(loop)
    assert seen == {}
    made.theirs.send(b"x")
    answers["reads"].get()
    settle(loop)
    assert seen == {"reads": link.readable}
    drain(made.theirs, size)
    answers["writes"].get()
    settle(loop)
    assert seen == {"reads": link.readable, "writes": link.writable}
    made.theirs.shutdown(socket.SHUT_WR)
    answers["ends"].get()
    assert seen["ends"] is link.ended and not link.last_event & BROKEN


def fill(sock):
    """Send until there is no room; how much that was."""
    size = 0
    try:
        while True:
            size += sock.send(b"x" * 65536)
    except BlockingIOError:
        return size


def drain(sock, size):
    while size:
        size -= len(sock.recv(65536))


def test_the_first_of_its_sources_in_order_wakes_a_task_and_it_leaves_the_others(loop, pair):
    one, two, seen = pair(), pair(), []
    end = Notice(loop)

    def steps():
        seen.append((yield NEVER, one.link.readable, two.link.readable))
        seen.append((yield NEVER, end))

    _, answer = begin(loop, steps())
    settle(loop)
    with held(loop):
        two.theirs.send(b"x")
        one.theirs.send(b"x")
    settle(loop)
    assert seen == [two.link.readable], "what came first; the other must not wake it out of its next wait"
    assert one.link.readable.waiter is None
    end.give()
    answer.get()
    assert seen[1:] == [end]


def test_an_event_of_a_descriptor_that_was_closed_in_this_turn_is_not_told_to_its_successor(loop, pair):
    """The number is given out again at once; what epoll has said was about the one before."""
    first, old, seen = pair(), pair(), []
    successor, other = socket.socketpair()
    number = old.ours.fileno()

    def reuse():
        yield NEVER, first.link.readable
        old.link.close()
        os.dup2(successor.fileno(), number)
        link = Link(loop, number)
        new = loop.task(waiting(lambda: (NEVER, link.readable), seen), "a successor")
        loop.begin(new)
        return new

    forgotten = []
    begin(loop, waiting(lambda: (NEVER, old.link.readable), forgotten))
    _, answer = begin(loop, reuse())
    settle(loop)
    with held(loop):
        first.theirs.send(b"x")
        old.theirs.send(b"x")
    answer.get()
    settle(loop)
    assert seen == [] and forgotten == []
    with held(loop):
        other.send(b"x")
    settle(loop)
    assert seen and set(seen) == {loop.links[number].readable}
    told(loop, loop.links[number].close)
    os.close(successor.fileno())
    successor.detach()
    other.close()


def test_a_word_about_a_closed_descriptor_is_dropped(loop, pair):
    first, other, seen = pair(), pair(), []

    def close():
        yield NEVER, first.link.readable
        other.link.close()
        other.ours.close()

    begin(loop, waiting(lambda: (NEVER, other.link.readable), seen))
    _, answer = begin(loop, close())
    settle(loop)
    with held(loop):
        first.theirs.send(b"x")
        other.theirs.send(b"x")
    answer.get()
    settle(loop)
    assert seen == []


# Muting


def test_what_nothing_waits_for_is_left_out_until_something_does(loop, pair):
    made = pair()
    made.theirs.send(b"x")
    assert is_quiet(loop), "the loop must not spin"

    def steps():
        return (yield NEVER, made.link.readable)

    for _ in range(3):
        assert done(loop, steps()) is made.link.readable
        assert is_quiet(loop)
    assert made.ours.recv(10) == b"x"
    _, answer = begin(loop, steps())
    settle(loop)
    made.theirs.send(b"y")
    assert answer.get() is made.link.readable


def test_only_the_part_that_nothing_waits_for_is_left_out(loop, pair):
    made, seen = pair(), []

    def steps():
        seen.append((yield NEVER, made.link.ended))

    _, answer = begin(loop, steps())
    settle(loop)
    made.theirs.send(b"x")
    assert is_quiet(loop) and seen == []
    made.theirs.shutdown(socket.SHUT_WR)
    answer.get()
    assert seen == [made.link.ended]


@pytest.mark.parametrize("kind", ["readable", "writable", "ended"])
def test_what_is_broken_cannot_be_left_out_and_does_not_spin(loop, pair, kind):
    """EPOLLHUP and EPOLLERR are reported whatever was asked for (epoll_ctl(2))."""
    made = pair()
    made.ours.send(b"unread, so that the close is a reset")
    made.theirs.close()
    assert is_quiet(loop)

    def steps():
        return (yield NEVER, getattr(made.link, kind))

    for _ in range(3):
        assert done(loop, steps()) is getattr(made.link, kind)
        assert made.link.last_event & BROKEN
        assert is_quiet(loop)
    told(loop, made.link.close)
    assert made.ours.fileno() not in loop.links


def test_a_link_that_is_left_out_can_be_closed_by_the_one_it_wakes(loop, pair):
    made = pair()

    def steps():
        yield NEVER, made.link.readable
        made.link.close()
        made.ours.close()

    _, answer = begin(loop, steps())
    settle(loop)
    made.theirs.send(b"x")
    made.theirs.close()
    answer.get()
    assert is_quiet(loop)


@pytest.mark.parametrize("is_muted", [False, True])
def test_what_waits_at_a_closed_descriptor_harms_only_itself(loop, pair, is_muted):
    """One fault must end one task, not the thread that serves all."""
    made = pair()
    if is_muted:
        made.theirs.send(b"x")
        settle(loop)
    event = pair()

    def steps():
        yield NEVER, event.link.readable
        made.link.close()
        return (yield loop.now + 0.001, made.link.readable)

    _, answer = begin(loop, steps())
    event.theirs.send(b"x")
    if is_muted:
        with pytest.raises((OSError, ValueError)):
            answer.get()
    else:
        assert answer.get() is None
    assert told(loop, lambda: "serves") == "serves"


# Exceptions thrown in


def at_a_descriptor(loop, made, notice):
    return NEVER, made.link.readable


def at_a_notice(loop, made, notice):
    return NEVER, notice


def at_a_deadline(loop, made, notice):
    return (loop.now + 0.01,)


def at_all_of_them(loop, made, notice):
    return loop.now + 0.01, notice, made.link.readable


PLACES = [at_a_descriptor, at_a_notice, at_a_deadline, at_all_of_them]


@pytest.mark.parametrize("place", PLACES)
def test_an_exception_finds_a_task_where_it_waits_and_what_it_waited_for_is_dropped(loop, pair, place):
    made, notice, end, seen = pair(), Notice(loop), Notice(loop), []
    error = Interrupt()

    def steps():
        try:
            yield place(loop, made, notice)
        except Interrupt as raised:
            seen.append(raised)
        seen.append((yield NEVER, end))

    def interrupt_at_once():
        loop.begin(task).interrupt(error)

    task = loop.task(steps(), "a test")
    told(loop, interrupt_at_once)
    assert seen == [error]
    made.theirs.send(b"x")
    notice.give()
    done(loop, nap(loop, 0.02))
    settle(loop)
    assert seen == [error] and not task.is_over
    end.give()
    settle(loop)
    assert seen == [error, end] and task.is_over


def nap(loop, seconds):
    yield (loop.now + seconds,)


@pytest.mark.parametrize("is_notice", [False, True])
def test_an_exception_drops_what_would_have_resumed_a_task_in_the_next_turn(loop, is_notice):
    given, end, seen = Notice(loop), Notice(loop), []

    def steps():
        try:
            yield (NEVER, given) if is_notice else NEXT_TURN
        except Interrupt:
            seen.append("interrupted")
        seen.append((yield NEVER, end))

    def interrupt_at_once():
        given.give_now()
        loop.begin(task)
        assert any(entry[0] is task for entry in loop.ready)
        task.interrupt(Interrupt())

    task = loop.task(steps(), "a test")
    told(loop, interrupt_at_once)
    settle(loop)
    assert seen == ["interrupted"]
    end.give()
    settle(loop)
    assert seen == ["interrupted", end]


def test_an_exception_in_a_task_that_is_over_is_none(loop, capfd):
    def steps():
        return 7
        yield

    task, answer = begin(loop, steps())
    assert answer.get() == 7
    loop.interrupt(task, Interrupt())
    settle(loop)
    assert task.is_over and capfd.readouterr().err == ""


def test_an_exception_that_a_task_does_not_take_ends_it_without_a_word(loop, capfd):
    task, answer = begin(loop, waiting_once(loop))
    loop.interrupt(task, KeyError("cut"))
    with pytest.raises(KeyError):
        answer.get()
    settle(loop)
    assert task.is_over and task.ended.is_given and task not in loop.tasks
    assert capfd.readouterr().err == ""


def waiting_once(loop):
    yield NEVER, Notice(loop)


def test_another_one_that_it_raises_instead_is_logged(loop, capfd):
    def steps():
        try:
            yield NEVER, Notice(loop)
        finally:
            raise ValueError("while it cleaned up")

    task, _ = begin(loop, steps())
    loop.interrupt(task, Interrupt())
    settle(loop)
    assert task.is_over and "while it cleaned up" in capfd.readouterr().err


def test_a_task_may_return_from_an_interrupt(loop):
    def steps():
        try:
            yield NEVER, Notice(loop)
        except Interrupt:
            return "well"

    task, answer = begin(loop, steps())
    loop.interrupt(task, Interrupt())
    assert answer.get() == "well"
    settle(loop)
    assert task.is_over and task not in loop.tasks


# Tasks


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_task_that_raises_ends_alone_and_is_logged(loop, capfd, kind):
    def fails():
        yield NEXT_TURN
        raise kind("the fault")

    task, _ = begin(loop, fails())
    settle(loop)
    said = capfd.readouterr().err
    assert task.is_over and task.ended.is_given
    assert "a test failed" in said and "the fault" in said
    assert done(loop, nap(loop, 0)) is None, "the others go on"


def test_the_end_of_a_task_can_be_waited_for_before_and_after(loop):
    go_on = Notice(loop)

    def short():
        yield NEVER, go_on

    task, _ = begin(loop, short())

    def wait():
        return (yield NEVER, task.ended)

    _, answer = begin(loop, wait())
    settle(loop)
    go_on.give()
    assert answer.get() is task.ended
    assert done(loop, wait()) is task.ended


def test_a_notice_given_twice_wakes_once(loop):
    notice, seen = Notice(loop), []

    def steps():
        seen.append((yield NEVER, notice))
        seen.append((yield NEVER, Notice(loop)))

    begin(loop, steps())
    notice.give()
    notice.give()
    settle(loop)
    assert seen == [notice]


def test_a_task_that_gives_up_its_turn_lets_the_others_have_theirs(loop, pair):
    made, seen = pair(), []

    def greedy():
        while "other" not in seen:
            seen.append("greedy")
            assert len(seen) < 1000
            yield NEXT_TURN

    def other():
        yield NEVER, made.link.readable
        seen.append("other")

    begin(loop, other())
    settle(loop)
    with held(loop):
        _, answer = begin(loop, greedy())
        made.theirs.send(b"x")
    answer.get()
    assert len(seen) <= 4


def test_what_is_ready_is_resumed_once_a_turn(loop):
    turns = []

    def steps():
        for _ in range(5):
            turns.append(loop.turn)
            yield NEXT_TURN

    begin(loop, steps())[1].get()
    assert len(set(turns)) >= 4, "what is spawned may take its second step in the turn of its first"


# Deadlines


def test_a_deadline_resumes_with_none_and_not_before(loop, clock):
    seen = []
    begin(loop, waiting(lambda: (loop.now + 10, Notice(loop)), seen))
    settle(loop)
    clock.pass_by(9.9)
    assert seen == []
    clock.pass_by(0.2)
    assert seen == [None]
    clock.pass_by(9.9)
    assert seen == [None]
    clock.pass_by(0.2)
    assert seen == [None, None]


def test_a_deadline_that_has_passed_already_is_the_next_thing(loop, clock):
    assert done(loop, nap(loop, -1)) is None


def test_deadlines_come_in_their_order_whatever_order_they_were_made_in(loop, clock):
    seen = []

    def steps(seconds):
        yield (1000 + seconds,)
        seen.append(seconds)

    for seconds in (5, 3, 9, 1, 7):
        begin(loop, steps(seconds))
    settle(loop)
    clock.pass_by(20)
    assert seen == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(("deadlines", "entries"), [((10, 20, 30), 1), ((30, 20, 10), 3), ((10, NEVER, 20), 1)])
def test_a_deadline_moves(loop, clock, deadlines, entries):
    """Away it costs no new entry, nearer it does; it is the last one that counts."""
    go_on, seen = [Notice(loop) for _ in deadlines], []

    def steps():
        for deadline, notice in zip(deadlines, go_on):
            seen.append((yield 1000.0 + deadline, notice))
        yield NEVER, Notice(loop)

    begin(loop, steps())
    for notice in go_on[:-1]:
        notice.give()
        settle(loop)
    assert len(loop._deadlines) == entries
    clock.pass_by(deadlines[-1] - 0.1)
    assert seen == go_on[:-1]
    clock.pass_by(0.2)
    assert seen == [*go_on[:-1], None]
    clock.pass_by(100)
    assert len(seen) == len(deadlines) and loop._deadlines == []


def test_a_deadline_is_of_its_wait_and_not_of_its_task(loop, clock):
    notice, end, seen = Notice(loop), Notice(loop), []

    def steps():
        seen.append((yield 1010.0, notice))
        seen.append((yield NEVER, end))

    begin(loop, steps())
    notice.give()
    clock.pass_by(100)
    assert seen == [notice]
    end.give()
    settle(loop)
    assert seen == [notice, end]


def test_tasks_that_ended_long_before_their_deadline_are_let_go(loop, clock):
    """A crowd whose requests have an hour each, and need a moment: nothing of theirs may be kept for an hour."""
    def steps(notice):
        yield 5000.0, notice

    def crowd():
        for _ in range(20 * STALE_MAX):
            notice = Notice(loop)
            loop.begin(loop.task(steps(notice), "one of a crowd"))
            notice.give_now()

    told(loop, crowd)
    assert not loop.tasks
    assert len(loop._deadlines) <= STALE_MAX + 3


def test_one_task_with_ever_nearer_deadlines_does_not_pile_them_up(loop, clock):
    def steps():
        for count in range(20 * STALE_MAX):
            notice = Notice(loop)
            notice.is_given = True
            yield 9000.0 - count / 10, notice
        return (yield 8000.0, Notice(loop))

    _, answer = begin(loop, steps())
    for _ in range(20):
        settle(loop)
    while loop.ready:
        settle(loop)
    assert len(loop._deadlines) <= STALE_MAX + 3
    clock.pass_by(7001)
    assert answer.get() is None


def test_letting_go_of_the_stale_loses_no_deadline(loop, clock):
    seen = []

    def lasting(seconds):
        yield (1000.0 + seconds,)
        seen.append(seconds)

    def short(notice):
        yield 1000.0 + 50, notice

    def crowd():
        for count in range(10 * STALE_MAX):
            if not count % 100:
                loop.begin(loop.task(lasting(count), "lasting"))
            notice = Notice(loop)
            loop.begin(loop.task(short(notice), "short"))
            notice.give_now()

    told(loop, crowd)
    clock.pass_by(100 * STALE_MAX)
    assert seen == list(range(0, 10 * STALE_MAX, 100))


# Other threads


def test_posts_of_many_threads_are_all_called_each_threads_in_order(loop):
    called, count, threads = [], 2000, 8

    def run(name):
        for number in range(count):
            loop.post(called.append, (name, number))

    posting = [threading.Thread(target=run, args=(name,), daemon=True) for name in range(threads)]
    for each in posting:
        each.start()
    for each in posting:
        each.join(PATIENCE)
    while loop._posted:
        settle(loop)
    settle(loop)
    assert len(called) == count * threads
    for name in range(threads):
        assert [number for each, number in called if each == name] == list(range(count))


def test_many_posts_ring_once(loop, monkeypatch):
    rings, write = [], os.write

    def ring(fd, data):
        if fd == loop._pipe_end:
            rings.append(data)
        return write(fd, data)

    monkeypatch.setattr(os, "write", ring)
    called = []
    with held(loop):
        rings.clear()
        for number in range(100):
            loop.post(called.append, number)
    settle(loop)
    assert called == list(range(100))
    assert rings[0] == b"!" and len(rings) <= 1 + 4, "one for all, and those of the settling"


def test_more_posts_than_a_batch_leave_events_their_turn(loop, pair):
    made, seen = pair(), []

    def steps():
        yield NEVER, made.link.readable
        seen.append("event")

    _, answer = begin(loop, steps())
    settle(loop)
    with held(loop):
        for number in range(4 * BATCH):
            loop.post(seen.append, number)
        made.theirs.send(b"x")
    answer.get()
    settle(loop)
    assert seen.index("event") <= 2 * BATCH and len(seen) == 4 * BATCH + 1


def test_a_posted_call_that_raises_is_logged_and_the_next_is_made(loop, capfd):
    loop.post(lambda: 1 / 0)
    assert told(loop, lambda: "next") == "next"
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_what_is_posted_by_a_posted_call_is_called(loop):
    called = threading.Event()
    loop.post(loop.post, loop.post, called.set)
    assert called.wait(PATIENCE)


def test_a_job_in_a_thread_returns_or_raises_where_it_was_asked_for(loop):
    def steps(call):
        return (yield from loop.in_thread(call))

    assert done(loop, steps(threading.get_ident)) not in (loop.thread.ident, threading.get_ident())
    with pytest.raises(ZeroDivisionError):
        done(loop, steps(lambda: 1 / 0))


def test_a_job_for_which_there_is_no_thread_raises_at_once(loop):
    loop.workers.stop()

    def steps():
        yield from loop.in_thread(bool)

    with pytest.raises(NoThread):
        done(loop, steps())


def test_who_is_interrupted_does_not_hear_of_his_job_any_more(loop):
    go_on, end, seen = threading.Event(), Notice(loop), []

    def steps():
        try:
            yield from loop.in_thread(lambda: go_on.wait(PATIENCE))
        except Interrupt:
            seen.append("interrupted")
        seen.append((yield NEVER, end))

    task, answer = begin(loop, steps())
    loop.interrupt(task, Interrupt())
    settle(loop)
    go_on.set()
    while loop.workers._idle == []:
        settle(loop)
    settle(loop)
    assert seen == ["interrupted"]
    end.give()
    answer.get()
    assert seen == ["interrupted", end]


# The end


@pytest.fixture
def short_lived():
    made = Loop("a test's port", Workers("a test's worker", 1))
    yield made
    made.workers.stop()


def test_a_stop_drops_what_waits_and_lets_it_clean_up(short_lived):
    loop, cleaned = short_lived, []
    ours, theirs = socket.socketpair()

    def steps(name, wait):
        try:
            yield wait
        finally:
            cleaned.append(name)

    loop.start()
    link = told(loop, Link, loop, ours.fileno())
    waits = {"descriptor": (NEVER, link.readable), "notice": (NEVER, Notice(loop)), "deadline": (loop.now + 1000,)}
    for name, wait in waits.items():
        loop.spawn(steps(name, wait), name)
    settle(loop)
    loop.stop()
    assert sorted(cleaned) == sorted(waits) and not loop.thread.is_alive()
    ours.close()
    theirs.close()


def test_one_that_does_not_let_itself_be_dropped_leaves_the_others_theirs(short_lived, capfd):
    loop, cleaned = short_lived, []

    def stubborn():
        while True:
            try:
                yield NEVER, Notice(loop)
            finally:
                continue  # noqa: B012  what a generator must not do

    def failing():
        try:
            yield NEVER, Notice(loop)
        finally:
            raise ValueError("in a finally")

    def orderly():
        try:
            yield NEVER, Notice(loop)
        finally:
            cleaned.append("orderly")

    loop.start()
    for steps in (failing, orderly, failing):
        loop.spawn(steps(), steps.__name__)
    settle(loop)
    loop.stop()
    assert cleaned == ["orderly"] and capfd.readouterr().err.count("cannot be dropped") == 2


def test_posts_after_a_stop_are_neither_called_nor_written_anywhere(short_lived):
    """The numbers of the self-pipe are somebody else's by then."""
    loop, called = short_lived, []
    loop.start()
    settle(loop)
    pipe_end = loop._pipe_end
    loop.stop()
    read_end, write_end = os.pipe()
    os.dup2(write_end, pipe_end)
    try:
        loop._has_rung = False
        loop.post(called.append, 1)
        loop.spawn(waiting_once(loop), "too late")
        Notice(loop).give()
        os.set_blocking(read_end, False)
        with pytest.raises(BlockingIOError):
            os.read(read_end, 1)
        assert called == []
    finally:
        for fd in {read_end, write_end, pipe_end}:
            os.close(fd)


def test_a_loop_can_be_stopped_from_its_own_thread(short_lived):
    loop = short_lived
    loop.start()
    loop.post(loop.stop)
    loop.thread.join(PATIENCE)
    assert not loop.thread.is_alive()
    loop.stop()


def test_a_loop_that_was_never_started_can_be_stopped(short_lived):
    cleaned = []

    def steps():
        try:
            yield NEVER, Notice(short_lived)
        finally:
            cleaned.append(1)

    short_lived.begin(short_lived.task(steps(), "early"))
    short_lived.stop()
    assert cleaned == [1]


def test_posting_threads_race_a_stop_and_neither_fails(short_lived):
    loop, failures = short_lived, []

    def post():
        try:
            for _ in range(20_000):
                loop.post(bool)
        except OSError as error:
            failures.append(error)

    loop.start()
    posting = [threading.Thread(target=post, daemon=True) for _ in range(4)]
    for each in posting:
        each.start()
    told(loop)
    loop.stop()
    for each in posting:
        each.join(PATIENCE)
    assert failures == []


def test_an_outcome_carries_what_a_call_returned_or_raised():
    outcome = Outcome()
    outcome.of(lambda: 7)
    assert outcome.get() == 7
    outcome = Outcome()
    outcome.of(lambda: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            outcome.get()


def test_now_is_the_beginning_of_the_present_turn(loop):
    before = time.monotonic()
    turn, now = told(loop, lambda: (loop.turn, loop.now))
    assert now <= time.monotonic() and told(loop, lambda: loop.now) >= before
    assert told(loop, lambda: loop.turn) > turn
