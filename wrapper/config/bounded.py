"""Authors' code in a thread of its own for a bounded time: one that hangs holds up nothing else."""

from __future__ import annotations

import threading

from wrapper import cause, threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_inside = threading.local()


class BoundedCall:
    """`work(*arguments)`, waited for `timeout` seconds. `matter` is what the call is about, see `matter_of_caller`."""

    def __init__(self, name: str, work: Callable[..., Any], arguments: tuple[Any, ...], timeout: float,
                 matter: object = None) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self._work = work
        self._arguments = arguments
        self._matter = matter
        self._thread = threads.start(name, self._run)
        self._thread.join(timeout)

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        _inside.matter = self._matter
        try:
            self.value = self._work(*self._arguments)
        except BaseException as error:  # noqa: BLE001  sys.exit in an author's code ends this call only
            self.error = error


def matter_of_caller() -> object:
    """What the call is about that runs us; None outside of one."""
    return getattr(_inside, "matter", None)


def verdict(what: str, judge: Callable[..., Any], arguments: tuple[Any, ...], timeout: float,
            matter: object = None) -> str | None:
    """What an author's code says was wrong: None, True and an empty list mean that nothing was."""
    call = BoundedCall(what, judge, arguments, timeout, matter)
    if not call.is_over:
        return f"{what} has not come back within {timeout:.3g} s"
    if call.error is not None:
        return cause.tell(what, call.error)
    said = call.value[0] if isinstance(call.value, (list, tuple)) and call.value else call.value
    if said is None or said is True or isinstance(said, (list, tuple)):
        return None
    return f"{what} failed: " + ("it says no" if said is False else str(getattr(said, "message", said)))
