"""Waiting for a few descriptors at a time, where a thread may sit and wait."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class HasFileno(Protocol):
        def fileno(self) -> int: ...

READABLE, WRITABLE = select.POLLIN, select.POLLOUT
# Its end has been closed by the other side: POLLRDHUP of poll(2), EPOLLRDHUP of epoll_ctl(2), which CPython's select
# names on some platforms only.
ENDED = 0x2000
BROKEN = select.POLLHUP | select.POLLERR | select.POLLNVAL  # reported whatever was asked for
_TIMEOUT_MAX = 2**31 - 1  # milliseconds; poll(2) takes an int


def ready(seconds: float | None, *asked: tuple[HasFileno | int, int]) -> dict[int, int]:
    """What has happened to whom within `seconds`, by descriptor; None waits as long as it takes, {} where nothing has.

    Raises: ValueError for what is closed.
    """
    poll = select.poll()
    for source, event in asked:
        poll.register(source, event)
    return dict(poll.poll(None if seconds is None else min(seconds * 1000, _TIMEOUT_MAX)))
