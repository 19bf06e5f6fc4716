"""Which zombies no code waits for, and when they are collected.

An orphan comes to the main thread of PID 1 or a subreaper (kernel/exit.c, find_new_reaper), and so does what a thread
of ours that ended had started; what a living thread has started stays with that. So only the main thread's processes
are looked at, and a while passes for those that sidecar code may still ask for.
"""

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
    """Made before anything is started: what is there already came over exec, from a script that became the wrapper."""

    def __init__(self) -> None:
        self._inherited = set(adopted())
        self._since: dict[int, float] = {}  # when a zombie was first seen
        self._next_look = 0.0

    def look(self, awaited: Collection[int]) -> float | None:
        """Collect what no code waits for; seconds until the next look is due, None where an ended process makes it so.

        `awaited`: pids that have code that waits for them.
        """
        now = time.monotonic()
        if now < self._next_look <= now + FOREIGN_GRACE:
            return self._next_look - now  # many end together: the look that is due is soon enough
        try:
            seen = {pid: self._since.get(pid, now) for pid in adopted() if pid not in awaited and _is_zombie(pid)}
        except OSError:  # no descriptor to be had for a look: zombies keep, and the service must not pay for it
            self._next_look = now + FOREIGN_GRACE
            return FOREIGN_GRACE
        due = {pid: since + self._grace(pid) for pid, since in seen.items()}
        for pid in [pid for pid in due if due[pid] <= now]:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            self._inherited.discard(pid)
            del seen[pid], due[pid]
        self._since = seen
        self._next_look = min(due.values(), default=0.0)
        return self._next_look - now if due else None

    def _grace(self, pid: int) -> float:
        if pid in self._inherited:
            return 0.0
        try:
            return OWN_GRACE if os.getpgid(pid) == os.getpgrp() else FOREIGN_GRACE
        except ProcessLookupError:
            return OWN_GRACE  # it has just been collected


def adopted() -> list[int]:
    """The processes of the main thread; all of ours where the kernel keeps no lists (CONFIG_PROC_CHILDREN)."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return [pid for pid, known in procfs.processes().items() if known.parent == os.getpid()]


def _is_zombie(pid: int) -> bool:
    known = procfs.stat(pid)
    return known is not None and known.state == "Z"
