"""Ends authors' code that nobody waits for any more: an exception is raised in its thread, between two of its steps.

A handler that computes without end would take turns with the relay for ever, and some dozens of them most of its time.
What waits in the kernel or in an extension is reached once it comes back; meanwhile it takes nothing from anybody.
"""

from __future__ import annotations

import sys
import threading
from itertools import groupby

from wrapper.cause import OWN_FOLDER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds between two tries; code may catch whatever is raised in it, and go on
TRIES = 20  # then it is left alone


class Overdue(BaseException):
    """Raised in a handler that has not come back in time; nobody hears what it would answer."""


class Stay:
    """The time a thread spends in an author's code; it may be ended from outside only meanwhile."""

    thread: threading.Thread

    def __init__(self) -> None:
        # Guards whether it is over. Held while something is raised in the thread, so that it is still this one: the
        # ident of a thread that ended goes to the next one.
        self._lock = threading.Lock()
        self._is_over = False

    def leave(self) -> None:
        """The thread has come back from the author's code."""
        while not self._is_over:
            try:
                with self._lock:
                    self._is_over = True
            except Overdue:
                pass  # too late

    def evict(self) -> None:
        """Bring its end about, and wait for it; give up where that cannot be done."""
        pause = FIRST_PAUSE
        for _ in range(TRIES):
            if not self.thread.is_alive():
                return
            with self._lock:
                if not self._is_over:
                    _raise_in(self.thread)
            self.thread.join(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


def _raise_in(thread: threading.Thread) -> None:
    """Not while it is in code of ours that the author called: half a transaction must not be left behind."""
    try:
        import ctypes  # an image may have no libffi
    except ImportError:
        return
    ident = thread.ident or 0
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc  # through PyDLL, which keeps the interpreter's lock
    overdue = ctypes.py_object(Overdue)
    if is_in_theirs(sys._current_frames().get(ident)):
        raise_in(ctypes.c_ulong(ident), overdue)


def is_in_theirs(frame: FrameType | None) -> bool:
    """True where a stack is, from its inner end: code of authors and libraries, ours that called it, `threading`."""
    kinds = []
    while frame is not None:
        kinds.append(frame.f_code.co_filename.startswith(OWN_FOLDER))
        frame = frame.f_back
    return [is_ours for is_ours, _ in groupby(kinds)] == [False, True, False]
