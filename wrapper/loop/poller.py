"""Descriptors as the loop waits for them: one epoll, what stands at each descriptor, and what other threads post."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque

from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Protocol, Union

    class Waiter(Protocol):
        """What stands at a source: a task, or whatever is to be told once that it fired."""

        def wake(self, source: Source) -> None: ...

    Source = Union["Readiness", "Notice"]

BATCH = 64  # events and posted calls taken at a time: one by one they cost 15-40 % of the rate
URGENT_BATCH = 256  # urgent events taken in a turn: as many as its other events can lead to, and more

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT
ENDED = 0x2000  # EPOLLRDHUP of epoll_ctl(2), which CPython's select names on some platforms only
RESET = select.EPOLLERR
BROKEN = select.EPOLLHUP | RESET  # reported whatever was asked for
# What each kind of readiness is resumed for.
_READS, _WRITES, _ENDS = READABLE | ENDED | BROKEN, WRITABLE | BROKEN, ENDED | BROKEN


class Readiness:
    """One thing that can be waited for at a descriptor; `waiter` is who waits, None where nothing does."""

    __slots__ = ("link", "mask", "waiter")

    def __init__(self, link: Link, mask: int) -> None:
        self.link: Link | Closed = link
        self.mask = mask
        self.waiter: Waiter | None = None

    def attend(self, waiter: Waiter) -> bool:
        """Let `waiter` be told once; True where that is due already. Raises: ValueError for a closed descriptor."""
        self.waiter = waiter
        if self.mask & ~self.link.mask:
            self.link.listen_for(self.mask)
        return False


class Closed:
    """Stands for the link once that is closed: a readiness that kept it would leave a circle to the collector."""

    mask = 0

    def listen_for(self, mask: int) -> None:
        raise ValueError("the descriptor is closed")


CLOSED = Closed()


class Notice:
    """Something that happens once, in any thread; a task that waits for it later finds that it has."""

    __slots__ = ("_poller", "is_given", "waiter")

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self.is_given = False
        self.waiter: Waiter | None = None

    def give(self) -> None:
        """Give the notice; from any thread."""
        self._poller.post(self.give_now)

    def give_now(self) -> None:
        """Give the notice and resume who waits for it; in the loop's thread."""
        self.is_given = True
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.wake(self)

    def attend(self, waiter: Waiter) -> bool:
        self.waiter = waiter
        return self.is_given


class Link:
    """A descriptor that the loop watches until it is closed; three may wait at it: a reader, a writer, a watcher.

    What is urgent has its turn before each full batch: responses, and new connections. epoll tells in the order of what
    happened, so a crowd's requests would stand before the response that one of them waits for.
    It is registered once, level-triggered. Only when an event comes that nothing waits for is it left out, until
    something does again.
    """

    __slots__ = ("_epolls", "ended", "fd", "is_registered", "last_event", "mask", "poller", "readable", "turn",
                 "writable")

    def __init__(self, poller: Poller, fd: int, *, is_urgent: bool = False) -> None:
        """Raises: OSError (ENOSPC over fs.epoll.max_user_watches, ENOMEM)."""
        self.poller = poller
        self.fd = fd
        self.mask = READABLE | ENDED
        self.last_event = 0  # the newest of epoll's words about it
        self.turn = poller.turn  # what epoll has said in this turn was about an earlier owner of the number
        self.readable = Readiness(self, READABLE)
        self.writable = Readiness(self, WRITABLE)
        self.ended = Readiness(self, ENDED)
        self._epolls = (poller.epoll, poller.urgent) if is_urgent else (poller.epoll,)
        for epoll in self._epolls:
            epoll.register(fd, self.mask)
        self.is_registered = True
        poller.links[fd] = self

    def listen_for(self, mask: int) -> None:
        self.mask |= mask
        for epoll in self._epolls:
            (epoll.modify if self.is_registered else epoll.register)(self.fd, self.mask)
        self.is_registered = True

    def dispatch(self, event: int) -> None:
        """Tell those who wait for what has happened; from then on leave out what nothing waits for."""
        self.last_event = event
        readable = self.readable
        if event == READABLE and (waiter := readable.waiter) is not None:  # nearly all are of this kind
            readable.waiter = None
            waiter.wake(readable)
            return
        unheard = event
        for readiness, heard in ((readable, _READS), (self.writable, _WRITES), (self.ended, _ENDS)):
            if event & heard and (waiter := readiness.waiter) is not None:
                readiness.waiter = None
                unheard &= ~heard
                waiter.wake(readiness)
        if unheard and self.fd >= 0:
            self._mute(unheard)

    def _mute(self, unheard: int) -> None:
        self.mask &= ~unheard
        if unheard & BROKEN:  # cannot be left out
            self.mask = 0
            for epoll in self._epolls:
                epoll.unregister(self.fd)
            self.is_registered = False
        else:
            for epoll in self._epolls:
                epoll.modify(self.fd, self.mask)

    def close(self) -> None:
        """Before the descriptor is closed: the kernel forgets it then by itself."""
        if self.fd >= 0:
            self.poller.links.pop(self.fd, None)
            self.fd = -1
            self.readable.link = self.writable.link = self.ended.link = CLOSED


