"""How a test has its way with a loop that runs in a thread of its own."""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
import threading

from wrapper.loop.loop import NEVER, Outcome
from wrapper.loop.poller import Link, Notice
from wrapper.loop.stream import Stream

PATIENCE = 10.0  # seconds after which a test says that what it waits for will not come


class Told:
    """What `call` returned in the loop's thread, as soon as it has."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self._done = threading.Event()

    def of(self, call):
        self.outcome.of(call)
        self._done.set()

    def get(self):
        assert self._done.wait(PATIENCE), "the loop does not answer"
        return self.outcome.get()


def told(loop, call=bool, *arguments):
    """What `call` returns in the loop's thread."""
    answer = Told()
    loop.post(answer.of, lambda: call(*arguments))
    return answer.get()


def settle(loop):
    """Return once the loop has seen what has happened so far, and what came of that."""
    for _ in range(4):
        told(loop)


def begin(loop, steps):
    """A task on the loop, and what will become of it."""
    answer = Told()

    def run():
        outcome = yield from outcome_of(steps)
        answer.of(outcome.get)
        return outcome.get()

    return loop.spawn(run(), "a test"), answer


def done(loop, steps):
    """What a task on the loop returns or raises."""
    return begin(loop, outcome_of(steps))[1].get().get()


def outcome_of(steps):
    """What `steps` returned or raised, as one that can be handed on."""
    outcome = Outcome()
    try:
        value = yield from steps
    except BaseException:  # noqa: BLE001  the test is to see it
        outcome.of(functools.partial(fail, sys.exc_info()[1]))
    else:
        outcome.of(lambda: value)
    return outcome


def fail(error):
    raise error


@contextlib.contextmanager
def held(loop):
    """The loop takes no turn meanwhile; what happens comes to it in one turn."""
    is_held, go_on = threading.Event(), threading.Event()

    def hold():
        is_held.set()
        assert go_on.wait(PATIENCE)

    loop.post(hold)
    assert is_held.wait(PATIENCE)
    try:
        yield
    finally:
        go_on.set()


class Pair:
    """Two connected sockets, the first of them watched by the loop."""

    def __init__(self, loop, *, is_urgent=False):
        self.loop = loop
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.settimeout(PATIENCE)
        self.link = told(loop, lambda: Link(loop, self.ours.fileno(), is_urgent=is_urgent))

    def close(self):
        told(self.loop, self.link.close)
        self.ours.close()
        self.theirs.close()


class End:
    """A stream on the loop that breaks as `gone`, and the other end of its connection, `theirs`."""

    def __init__(self, loop, gone):
        self.loop = loop
        ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(PATIENCE)
        self.stream = told(loop, Stream, ours, loop, gone)

    def tell(self, call, *arguments):
        return told(self.loop, call, *arguments)

    def begin(self, steps):
        answer = begin(self.loop, steps)[1]
        settle(self.loop)
        return answer

    def take(self, count):
        """So many bytes from the other end."""
        data = b""
        while len(data) < count:
            piece = self.theirs.recv(65536)
            assert piece, "it ended early"
            data += piece
        return data

    def close(self):
        self.tell(self.stream.close)
        self.theirs.close()


class Interrupt(Exception):
    pass


def waiting_once(loop):
    yield NEVER, Notice(loop)


def waiting(wait, seen):
    """Steps that wait again and again, as `wait()` says, and note what they were resumed with."""
    while True:
        try:
            seen.append((yield wait()))
        except Interrupt as error:
            seen.append(error)
