"""Authors' code, kept apart: whatever it does is a problem entry and a line in the log, never an outage.

It may raise anything, `SystemExit` included. What may never come back runs in threads of its own, see `calls.py`.
"""

from __future__ import annotations

import inspect

from wrapper import cause
from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from typing import Any, Callable

    from wrapper.problems import Board


class Guard:
    """Tells what went wrong in the code of one sidecar, and that it went well again."""

    def __init__(self, name: str, board: Board) -> None:
        self.name = name
        self.source = f"sidecar:{name}"
        self._board = board
        # What failed last time. A set of its own, so that a call that goes well costs no lock.
        self._failing: set[str] = set()

    def failed(self, what: str, error: BaseException, is_import: bool = False) -> None:
        """The log gets all of it; the board, which strangers may read, only the kind: messages may hold secrets."""
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
        """Do it in this thread; True where it went well. `watchdog` is over before the outcome is told."""
        failure: BaseException | None = None
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # sys.exit() in an author's code ends no thread of ours
            failure = error
        if watchdog is not None:
            watchdog.cancel()
        if failure is not None:
            self.failed(what, failure, is_import)
            return False
        self.went_well(what)
        return True


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
