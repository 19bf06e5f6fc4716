"""One span of time, shared by the steps of one action."""

from __future__ import annotations

import time


class Deadline:
    """A moment on the monotonic clock; None seconds means never."""

    __slots__ = ("_end",)

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Seconds left, never below 0, or None without an end: what the `timeout` of a lock or an event takes."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def has_passed(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def sooner(self, seconds: float) -> float:
        """`seconds`, or what is left where that is less."""
        remaining = self.remaining()
        return seconds if remaining is None else min(seconds, remaining)
