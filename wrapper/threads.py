"""Where threads are started: each has a name and ends with the process, and there may be none to be had."""

from __future__ import annotations

import threading

from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    Kind = TypeVar("Kind", bound=threading.Thread)

_inside = threading.local()


class NoThread(RuntimeError):
    """Neither a thread nor room for one is to be had."""


def start(name: str, work: Callable[..., object], *arguments: object) -> threading.Thread:
    """A thread that does `work`, already running. Raises: NoThread."""
    return _begin(threading.Thread(target=work, args=arguments, name=name, daemon=True))


def start_or_do(name: str, work: Callable[[], object]) -> None:
    """Do it in a thread, or here where none can be had."""
    try:
        start(name, work)
    except NoThread:
        work()


def start_timer(name: str, seconds: float, work: Callable[..., object], *arguments: object) -> threading.Timer:
    """Do `work` in a thread after so many seconds, unless the timer is cancelled before. Raises: NoThread."""
    return _begin(_timer(name, seconds, work, arguments))


def start_watchdog(name: str, seconds: float, work: Callable[..., object], *arguments: object) -> threading.Timer:
    """A timer that only tells of what it watches, which goes on without it where no thread can be had."""
    timer = _timer(name, seconds, work, arguments)
    try:
        _begin(timer)
    except NoThread as error:
        log.warning("no thread can be had to look on", name=name, cause=error)
    return timer


class BoundedCall:
    """`work(*arguments)` in a thread of its own, waited for `timeout` seconds: one that hangs holds up nothing else.

    `matter` is what the call is about, see `matter_of_caller`. Raises: NoThread.
    """

    def __init__(self, name: str, work: Callable[..., Any], arguments: tuple[Any, ...], timeout: float,
                 matter: object = None) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self._thread = start(name, self._run, work, arguments, matter)
        self._thread.join(timeout)

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def _run(self, work: Callable[..., Any], arguments: tuple[Any, ...], matter: object) -> None:
        _inside.matter = matter
        try:
            self.value = work(*arguments)
        except BaseException as error:  # noqa: BLE001  sys.exit in an author's code ends this call only
            self.error = error


def matter_of_caller() -> object:
    """What the call is about that runs us; None outside of one."""
    return getattr(_inside, "matter", None)


def _timer(name: str, seconds: float, work: Callable[..., object], arguments: tuple[object, ...]) -> threading.Timer:
    timer = threading.Timer(seconds, work, arguments)
    timer.name, timer.daemon = name, True
    return timer


def _begin(thread: Kind) -> Kind:
    try:
        thread.start()
    except RuntimeError as error:  # "can't start new thread"
        raise NoThread(f"{error}: processes (--pids-limit, ulimit -u) or memory are at their limit") from None
    return thread
