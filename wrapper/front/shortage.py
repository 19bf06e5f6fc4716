"""What runs short at a port, descriptors or threads: a problem on the board for as long as it does."""

from __future__ import annotations

import threading

from wrapper.loop.workers import Workers
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.loop.loop import Loop, Steps

PAUSE = 0.5  # seconds until the next try where no thread can be had to tell it
CALM = 30.0  # seconds without a new sign of it after which a shortage counts as over


class Shortage:
    """Tells `tell(what, is_short)`, in a thread, when something begins to run short and when that is over."""

    def __init__(self, tell: Callable[[str, bool], None]) -> None:
        self._tell = tell
        self._workers = Workers("shortage", 1)  # all others may be busy
        # Guards whether something is new: only one loop follows it.
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def note(self, what: str, loop: Loop) -> None:
        """A sign of it, in the thread of `loop`; returns at once."""
        with self._lock:
            is_new = what not in self._until
            self._until[what] = loop.now + CALM
        if is_new:
            loop.begin(loop.task(self._follow(what, loop), "a shortage"))

    def _follow(self, what: str, loop: Loop) -> Steps:
        try:
            yield from self._say(what, True, loop)
            while loop.now < self._until[what]:
                yield (self._until[what],)
        finally:
            del self._until[what]  # first: a sign that comes from here on is a new one
        yield from self._say(what, False, loop)

    def _say(self, what: str, is_short: bool, loop: Loop) -> Steps:
        while True:
            try:
                yield from loop.in_thread(lambda: self._tell(what, is_short), self._workers)
                return
            except NoThread:  # it may be threads that run short
                yield (loop.now + PAUSE,)
