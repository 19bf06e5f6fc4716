"""What happened, in order: one feed that the page, `ctl` and the hooks read, of bounded size."""

from __future__ import annotations

import threading
import time
from collections import deque

from wrapper.log import timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

HISTORY = 500  # events kept for those who come late or were away for a moment


class Feed:
    """Events are dicts: `id` (rising by one), `at` (RFC 3339), `time` (epoch seconds), `kind`, facts of that kind."""

    def __init__(self) -> None:
        # Guards the history and the listeners; notified at every event.
        self._changed = threading.Condition(threading.Lock())
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._listeners: list[Callable[[dict[str, Any]], None]] = []

    def publish(self, kind: str, **facts: Any) -> None:
        now = time.time()
        with self._changed:
            event = {**facts, "id": self.last + 1, "at": timestamp(now), "time": round(now, 3), "kind": kind}
            self._history.append(event)
            listeners = list(self._listeners)
            self._changed.notify_all()
        for listener in listeners:
            listener(event)

    def listen(self, listener: Callable[[dict[str, Any]], None]) -> None:
        """Call `listener` with every event, in the thread that publishes it: it must return at once."""
        with self._changed:
            self._listeners.append(listener)

    @property
    def last(self) -> int:
        """The id of the newest event, 0 before the first."""
        return self._history[-1]["id"] if self._history else 0

    def after(self, known: int, timeout: float | None = 0) -> list[dict[str, Any]]:
        """The kept events with an id above `known`, oldest first; waits up to `timeout` seconds for one."""
        with self._changed:
            self._changed.wait_for(lambda: self.last > known, timeout)
            return [event for event in self._history if event["id"] > known]
