"""The restart policy: what follows an exit of the service that was not asked for."""

from __future__ import annotations

import threading
import time

from wrapper.service.process import NEVER

STEADY_SECONDS = 30.0  # of readiness after which the next pause is the first one again
JITTER = 0.1  # of the pause, so that replicas that fell together do not rise together


class RestartPolicy:
    """`never`, `on-failure` or `always`, with a first and a longest pause in seconds; the pause doubles.

    While a change of configuration is on trial, an exit waits for the trial's end before it is decided: the change may
    be undone and the service started again.
    """

    def __init__(self, mode: str, backoff: tuple[float, float]) -> None:
        self._mode = mode
        self._first, self._longest = backoff
        # Guards what follows: the controller's thread and the one that tries a configuration both write it.
        self._lock = threading.Lock()
        self._pause = self._first
        self.is_on_trial = False
        self.undecided: int | None = None  # the exit status of what fell on trial, to be decided behind it
        self.next_start = NEVER  # on the monotonic clock
        self.final_status: int | None = None  # the exit status of what is not started again; None while there is hope

    def begin_trial(self) -> None:
        with self._lock:
            self.is_on_trial = True

    def end_trial(self) -> None:
        with self._lock:
            self.is_on_trial = False

    def forget(self) -> None:
        """The service is started or stopped: an earlier exit needs no decision any more."""
        with self._lock:
            self.undecided = self.final_status = None
            self.next_start = NEVER

    def reset(self) -> None:
        """As `forget`, where an operator asked for it: the pauses begin again with the first one."""
        self.forget()
        with self._lock:
            self._pause = self._first

    def record_exit(self, exit_status: int, ready_seconds: float) -> float | None:
        """Seconds until the next start after an exit; None where there is none, or where a trial's end decides that."""
        with self._lock:
            self.undecided = exit_status if self.is_on_trial else None
            if self.is_on_trial:
                return None
            if self._mode == "never" or (self._mode == "on-failure" and exit_status == 0):
                self.final_status = exit_status
                return None
            return self._schedule(ready_seconds)

    def schedule(self, ready_seconds: float) -> float:
        """Seconds until the next start where the policy has no say: 0 for a service that has been steady."""
        with self._lock:
            if ready_seconds < STEADY_SECONDS:
                return self._schedule(ready_seconds)
            self._pause, self.next_start = self._first, time.monotonic()
            return 0.0

    def _schedule(self, ready_seconds: float) -> float:
        assert self._lock.locked()
        if ready_seconds >= STEADY_SECONDS:
            self._pause = self._first
        import random  # start-up: 1 ms, and only what fell needs it

        pause, self._pause = self._pause, min(self._pause * 2, self._longest)
        pause = min(pause * (1 + random.uniform(-JITTER, JITTER)), self._longest)
        self.next_start = time.monotonic() + pause
        return pause
