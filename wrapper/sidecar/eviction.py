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


def evict(thread: threading.Thread) -> None:
    """Wait for the end of `thread`, whose code takes too long, and bring it about where that can be done."""
    pause = FIRST_PAUSE
    for _ in range(TRIES):
        if not thread.is_alive():
            return
        _raise_in(thread)
        thread.join(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
    thread.join()


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
