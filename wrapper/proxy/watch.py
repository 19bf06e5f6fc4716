"""Waiting for the service with an eye on the client, who may leave meanwhile."""

from __future__ import annotations

from wrapper.poll import BROKEN, ENDED, READABLE, ready
from wrapper.stream import ClientGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Callable

    from wrapper.proxy.bell import Bell

LEAVE_TIMEOUT = 0.35  # seconds a client that has ended its side, but may only have half-closed, is given


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
    asked = ((service, READABLE), (client, ENDED))
    events = ready(seconds, *asked) if bell is None else ready(seconds, *asked, (bell, READABLE))
    if service.fileno() in events:
        return True
    if bell is not None and bell.fileno() in events:
        raise Rung
    if not events:
        return False
    if events[client.fileno()] & BROKEN or _has_left(service, client, progress):
        raise ClientGone("the client left")
    return True


def _has_left(service: socket.socket, client: socket.socket, progress: Callable[[], int | None]) -> bool:
    """A client that ended its side may only have half-closed (`nc -N`): it gets a moment for a quick answer."""
    before = progress()
    events = ready(LEAVE_TIMEOUT, (service, READABLE), (client, 0))
    if service.fileno() in events:
        return False
    after = progress()
    return bool(events) or after is None or after == before


def comes_within(service: socket.socket, seconds: float) -> bool:
    return bool(ready(seconds, (service, READABLE)))
