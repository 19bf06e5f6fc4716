"""What went wrong in authors' code: all of it is for the log, and for strangers only its kind and place.

What an exception says may hold what the author's code was called with, passwords in URLs among it.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import threading
import traceback

from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OWN_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
IMPORTER = ("<frozen importlib", os.path.dirname(importlib.__file__) + os.sep)
# Raised by an import, their messages name modules, files and lines, as its author must know them.
HARMLESS = (ImportError, SyntaxError, FileNotFoundError)
CAUSES_MAX = 10  # of one error that are told


def tell(what: str, error: BaseException, is_import: bool = False, **facts: Any) -> str:
    """Log that `what` failed, with all there is to know; returns what strangers may read of it."""
    log.error(f"{what} failed", **facts, cause=shown(error), traceback=_traceback(error, is_import))
    cause = str(error) if is_import and isinstance(error, HARMLESS) else type(error).__name__ + _place(error)
    return f"{what} failed: {cause}; the traceback is in the log"


def shown(error: BaseException) -> str:
    """`repr(error)`, which is authors' code too."""
    try:
        return repr(error)
    except BaseException:  # noqa: BLE001  the one that is to be told counts, not this one
        return type(error).__name__


# Guards the collector's being off in between.
_looking = threading.Lock()


def stack_of(thread: threading.Thread) -> str:
    """The stack of a thread, as text.

    Without the collector: CPython up to 3.11 keeps a lock meanwhile that the end of a `threading.local` waits for, and
    the whole interpreter with it.
    """
    with _looking:
        was_on = gc.isenabled()
        gc.disable()
        try:
            frame = sys._current_frames().get(thread.ident or 0)
        finally:
            if was_on:
                gc.enable()
    return "".join(traceback.format_stack(frame)) if frame is not None else "it has just ended"


def _frames(error: BaseException, is_import: bool = False) -> list[traceback.FrameSummary]:
    """Where it went wrong, from the author's first line on: what is above it is the wrapper's and importlib's.

    All of it where no line is the author's, but for an import that finds nothing to run: that says nothing.
    """
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [number for number, frame in enumerate(frames)
              if not frame.filename.startswith((OWN_FOLDER, *IMPORTER))]
    if not theirs and is_import and isinstance(error, HARMLESS):
        return []
    return frames[theirs[0]:theirs[-1] + 1] if theirs else list(frames)


def _place(error: BaseException) -> str:
    frames = _frames(error)
    return f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _traceback(error: BaseException, is_import: bool) -> str:
    return "because of: ".join(
        "".join(traceback.format_list(_frames(one, is_import)) + traceback.format_exception_only(type(one), one))
        for one in _chain(error))


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error, its cause, the cause of that and so on; `raise error from error` makes one its own cause."""
    chain: list[BaseException] = []
    while error is not None and len(chain) < CAUSES_MAX and not any(error is known for known in chain):
        chain.append(error)
        # `from` sets the flag as well, and `from None` nothing else.
        error = error.__cause__ if error.__suppress_context__ else error.__context__
    return chain
