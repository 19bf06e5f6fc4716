"""Ends authors' code that nobody waits for any more: an exception is raised in its thread, between two of its steps.

A handler that computes without end would take turns with the relay for ever, and some dozens of them most of its time.
What waits in the kernel or in an extension is reached once it comes back; meanwhile it takes nothing from anybody.
"""

from __future__ import annotations

import functools
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds between two tries; code may catch whatever is raised in it, and go on
TRIES = 20  # then it is left alone


class Overdue(BaseException):
    """Raised in a handler that has not come back in time; nobody hears what it would answer."""


class Stay:
    """The time a thread spends in an author's code; it may be ended from outside only meanwhile."""

    thread: threading.Thread

    def __init__(self) -> None:
        # Guards the three below. Held while something is raised in the thread, so that it is still this one: the ident
        # of a thread that ended goes to the next one. CPython 3.9 may raise between the end of a `with` and the release
        # of its lock: the thread that has it then must still come by, so it is one that its owner can take again.
        self._lock = threading.RLock()
        self._is_over = False
        self._shelters = 0
        self._is_wanted = False  # as soon as it comes out of its last shelter

    def arrive(self) -> None:
        """This thread is about to enter the author's code."""
        _here.stay = self

    def leave(self) -> None:
        """The thread has come back from the author's code."""
        while not self._is_over:
            try:
                with self._lock:
                    self._is_over = True
            except Overdue:
                pass  # too late

    def take_shelter(self) -> None:
        with self._lock:
            self._shelters += 1

    def leave_shelter(self) -> None:
        """Raises: Overdue where its time has come meanwhile."""
        with self._lock:
            self._shelters -= 1
            is_due = self._is_wanted and not self._shelters
            self._is_wanted = self._is_wanted and not is_due
        if is_due:
            raise Overdue

    def evict(self) -> None:
        """Bring its end about, and wait for it; give up where that cannot be done."""
        pause = FIRST_PAUSE
        for _ in range(TRIES):
            if not self.thread.is_alive():
                return
            if self._lock.acquire(timeout=pause):
                self._is_wanted = self._shelters > 0
                if not self._is_over and not self._is_wanted:
                    _raise_in(self.thread)
                self._lock.release()
            self.thread.join(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


_here = threading.local()  # `stay`: that of this thread, in threads that serve authors' code


def sheltered(function: Function) -> Function:
    """Have `function` come to its end whoever calls it: half a change of what others share, or a lock that nobody
    gives back, must not be left behind.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        stay: Stay | None = getattr(_here, "stay", None)
        if stay is None:
            return function(*arguments, **options)
        stay.take_shelter()
        try:
            return function(*arguments, **options)
        finally:
            stay.leave_shelter()

    return call  # type: ignore[return-value]  # the same as far as its callers see


def _raise_in(thread: threading.Thread) -> None:
    try:
        import ctypes  # an image may have no libffi
    except ImportError:
        return
    # Through PyDLL, which keeps the interpreter's lock.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Overdue))
