"""Authors' code, kept apart: whatever it does is a problem entry and a line in the log, never an outage.

It may raise anything, `SystemExit` included, and may never come back. Of requests that it answers there are so many at
a time, and each has only so long: a call past its time is a 504 and a problem. It goes on, since nothing can end it
safely, and its place is taken until it returns.
"""

from __future__ import annotations

import inspect
import threading

from wrapper import cause
from wrapper.errors import Refusal, Unavailable
from wrapper.log import log
from wrapper.loop.stream import ClientGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.http1.message import Request, Response
    from wrapper.problems import Board

MOST_CALLS = 100  # of one sidecar at a time; also how many threads its hanging handlers can cost


class Guard:
    """Runs the code of one sidecar, and tells what went wrong in it and that it went well again."""

    def __init__(self, name: str, board: Board) -> None:
        self.name = name
        self.source = f"sidecar:{name}"
        self._board = board
        self._slots = threading.Semaphore(MOST_CALLS)
        # What failed last time. A set of its own, so that a call that goes well costs no lock.
        self._failing: set[str] = set()

    def failed(self, what: str, error: BaseException, is_import: bool = False) -> None:
        """Report an error: all of it to the log, its kind alone to the board, as strangers read that."""
        self.report(what, cause.tell(what, error, is_import, sidecar=self.name))

    def report(self, what: str, message: str) -> None:
        self._failing.add(what)
        self._board.report(self.source, message, what)

    def went_well(self, what: str) -> None:
        if what in self._failing:
            self._failing.discard(what)
            self._board.resolve(self.source, what)

    def attempt(self, what: str, work: Callable[[], object], is_import: bool = False, *,
                watchdog: threading.Timer | None = None) -> bool:
        """Do `work` in this thread; True where it went well. `watchdog` is over before the outcome is told."""
        failure: BaseException | None = None
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # sys.exit() in an author's code ends no thread of ours
            failure = error
        if watchdog is not None:
            watchdog.cancel()
        if failure is None:
            self.went_well(what)
        else:
            self.failed(what, failure, is_import)
        return failure is None

    def answer(self, what: str, request: Request, work: Callable[[], Response], timeout: float | None) -> Response:
        """What `work` returns; the client of `request` waits `timeout` seconds for it, None as long as it takes.

        Called in a thread that has nothing else to do meanwhile.
        Raises: the refusals that the work itself chose; Refusal (500) where it failed; Unavailable.
        """
        if not self._slots.acquire(blocking=False):
            raise Unavailable(f"{MOST_CALLS} requests keep the sidecar's code busy already")
        try:
            return Call(self, what, timeout).run(request, work)
        finally:
            self._slots.release()


class Call:
    """One call under way, in the thread that made it."""

    def __init__(self, guard: Guard, what: str, timeout: float | None) -> None:
        self._guard = guard
        self._what = what
        self._timeout = timeout
        self._thread = threading.current_thread()
        # Guards both: a call is either over in time or late.
        self._lock = threading.Lock()
        self._is_over = False
        self._is_late = False

    def run(self, request: Request, work: Callable[[], Response]) -> Response:
        request.limit_time(self._timeout, self._report_late)
        try:
            result = work()
        except (Refusal, ClientGone):
            self._end()
            raise
        except BaseException as error:  # noqa: BLE001  sys.exit() too
            self._end()
            self._guard.failed(self._what, error)
            raise Refusal("the sidecar's code failed") from None
        if self._end():
            close(result)
        elif not getattr(result, "is_streamed", False):  # a stream has only begun; it says itself how it went
            self._guard.went_well(self._what)
        return result

    def _report_late(self) -> None:
        """Report that the call is late: its client has been told 504. Called in another thread."""
        with self._lock:
            if self._is_over:
                return
            self._is_late = True
            stack = cause.stack_of(self._thread)
        self._guard.report(self._what, f"{self._what} did not answer within {self._timeout:g} s")
        log.error(f"{self._what} hangs", sidecar=self._guard.name, timeout=self._timeout, stack=stack)

    def _end(self) -> bool:
        """Note that the call is over; True where that was too late, and nothing waits for its result."""
        with self._lock:
            self._is_over = True
        if self._is_late:
            log.info(f"{self._guard.name} {self._what} has ended after all")
        return self._is_late


def close(result: Any) -> None:
    """End what a result may still hold open; where it cannot be ended, only the log says so."""
    try:
        getattr(result, "close", bool)()
    except BaseException as error:  # noqa: BLE001  # authors' code again
        log.debug("an answer that came too late could not be closed", cause=cause.shown(error))


def fitting(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called with as many of the arguments as it needs: authors need not name what they do not use.

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


def numbered(name: str, taken: list[str]) -> str:
    """`name`, with a number behind it where others in `taken` have it: each would take the other's problems away."""
    taken.append(name)
    number = taken.count(name)
    return name if number == 1 else f"{name}-{number}"
