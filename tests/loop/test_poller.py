"""poller.py: what wakes a task, what must not, and posts from other threads."""

import os
import socket
import threading

import pytest

from tests.loop.driving import PATIENCE, begin, done, held, settle, told, waiting, waiting_once
from wrapper.loop.loop import NEVER
from wrapper.loop.poller import BATCH, BROKEN, Link, Notice


def is_quiet(loop):
    """True where nothing is ready that the loop listens to: it sleeps."""
    settle(loop)
    return loop.epoll.poll(0) == []


def send_in_one_turn(loop, pairs):
    """A byte to each, and what waits now hears of all of them at once."""
    settle(loop)
    with held(loop):
        for one in pairs:
            one.theirs.send(b"x")


def test_what_happens_while_the_loop_is_busy_comes_in_one_turn_and_in_order(loop, pair):
    pairs, seen = [pair() for _ in range(BATCH)], []

    def steps(number, link):
        yield NEVER, link.readable
        seen.append((number, loop.turn))

    answers = [begin(loop, steps(number, each.link))[1] for number, each in enumerate(pairs)]
    send_in_one_turn(loop, pairs[1:])  # and the self-pipe, on which the hold was rung
    for answer in answers[1:]:
        answer.get()
    assert [number for number, _ in seen] == list(range(1, BATCH))
    assert len({turn for _, turn in seen}) == 1
    pairs[0].theirs.send(b"x")
    answers[0].get()


def test_what_is_urgent_does_not_stand_behind_a_crowd(loop, pair):
    """Thousands of requests lie before a response in epoll's order; what they come to would too."""
    pairs, seen = [*(pair() for _ in range(4 * BATCH)), pair(is_urgent=True)], []

    def steps(one):
        yield NEVER, one.link.readable
        seen.append(one)

    answers = [begin(loop, steps(one))[1] for one in pairs]
    send_in_one_turn(loop, pairs)
    for answer in answers:
        answer.get()
    assert seen.index(pairs[-1]) <= BATCH


def test_what_is_urgent_is_told_before_what_came_behind_it(loop, pair):
    """A request must not take a kept connection on which the service has said what it was not asked for."""
    pairs, seen = [pair(is_urgent=True), pair()], []

    def steps(one):
        yield NEVER, one.link.readable
        seen.append(one)

    for _ in range(20):
        seen.clear()
        answers = [begin(loop, steps(one))[1] for one in pairs]
        send_in_one_turn(loop, pairs)
        for answer in answers:
            answer.get()
        assert seen == pairs
        for one in pairs:
            one.ours.recv(1)


def test_more_events_than_a_batch_are_all_told(loop, pair):
    pairs = [pair() for _ in range(3 * BATCH)]

    def steps(link):
        return (yield NEVER, link.readable)

    answers = [begin(loop, steps(each.link))[1] for each in pairs]
    send_in_one_turn(loop, pairs)
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
    send_in_one_turn(loop, [first, old])
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
    send_in_one_turn(loop, [first, other])
    answer.get()
    settle(loop)
    assert seen == []


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
    with pytest.raises(ValueError, match="closed"):
        answer.get()
    assert told(loop, lambda: "serves") == "serves"


def test_one_that_fails_when_it_is_woken_does_not_end_the_loop(loop, pair, capfd):
    class Failing:
        def wake(self, source):
            raise KeyError("a fault of ours")

    made = pair()
    told(loop, made.link.readable.attend, Failing())
    made.theirs.send(b"x")
    assert is_quiet(loop) and told(loop, lambda: "serves") == "serves"
    assert "a fault of ours" in capfd.readouterr().err


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
