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
        # Guards the two below. Held while something is raised in the thread, so that it is still this one: the ident of
        # a thread that ended goes to the next one.
        self._lock = threading.Lock()
        self._is_over = False
        self._shelters = 0

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

    def shelter(self, change: int) -> None:
        with self._lock:
            self._shelters += change

    def evict(self) -> None:
        """Bring its end about, and wait for it; give up where that cannot be done."""
        pause = FIRST_PAUSE
        for _ in range(TRIES):
            if not self.thread.is_alive():
                return
            with self._lock:
                if not self._is_over and not self._shelters:
                    _raise_in(self.thread)
            self.thread.join(pause)
            pause = min(pause * 2, LONGEST_PAUSE)


_here = threading.local()  # `stay`: that of this thread, in threads that serve authors' code


def sheltered(function: Function) -> Function:
    """Have `function` come to its end whoever calls it: half a change of the service must not be left behind."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        stay: Stay | None = getattr(_here, "stay", None)
        if stay is None:
            return function(*arguments, **options)
        stay.shelter(+1)
        try:
            return function(*arguments, **options)
        finally:
            stay.shelter(-1)

    return call  # type: ignore[return-value]  # the same as far as its callers see


def _raise_in(thread: threading.Thread) -> None:
    try:
        import ctypes  # an image may have no libffi
    except ImportError:
        return
    # Through PyDLL, which keeps the interpreter's lock.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Overdue))
