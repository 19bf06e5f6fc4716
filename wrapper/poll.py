"""Waiting for a descriptor, where a thread may sit and wait."""

from __future__ import annotations

import select

READABLE, WRITABLE = select.POLLIN, select.POLLOUT
TIMEOUT_MAX = 2**31 - 1  # milliseconds; poll(2) takes an int


def is_ready(descriptor: int, event: int, seconds: float | None = None) -> bool:
    """Whether it is, or was broken, within `seconds`; None waits as long as it takes."""
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(None if seconds is None else min(seconds * 1000, TIMEOUT_MAX)))
