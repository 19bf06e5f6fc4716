"""The jobs of one controller: one runs at a time, a new one merges with its like, waits behind it, or conflicts.

As systemd's queue does with the job mode "fail" (systemctl(1), --job-mode).
"""

from __future__ import annotations

import threading

from wrapper.errors import Busy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.settings.address import Address
    from wrapper.service.process import Process

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
        self.is_running = False
        self.is_settled = False  # its outcome can be seen, and only its end is missing
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

    def covers(self, other: Job) -> bool:
        """True where this job does all that the other asks for; a restart or reload that runs may be too early."""
        is_same = (self.kind, self.reload, self.ready_timeout) == (other.kind, other.reload, other.ready_timeout)
        return is_same and (not self.is_running or self.kind in ("start", "stop"))


class JobQueue:
    """Jobs in order; the first is the one that runs once it was taken."""

    def __init__(self) -> None:
        # Guards the jobs, and which of them runs or is settled.
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        self._closed: str | None = None

    def ask(self, job: Job) -> Job:
        """Queue a job; returns it, or the unfinished one that covers it.

        Raises: Busy where it conflicts with an unfinished one.
        """
        with self._lock:
            if self._closed is not None:
                raise Busy(self._closed)
            unsettled = [other for other in self._jobs if not other.is_settled]
            for other in unsettled:
                if other.covers(job):
                    return other
            for other in unsettled:
                if job.kind not in PATIENT or other.kind == "stop":
                    raise Busy(f"cannot {job.kind}: a {other.kind} is under way ({other.reason})")
            self._jobs.append(job)
            return job

    def take(self) -> Job | None:
        """The next job, which runs from now on; None where there is none or one runs already."""
        with self._lock:
            if not self._jobs or self._jobs[0].is_running:
                return None
            self._jobs[0].is_running = True
            return self._jobs[0]

    def settle(self) -> None:
        """Let the running job conflict with nothing more: a caller that sees its outcome may ask for the next."""
        with self._lock:
            if self._jobs and self._jobs[0].is_running:
                self._jobs[0].is_settled = True

    def finish(self, job: Job) -> None:
        """Take the running job off; its `error` says how it went."""
        with self._lock:
            self._jobs.remove(job)
        job.end(job.error)

    @property
    def is_empty(self) -> bool:
        return not self._jobs

    def close(self, reason: str) -> None:
        """Take nothing more, and end with `reason` what does not run yet."""
        with self._lock:
            self._closed = reason
            dropped = [job for job in self._jobs if not job.is_running]
            self._jobs = [job for job in self._jobs if job.is_running]
        for job in dropped:
            job.end(reason)
