"""Nothing may block a loop: what does, is the failure of the test that ran.

A loop's thread that asks the disk, a name server or another process waits, and everybody with it; so does one that
computes for over 10 ms. Only its own time on a processor counts: that the machine is busy is no fault of the code.
"""

from __future__ import annotations

import codecs
import functools
import gc
import os
import resource
import sys
import threading
import time

from wrapper.front.own import SHORT_INTERVAL
from wrapper.loop.loop import Loop, Task

# Seconds of the processor that one task may take before the others have their turn.
LONGEST = float(os.environ.get("GUARD_LONGEST", "0.010"))
YARDSTICK = 80_000  # rounds of an empty loop
BLOCKING = frozenset((
    "open", "import", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
    "subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.listdir", "os.scandir",
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.link", "os.symlink",
    "os.utime", "fcntl.flock", "fcntl.lockf", "glob.glob", "tempfile.mkstemp", "tempfile.mkdtemp", "shutil.copyfile",
    "shutil.move", "shutil.rmtree", "urllib.Request", "http.client.connect", "sqlite3.connect",
))  # of sys.addaudithook's events, those behind which something is waited for
_IN_MEMORY = ("/proc/", "/dev/")


class Guard:
    """What has blocked a loop since it was last asked."""

    def __init__(self) -> None:
        self._offences: list[str] = []
        self._tell = lambda offence: self._offences.append(offence)  # noqa: PLW0108  the list changes
        self._threads: set[int] = set()
        self._local = threading.local()

    def install(self, tell=None) -> None:
        """Begin; `tell` is called with each offence, in place of their being kept."""
        self._tell = tell or self._tell
        codecs.lookup("ascii")  # loaded where the first loop begins, before it serves
        sys.addaudithook(self._hear)  # there is no way back
        time.sleep = self._heard(time.sleep)  # an event of its own since CPython 3.13 only
        gc.callbacks.append(self._collect)
        Loop.run = self._known(Loop.run)  # type: ignore[method-assign]
        Task.wake = self._timed(Task.wake)  # type: ignore[method-assign]
        Task.interrupt = self._timed(Task.interrupt)  # type: ignore[method-assign]

    def take(self) -> list[str]:
        """The offences so far, which are forgotten."""
        offences, self._offences = self._offences, []
        return offences

    def _known(self, run):
        @functools.wraps(run)
        def known(loop):
            number = threading.get_ident()
            self._threads.add(number)
            try:
                run(loop)
            finally:
                self._threads.discard(number)

        return known

    def _hear(self, event, arguments):
        if event in BLOCKING and threading.get_ident() in self._threads and not _is_in_memory(event, arguments):
            self._tell(f"{event}{arguments!r:.200} {_place()}")

    def _heard(self, sleep):
        @functools.wraps(sleep)
        def heard(seconds):
            if threading.get_ident() in self._threads:
                self._tell(f"time.sleep({seconds!r}) {_place()}")
            return sleep(seconds)

        return heard

    def _timed(self, step):
        @functools.wraps(step)
        def timed(task, word):
            local = self._local
            if getattr(local, "is_within", False) or threading.get_ident() not in self._threads:
                return step(task, word)
            local.is_within, local.collecting, local.preemptions = True, 0.0, _preemptions()
            began = time.thread_time()
            try:
                return step(task, word)
            finally:
                spent = time.thread_time() - began - local.collecting
                local.is_within = False
                if spent > LONGEST and not _is_hurried() and spent > _allowed():
                    self._tell(f"{task.name} took {spent * 1000:.1f} ms of the processor in one go, "
                               f"{_stand(task)}, woken with {word!r:.100}")

        return timed

    def was_preempted(self):
        """True where another process had this thread's processor since the present step began."""
        return getattr(self._local, "preemptions", None) not in (None, _preemptions())

    def _collect(self, phase, info):
        """The heap that is gone through is the tests' for the most part."""
        local = self._local
        if getattr(local, "is_within", False):
            now = time.thread_time()
            if phase == "start":
                local.collection_began = now
            else:
                local.collecting += now - getattr(local, "collection_began", now)


def _is_hurried():
    """True where the wait for the interpreter costs the processor as computing does, and cannot be told from it.

    That is beside a sidecar's long call, which shortens the switch interval to 10 us.
    """
    return sys.getswitchinterval() < 2 * SHORT_INTERVAL


def _allowed():
    """What LONGEST comes to in this thread at this moment: a busy machine, or an older Python, makes all work dearer.

    The loop below takes a fifth of it where nothing else runs, on the machine that the bound was chosen on. A step that
    was preempted gets twice as much: it finds the caches cold, and the kernel's work for others is put down to it.
    """
    began = time.thread_time()
    for _ in range(YARDSTICK):
        pass
    longest = max(LONGEST, 5 * (time.thread_time() - began) * LONGEST / 0.010)
    return 2 * longest if guard.was_preempted() else longest


def _preemptions():
    """How often this thread had to leave the processor to another one (getrusage(2))."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _is_in_memory(event, arguments):
    return event == "open" and str(arguments[0]).startswith(_IN_MEMORY)


def _place():
    """The road to the offence: without a look at the sources, which would be one too."""
    frame, places = sys._getframe(1), []
    while frame is not None and len(places) < 12:
        path = frame.f_code.co_filename
        if ("/wrapper/" in path or "/tests/" in path) and path != __file__:
            places.append(f"{path.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(places)


def _stand(task):
    """Where the task stands by now."""
    steps, places = task.steps, []
    while getattr(steps, "gi_frame", None) is not None:
        code = steps.gi_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{steps.gi_frame.f_lineno} {code.co_name}")
        steps = steps.gi_yieldfrom
    return "now at " + " > ".join(places) if places else "and has ended"


guard = Guard()