class Poller:
    """Two epolls, one for what is urgent alone, and their links. `now` is the monotonic clock as the turn begins."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.urgent = select.epoll()
        self.links: dict[int, Link] = {}
        self.turn = 0
        self.now = time.monotonic()
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._has_rung = False
        self._pipe, self._pipe_end = os.pipe()
        os.set_blocking(self._pipe, False)
        os.set_blocking(self._pipe_end, False)
        # Guards the pipe's write end and whether the poller is closed: the number may be reused after that.
        self._lock = threading.Lock()
        self._is_closed = False
        self.epoll.register(self._pipe, READABLE)

    def post(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have `call` called in the loop's thread soon; from any thread, returns at once."""
        self._posted.append((call, arguments))
        if self._has_rung:
            return
        with self._lock:
            if not self._is_closed:
                self._has_rung = True
                try:
                    os.write(self._pipe_end, b"!")
                except BlockingIOError:
                    pass  # it rings already

    def take_events(self, seconds: float) -> None:
        """Wait for events, -1 for as long as it takes, and dispatch them; then call what was posted."""
        events = self.epoll.poll(seconds, BATCH)
        self.now = time.monotonic()
        self.turn += 1
        if len(events) == BATCH:
            # First: the end of a kept connection, or rubbish on it, may be older than the request that would take it.
            self._dispatch(self.urgent.poll(0, URGENT_BATCH))
        self._dispatch(events)
        if self._posted:
            self._call_posted()

    def _dispatch(self, events: list[tuple[int, int]]) -> None:
        links, turn = self.links, self.turn
        for fd, event in events:
            link = links.get(fd)
            if link is None:
                self._hear(fd)
            elif link.turn != turn:
                link.turn = turn
                try:
                    link.dispatch(event)
                except Exception as error:  # noqa: BLE001  one fault must not end the thread, which serves all
                    log.error("the loop failed", cause=repr(error))

    def _hear(self, fd: int) -> None:
        """The self-pipe, or a late word about a descriptor that is closed."""
        if fd == self._pipe:
            self._has_rung = False  # first: what is posted from here on rings again
            os.read(self._pipe, 1)

    def _call_posted(self) -> None:
        for _ in range(min(BATCH, len(self._posted))):
            call, arguments = self._posted.popleft()
            try:
                call(*arguments)
            except Exception as error:  # noqa: BLE001  one fault must not end the thread, which serves all
                log.error("the loop failed", cause=repr(error))

    def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self.epoll.close()
            self.urgent.close()
            os.close(self._pipe)
            os.close(self._pipe_end)
