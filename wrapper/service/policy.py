"""How long things may take, and what follows an exit nobody asked for: nothing, or another start after a pause that
doubles."""

from __future__ import annotations

STEADY_SECONDS = 30.0  # of readiness after which the next pause is the first one again
JITTER = 0.1  # of the pause, so that replicas that fell together do not rise together


class Timeouts:
    """Seconds: to become ready, to drain, to stop."""

    def __init__(self, ready: float, drain: float, stop: float) -> None:
        self.ready = ready
        self.drain = drain
        self.stop = stop


class Policy:
    """`never`, `on-failure` or `always`, with the first and the longest pause in seconds."""

    def __init__(self, mode: str, backoff: tuple[float, float]) -> None:
        self._mode = mode
        self._first, self._longest = backoff
        self._pause = self._first

    def pause(self, exit_status: int, ready_seconds: float) -> float | None:
        """Seconds to wait before the next start, or None where there is none."""
        if self._mode == "never" or (self._mode == "on-failure" and exit_status == 0):
            return None
        if ready_seconds >= STEADY_SECONDS:
            self._pause = self._first
        import random  # start-up: 1 ms, and only what fell needs it

        pause, self._pause = self._pause, min(self._pause * 2, self._longest)
        return min(pause * (1 + random.uniform(-JITTER, JITTER)), self._longest)

    def reset(self) -> None:
        """A person or a change of configuration asked for the next start: begin again with the first pause."""
        self._pause = self._first
