"""Waiting for the service with an eye on the client, who may leave meanwhile."""

from __future__ import annotations

import select

from wrapper.stream import ClientGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Callable

    from wrapper.proxy.bell import Bell

LEAVE_TIMEOUT = 0.35  # seconds a client that has ended its side, but may only have half-closed, is given
_RDHUP = 0x2000  # POLLRDHUP of poll(2), which CPython's select names on some platforms only
_BROKEN = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Broken(Exception):
    """The answer broke after its head had gone out: all that is left is to cut the connection."""


class Rung(Exception):
    """Somebody rang the bell."""


def await_service(service: socket.socket, client: socket.socket, bell: Bell | None, seconds: float | None,
                  progress: Callable[[], int | None]) -> bool:
    """True when the service may have sent something; False when `seconds` passed without.

    `progress` is how much of an upload has come from the client, None when none is under way.

    Raises: ClientGone; Rung.
    """
    poll = select.poll()
    poll.register(service, select.POLLIN)
    poll.register(client, _RDHUP)
    if bell is not None:
        poll.register(bell, select.POLLIN)
    events = dict(poll.poll(None if seconds is None else seconds * 1000))
    if service.fileno() in events:
        return True
    if bell is not None and bell.fileno() in events:
        raise Rung
    if not events:
        return False
    if events[client.fileno()] & _BROKEN or _has_left(service, client, progress):
        raise ClientGone("the client left")
    return True


def _has_left(service: socket.socket, client: socket.socket, progress: Callable[[], int | None]) -> bool:
    """A client that ended its side may only have half-closed (`nc -N`): it gets a moment for a quick answer."""
    before = progress()
    poll = select.poll()
    poll.register(service, select.POLLIN)
    poll.register(client, 0)
    events = dict(poll.poll(LEAVE_TIMEOUT * 1000))
    if service.fileno() in events:
        return False
    after = progress()
    return bool(events) or after is None or after == before


def comes_within(service: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(service, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
