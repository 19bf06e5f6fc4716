"""The loop: what wakes a task, what must not, deadlines, posts from other threads, and the end."""

import gc
import socket
import threading
import time

import pytest

from tests.loop.driving import PATIENCE, Interrupt, begin, done, held, outcome_of, settle, told, waiting, waiting_once
from tests.running import wait_until
from wrapper.loop.loop import LATER, LATER_BATCH, NEVER, NEXT_TURN, STALE_MAX, Outcome
from wrapper.loop.poller import BATCH, Link, Notice
from wrapper.threads import NoThread


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
    loop.post(task.interrupt, Interrupt())
    settle(loop)
    assert task.is_over and capfd.readouterr().err == ""


def test_an_exception_that_a_task_does_not_take_ends_it_without_a_word(loop, capfd):
    task, answer = begin(loop, waiting_once(loop))
    loop.post(task.interrupt, KeyError("cut"))
    with pytest.raises(KeyError):
        answer.get()
    settle(loop)
    assert task.is_over and task.ended.is_given and task not in loop.tasks
    assert capfd.readouterr().err == ""


def test_another_one_that_it_raises_instead_is_logged(loop, capfd):
    def steps():
        try:
            yield NEVER, Notice(loop)
        finally:
            raise ValueError("while it cleaned up")

    task, _ = begin(loop, steps())
    loop.post(task.interrupt, Interrupt())
    settle(loop)
    assert task.is_over and "while it cleaned up" in capfd.readouterr().err


def test_a_task_may_return_from_an_interrupt(loop):
    def steps():
        try:
            yield NEVER, Notice(loop)
        except Interrupt:
            return "well"

    task, answer = begin(loop, steps())
    loop.post(task.interrupt, Interrupt())
    assert answer.get() == "well"
    settle(loop)
    assert task.is_over and task not in loop.tasks


# Tasks


def test_what_computes_for_long_leaves_the_others_their_turn(loop):
    seen = []

    def computes():
        yield LATER
        seen.append("computed")

    def looks_on():
        while seen.count("computed") < 3 * LATER_BATCH:
            seen.append("looked")
            yield NEXT_TURN

    with held(loop):
        answers = [begin(loop, steps)[1] for steps in (looks_on(), *(computes() for _ in range(3 * LATER_BATCH)))]
    for answer in answers:
        answer.get()
    assert max(map(len, "".join(word[0] for word in seen).split("l"))) == LATER_BATCH


def test_what_computes_later_can_be_interrupted_before(loop):
    def computes():
        yield LATER
        return "computed"

    def interrupt_at_once():
        task = loop.task(outcome_of(computes()), "a test")
        loop.begin(task)
        task.interrupt(Interrupt())
        return task

    assert told(loop, interrupt_at_once).is_over
    settle(loop)


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


def test_a_crowd_whose_deadlines_pass_at_once_leaves_the_others_their_turn(loop, clock):
    """Thousands of streams whose clients left in one moment are given up in one moment, too."""
    turns = []

    def steps():
        yield (1010.0,)
        turns.append(loop.turn)

    told(loop, lambda: [loop.begin(loop.task(steps(), "one of a crowd")) for _ in range(5 * BATCH)])
    clock.pass_by(20)
    wait_until(lambda: len(turns) == 5 * BATCH)
    assert max(turns.count(turn) for turn in turns) == BATCH


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


def test_the_collector_does_not_walk_all_that_lives_while_a_crowd_comes(loop):
    """That stops everything, for longer the more there is: 90 ms beside 3,000 tunnels."""
    told(loop)  # it runs
    gc.collect()
    before = gc.get_stats()[2]["collections"]
    crowd = [[] for _ in range(400_000)]
    assert gc.get_stats()[2]["collections"] == before
    crowd.clear()


# Other threads


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
    loop.post(task.interrupt, Interrupt())
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
