"""The jobs of one controller: one runs at a time, a new one merges with its like, waits behind it, or conflicts.

As systemd's queue does with the job mode "fail" (systemctl(1), --job-mode).
"""

from __future__ import annotations

import threading

from wrapper.errors import Busy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.service.process import Process
    from wrapper.settings.address import Address

    ReloadAction = Callable[[Process, Address], "str | None"]

# Changes of configuration come in bursts, so these wait behind a start and behind each other; all else conflicts.
PATIENT = frozenset({"restart", "reload", "barrier"})


class Job:
    """One action: "start", "stop", "restart", "reload", or "barrier", which only waits for its turn and a service.

    `reload`: how to do this one reload; `ready_timeout`: seconds to become ready. None: as the service always does.
    """

    def __init__(self, kind: str, reason: str, reload: ReloadAction | None = None,
                 ready_timeout: float | None = None) -> None:
        self.kind = kind
        self.reason = reason
        self.reload = reload
        self.ready_timeout = ready_timeout
        self.error: str | None = None  # what went wrong, once it is done
        self.has_started_run = False  # a new run of the service was spawned for it
        self._done = threading.Event()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """True where the job ended well within `timeout` seconds."""
        return self._done.wait(timeout) and self.error is None

    def end(self, error: str | None) -> None:
        self.error = error
        self._done.set()

    def is_like(self, other: Job) -> bool:
        """True where this job does all that the other asks for."""
        return (self.kind, self.reload, self.ready_timeout) == (other.kind, other.reload, other.ready_timeout)


class JobQueue:
    """Jobs in order. One is running from when it is taken until it is finished, or its outcome can be seen."""

    def __init__(self) -> None:
        # Guards what follows.
        self._lock = threading.Lock()
        self.running: Job | None = None
        self.waiting: list[Job] = []
        self._closed: str | None = None

    def ask(self, job: Job) -> Job:
        """Queue a job; returns it, or the unfinished one that does all of it.

        Raises: Busy where it conflicts with an unfinished one.
        """
        with self._lock:
            if self._closed is not None:
                raise Busy(self._closed)
            for other in self._unfinished:
                # A restart or reload that runs may be too early.
                if other.is_like(job) and (other is not self.running or other.kind in ("start", "stop")):
                    return other
            for other in self._unfinished:
                if job.kind not in PATIENT or other.kind == "stop":
                    raise Busy(f"cannot {job.kind}: a {other.kind} is under way ({other.reason})")
            self.waiting.append(job)
            return job

    @property
    def _unfinished(self) -> list[Job]:
        assert self._lock.locked()
        return self.waiting if self.running is None else [self.running, *self.waiting]

    def take(self) -> Job | None:
        """The next job, which runs from now on; None where there is none or one runs already."""
        with self._lock:
            if self.waiting and self.running is None:
                self.running = self.waiting.pop(0)
                return self.running
            return None

    def settle(self) -> None:
        """Let the running job conflict with nothing more: a caller that sees its outcome may ask for the next."""
        with self._lock:
            self.running = None

    def finish(self, job: Job, error: str | None) -> None:
        """The job that ran is over; `error` says what went wrong."""
        self.settle()
        job.end(error)

    def close(self, reason: str) -> None:
        """Take nothing more, and end with `reason` what does not run yet."""
        with self._lock:
            self._closed = reason
            dropped, self.waiting = self.waiting, []
        for job in dropped:
            job.end(reason)
