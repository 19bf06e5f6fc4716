"""The orphans that come to the wrapper as PID 1 or as a subreaper: which are collected, and when."""

from __future__ import annotations

import contextlib
import os
import time

from wrapper.service import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

# Seconds a zombie is left to the code that may have started it. What a service leaves behind is never in our group.
FOREIGN_GRACE, OWN_GRACE = 0.25, 60.0


class Reaper:
    """Which zombies no code waits for, and when they are collected.

    An orphan comes to the main thread of PID 1 or a subreaper (kernel/exit.c, find_new_reaper), and so does what a
    thread of ours that ended had started; what a living thread has started stays with that. So only the main thread's
    processes are looked at, and a while passes for those that sidecar code may still ask for. Made before anything is
    started: what is there already came over exec, from a script that became the wrapper.
    """

    def __init__(self) -> None:
        self._inherited = set(procfs.adopted())
        self._since: dict[int, float] = {}  # when a zombie was first seen
        self._next_reap = 0.0

    def reap(self, awaited: Collection[int]) -> float | None:
        """Collect the zombies that no code waits for; returns the seconds until the next call is due, None for not
        before another process ends.

        `awaited`: pids that have code that waits for them.
        """
        now = time.monotonic()
        if now < self._next_reap <= now + FOREIGN_GRACE:
            return self._next_reap - now  # many end together: the call that is due is soon enough
        try:
            zombies = [pid for pid in procfs.adopted() if pid not in awaited and procfs.stat(pid).state == "Z"]
        except OSError:  # no descriptor to be had: zombies keep, and the service must not pay for it
            self._next_reap = now + FOREIGN_GRACE
            return FOREIGN_GRACE
        seen = {pid: self._since.get(pid, now) for pid in zombies}
        due = {pid: since + self._grace(pid) for pid, since in seen.items()}
        for pid in [pid for pid in due if due[pid] <= now]:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            self._inherited.discard(pid)
            del seen[pid], due[pid]
        self._since = seen
        self._next_reap = min(due.values(), default=0.0)
        return self._next_reap - now if due else None

    def _grace(self, pid: int) -> float:
        if pid in self._inherited:
            return 0.0
        try:
            return OWN_GRACE if os.getpgid(pid) == os.getpgrp() else FOREIGN_GRACE
        except ProcessLookupError:
            return OWN_GRACE  # it has just been collected
