"""Authors' code, kept apart: whatever it does is a problem entry and a line in the log, never an outage.

It may raise anything, `SystemExit` included, or never come back: it runs in threads of its own, for which others wait
only so long. A thread cannot be killed; one that hangs is counted, and too many of them refuse further calls.
"""

from __future__ import annotations

import inspect
import os
import queue
import sys
import threading
import traceback

from wrapper.errors import GatewayTimeout, Refusal, Unavailable
from wrapper.log import log
from wrapper.sidecar.turns import turns
from wrapper.stream import ClientGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.problems import Board


class NoSidecar(LookupError):
    """A module that was named as a sidecar holds none."""


OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Their messages name modules, files and lines, as whoever mends it must know them.
HARMLESS = (ImportError, SyntaxError, FileNotFoundError, NoSidecar)
IDLE_TIMEOUT = 10.0  # seconds a thread without a call stays
LONG_CALL = 0.005  # seconds after which a call may be one that computes, for which the others must not wait long
MOST_CALLS = 100  # of one sidecar at a time; also how many threads its hanging handlers can cost


class Guard:
    """Tells what went wrong in the code of one sidecar, and that it went well again."""

    def __init__(self, name: str, board: Board) -> None:
        self.name = name
        self.source = f"sidecar:{name}"
        self._board = board
        # What failed last time. A set of its own, so that a call that goes well costs one look and no lock.
        self._failing: set[str] = set()

    def failed(self, what: str, error: BaseException) -> None:
        """The log gets all of it; the board, which everybody reads, only the kind: messages may hold secrets."""
        log.error(f"{what} failed", sidecar=self.name, cause=repr(error), traceback=_traceback(error))
        cause = str(error) if isinstance(error, HARMLESS) else type(error).__name__ + _place(error)
        self.report(what, f"{what} failed: {cause}; the traceback is in the log")

    def report(self, what: str, message: str) -> None:
        self._failing.add(what)
        self._board.report(self.source, message, what)

    def went_well(self, what: str) -> None:
        if what in self._failing:
            self._failing.discard(what)
            self._board.resolve(self.source, what)

    def attempt(self, what: str, work: Callable[[], object]) -> bool:
        """Do it in this thread; True where it went well."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # sys.exit() in an author's code ends no thread of ours
            self.failed(what, error)
            return False
        self.went_well(what)
        return True


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where it went wrong, from the author's first line on: what is above it is the wrapper's and importlib's."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [number for number, frame in enumerate(frames)
              if not frame.filename.startswith((OWN_FOLDER, "<frozen importlib"))]
    return frames[theirs[0]:theirs[-1] + 1] if theirs else list(frames)


def _place(error: BaseException) -> str:
    frames = _frames(error)
    return f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _traceback(error: BaseException) -> str:
    lines = traceback.format_list(_frames(error)) + traceback.format_exception_only(type(error), error)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "".join(lines) + (f"because of: {_traceback(cause)}" if cause is not None else "")


class Calls:
    """Requests that one sidecar's code answers, each in a thread that has nothing else to do meanwhile."""

    def __init__(self, guard: Guard, most: int = MOST_CALLS) -> None:
        self._guard = guard
        self._most = most
        # Guards both: how many calls are under way, and the threads without one, the last one in on top.
        self._lock = threading.Lock()
        self._under_way = 0
        self._idle: list[queue.SimpleQueue[Call]] = []

    def run(self, what: str, work: Callable[[], Any], timeout: float | None) -> Any:
        """What `work` returns within `timeout` seconds; None waits for ever.

        Raises: the refusals that the work itself chose; Refusal (500), GatewayTimeout or Unavailable.
        """
        call = Call(f"{self._guard.name} {what}", work)
        self._start(call)
        if not call.wait(timeout):
            self._guard.report(what, f"{what} did not answer within {timeout:g} s")
            log.error(f"{what} hangs", sidecar=self._guard.name, timeout=timeout, stack=call.stack())
            raise GatewayTimeout(f"the sidecar did not answer within {timeout:g} s")
        if isinstance(call.error, (Refusal, ClientGone)):
            raise call.error
        if call.error is not None:
            self._guard.failed(what, call.error)
            raise Refusal("the sidecar's code failed")
        self._guard.went_well(what)
        return call.result

    def _start(self, call: Call) -> None:
        with self._lock:
            if self._under_way >= self._most:
                raise Unavailable(f"{self._most} requests keep the sidecar's code busy already")
            self._under_way += 1
            inbox = self._idle.pop() if self._idle else None
        if inbox is not None:
            inbox.put(call)
            return
        try:
            threading.Thread(target=self._serve, args=(call,), name=call.name, daemon=True).start()
        except RuntimeError as error:  # "can't start new thread"
            with self._lock:
                self._under_way -= 1
            raise Unavailable(f"no thread can be had for the sidecar: {error}") from None

    def _serve(self, first: Call) -> None:
        """One thread: call after call, until none came for a while."""
        inbox: queue.SimpleQueue[Call] = queue.SimpleQueue()
        thread = threading.current_thread()
        call: Call | None = first
        while call is not None:
            thread.name = call.name
            call.run()
            call = None  # its result is the waiter's alone
            thread.name = f"{self._guard.name} idle"
            with self._lock:
                self._under_way -= 1
                self._idle.append(inbox)
            call = self._next(inbox)

    def _next(self, inbox: queue.SimpleQueue[Call]) -> Call | None:
        try:
            return inbox.get(timeout=IDLE_TIMEOUT)
        except queue.Empty:
            with self._lock:
                if inbox in self._idle:
                    self._idle.remove(inbox)
                    return None
            return inbox.get()  # taken off the list this very moment


