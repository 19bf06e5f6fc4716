"""What the controller was asked to do: one action at a time, restarts remembered once, conflicts refused at once."""

from __future__ import annotations

import threading
from collections import deque

from wrapper.errors import Busy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.address import Address
    from wrapper.service.process import Process

    Reload = Callable[[Process, Address], "str | None"]

# An action that finds another one under way: it joins its like, waits behind it, or is refused.
# Changes of configuration come in bursts: a restart or reload always fits behind a start, a restart or a reload.
FITS_BEHIND = {
    "start": frozenset[str](),
    "stop": frozenset[str](),
    "restart": frozenset({"start", "restart", "reload"}),
    "reload": frozenset({"start", "restart", "reload"}),
}


class Ticket:
    """An action that was asked for. After its end `error` says what went wrong; None when nothing did.

    A tentative action leaves the next step to whoever asked, even where it ended the service: see `Controller`.
    `reload`: how to do this one reload; `ready_timeout`: seconds to become ready. None: as the service always does.
    """

    def __init__(self, kind: str, reason: str, tentative: bool = False, reload: Reload | None = None,
                 ready_timeout: float | None = None) -> None:
        self.kind = kind
        self.reason = reason
        self.tentative = tentative
        self.reload = reload
        self.ready_timeout = ready_timeout
        self.error: str | None = None
        self._done = threading.Event()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def does_what(self, other: Ticket) -> bool:
        """True where the end of this action is as good an answer to whoever asked for the other."""
        return (self.kind, self.tentative, self.reload, self.ready_timeout) == (
            other.kind, other.tentative, other.reload, other.ready_timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """True where the action ended well within `timeout` seconds."""
        return self._done.wait(timeout) and self.error is None

    def end(self, error: str | None) -> None:
        self.error = error
        self._done.set()


class Agenda:
    """The tickets of one controller, in order. The first is the one under way once it was taken."""

    def __init__(self) -> None:
        # Guards the tickets; held for a look only.
        self._lock = threading.Lock()
        self._tickets: deque[Ticket] = deque()
        self._is_under_way = False
        self._has_come_out = False  # what is under way has had its effect, and only its end is missing
        self._closed: str | None = None

    def ask(self, kind: str, reason: str, tentative: bool = False, reload: Reload | None = None,
            ready_timeout: float | None = None) -> tuple[Ticket, bool]:
        """The ticket for an action, and whether it is a new one.

        Raises: Busy where another action is under way that this one contradicts.
        """
        with self._lock:
            if self._closed is not None:
                raise Busy(self._closed)
            ticket = Ticket(kind, reason, tentative, reload, ready_timeout)
            standing = list(self._tickets)[self._has_come_out:]
            for other in standing:
                if self._does_for(other, ticket):
                    return other, False
            for other in standing:
                if other.kind not in FITS_BEHIND[kind]:
                    raise Busy(f"cannot {kind}: a {other.kind} is under way ({other.reason})")
            self._tickets.append(ticket)
            return ticket, True

    def come_out(self) -> None:
        """Let what is under way stand in nobody's way any more: whoever sees what came of it may be quicker than we."""
        with self._lock:
            self._has_come_out = self._is_under_way

    def _does_for(self, ticket: Ticket, asked: Ticket) -> bool:
        """True where a ticket will do all that is asked: for restarts and reloads one that has not begun yet."""
        assert self._lock.locked()
        has_begun = self._is_under_way and ticket is self._tickets[0]
        return ticket.does_what(asked) and (not has_begun or asked.kind in ("start", "stop"))

    def begin(self, ticket: Ticket) -> Ticket:
        """Have an action under way that nobody asked for: the first start."""
        with self._lock:
            assert not self._tickets
            self._tickets.append(ticket)
            self._is_under_way = True
        return ticket

    def take(self) -> Ticket | None:
        """The next action, under way from now on."""
        with self._lock:
            if not self._tickets or self._is_under_way:
                return None
            self._is_under_way = True
            return self._tickets[0]

    def finish(self, ticket: Ticket, error: str | None) -> None:
        with self._lock:
            self._tickets.remove(ticket)
            self._is_under_way = self._has_come_out = False
        ticket.end(error)

    @property
    def is_empty(self) -> bool:
        return not self._tickets

    def close(self, reason: str) -> None:
        """Take nothing more, and end what has not begun."""
        with self._lock:
            self._closed = reason
            first = 1 if self._is_under_way else 0
            dropped = list(self._tickets)[first:]
            for ticket in dropped:
                self._tickets.remove(ticket)
        for ticket in dropped:
            ticket.end(reason)
