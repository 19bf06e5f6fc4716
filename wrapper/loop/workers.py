"""Threads for what may block: made when they are needed, kept for a while, never more than so many."""

from __future__ import annotations

import queue
import resource
import threading

from wrapper import threads
from wrapper.log import log
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# Where the kernel says how many processes, threads among them, a container may have: cgroup v2 and v1.
PIDS_MAX = ("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max")
SHARE = 4  # of such a limit: the rest is for the service, ctl and health, and `docker exec`, which takes some ten
FEWEST = 4  # threads, whatever the limit is
IDLE_TIMEOUT = 10.0  # seconds a thread without a job stays


class Workers:
    """At most `most` threads; `kept` of them are there from `start` on and stay, whatever limits are reached."""

    def __init__(self, name: str, most: int, kept: int = 0) -> None:
        self._name = name
        self._most = most
        self._kept = kept
        # Guards the three below: how many threads there are, how many of them streams have, and the inboxes of those
        # without a job, the last one on top.
        self._lock = threading.Lock()
        self.count = 0
        self._streams = 0
        self._idle: list[queue.SimpleQueue[Callable[[], object] | None]] = []

    def start(self) -> None:
        """Raises: NoThread."""
        for _ in range(self._kept):
            self.submit(bool, is_new=True)

    def begin_stream(self) -> bool:
        """True where a stream may have this thread for as long as its client likes: half of all are for other jobs."""
        with self._lock:
            if self._streams >= self._most // 2:
                return False
            self._streams += 1
            return True

    def end_stream(self) -> None:
        with self._lock:
            self._streams -= 1

    def submit(self, job: Callable[[], object], *, is_new: bool = False) -> None:
        """Have `job` run by a thread soon. Raises: NoThread."""
        with self._lock:
            if self._idle and not is_new:
                self._idle.pop().put(job)
                return
            if self.count >= self._most:
                raise NoThread(f"{self._most} threads are busy already")
            self.count += 1
        try:
            threads.start(self._name, self._work, job)
        except NoThread:
            with self._lock:
                self.count -= 1
            raise

    def stop(self) -> None:
        """End those without a job; the others end after theirs."""
        with self._lock:
            self._kept, self._most = 0, 0
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)

    def _work(self, first: Callable[[], object]) -> None:
        inbox: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        job: Callable[[], object] | None = first
        while job is not None:
            try:
                job()
            except BaseException as error:  # noqa: BLE001  sys.exit() too: the thread goes on with the next
                log.error("a worker failed", cause=repr(error))
            job = self._next(inbox)
        with self._lock:
            self.count -= 1

    def _next(self, inbox: queue.SimpleQueue[Callable[[], object] | None]) -> Callable[[], object] | None:
        """The next job; None where the thread is to end."""
        with self._lock:
            if not self._most:
                return None
            self._idle.append(inbox)
        while True:
            try:
                return inbox.get(timeout=IDLE_TIMEOUT)
            except queue.Empty:
                with self._lock:
                    if inbox not in self._idle:
                        continue  # a job was put there this very moment
                    if self.count > self._kept:
                        self._idle.remove(inbox)
                        return None


def share(most: int) -> int:
    """How many threads of `most` there may be beside all else under the container's limit on processes."""
    limits = [resource.getrlimit(resource.RLIMIT_NPROC)[0]]
    for path in PIDS_MAX:
        try:
            with open(path, encoding="ascii") as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):
            pass  # there is none: "max", another cgroup, another kernel
    return min([most, *(max(limit // SHARE, FEWEST) for limit in limits if limit != resource.RLIM_INFINITY)])