class Call:
    """One call under way; `name` is its thread's meanwhile."""

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        self.name = name
        self._work = work
        # Held until the work is done: whoever waits for that waits for this. Cheaper than an Event.
        self._done = threading.Lock()
        self._done.acquire()
        # Guards the result, whether somebody waits for it (one that nobody takes has to be closed), and whether the
        # call took so long that others take short turns.
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._is_long = False
        self._thread = 0
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        result, error = None, None
        self._thread = threading.get_ident()
        try:
            result = self._work()
        except BaseException as raised:  # noqa: BLE001  # sys.exit() too
            error = raised
        with self._lock:
            self.result, self.error = result, error
            is_abandoned, is_long = self._is_abandoned, self._is_long
            self._done.release()
        if is_long:
            turns.lengthen()
        if is_abandoned:
            close(result)

    def wait(self, timeout: float | None) -> bool:
        """False where the work took too long; then nobody waits for it any more."""
        if self._done.acquire(timeout=LONG_CALL if timeout is None else min(timeout, LONG_CALL)):
            return True
        self._grow_long()
        if self._done.acquire(timeout=-1 if timeout is None else max(0.0, timeout - LONG_CALL)):
            return True
        with self._lock:
            self._is_abandoned = self._done.locked()
            return not self._is_abandoned

    def _grow_long(self) -> None:
        with self._lock:
            self._is_long = self._done.locked()
            if self._is_long:
                turns.shorten()

    def stack(self) -> str:
        """Where the work is now."""
        frame = sys._current_frames().get(self._thread)
        return "".join(traceback.format_stack(frame)) if frame is not None else "it has just ended"


def close(result: Any) -> None:
    """End what a result may still hold open; that it cannot be ended is nobody's business any more."""
    try:
        getattr(result, "close", bool)()
    except BaseException as error:  # noqa: BLE001  # authors' code again
        log.debug("an answer that came too late could not be closed", cause=repr(error))


def fitting(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called with as many of the arguments as it needs: nobody must name what they do not use.

    A parameter with a default is the author's own, as in `lambda request, path=path: ...` in a loop.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return function  # a builtin that does not say
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return function
    places = sum(parameter.default is parameter.empty and
                 parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
                 for parameter in parameters)
    return lambda *arguments: function(*arguments[:places])
