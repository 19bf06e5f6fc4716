"""Answers of authors' code that go out as they come: the pieces of a body, or the events of a generator.

Each has a thread for as long as its client likes, so there are only so many. What goes wrong breaks the answer off: an
end would be a lie.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator

from wrapper.errors import Refusal, Unavailable
from wrapper.log import log
from wrapper.message import encoded
from wrapper.sidecar import sse
from wrapper.sidecar.eviction import Overdue, Stay, sheltered
from wrapper.sidecar.isolation import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import GeneratorType
    from typing import Any

    from wrapper.message import Piece
    from wrapper.sidecar.isolation import Guard
    from wrapper.sidecar.places import Place, Places

QUEUED_EVENTS = 16  # that a slow client may be behind its generator
LEAVE_TIMEOUT = 15.0  # seconds in which a generator without a client may come to its next event; HEARTBEAT_INTERVAL


class Outgoing:
    """What both kinds share: a place as long as it is open, and how it went, which only its end can tell."""

    def __init__(self, source: Any, guard: Guard, what: str) -> None:
        self._source = source
        self._guard = guard
        self._what = what
        self._place: Place | None = None
        self._has_begun = False
        self._has_failed = False

    @sheltered
    def admit(self, places: Places) -> None:
        """Raises: Unavailable where too many are open."""
        try:
            self._place = places.take()
        except Unavailable:
            close(self._source)
            raise

    def _fail(self, error: BaseException) -> Refusal:
        self._has_failed = True
        self._guard.failed(self._what, error)
        return Refusal("the sidecar's code failed")

    def close(self) -> None:
        """It is over, or its client has left."""
        if self._has_begun and not self._has_failed:
            self._guard.went_well(self._what)
        self._end()

    def _end(self) -> None:
        close(self._source)
        self._leave()

    def _leave(self) -> None:
        if self._place is not None:
            self._place.give_back()


class Stream(Outgoing):
    """Pieces of an author's body on their way out; not more than `length` bytes where it has one."""

    def __init__(self, pieces: Iterable[Piece], guard: Guard, what: str, length: int | None = None) -> None:
        super().__init__(pieces, guard, what)
        self._pieces = iter(pieces)
        self._left = length

    def __iter__(self) -> Iterator[bytes]:
        self._has_begun = True
        while (piece := self._next()) is not None:
            if self._left is not None:
                if len(piece) > self._left:
                    self._fail(ValueError("more bytes than its Content-Length"))
                    yield piece[:self._left]
                    return
                self._left -= len(piece)
            yield piece
        if self._left:
            raise self._fail(ValueError(f"{self._left} bytes less than its Content-Length"))

    def _next(self) -> bytes | None:
        try:
            return encoded(next(self._pieces))
        except StopIteration:
            return None
        except BaseException as error:  # noqa: BLE001  # sys.exit() too
            raise self._fail(error) from None


class Events(Outgoing):
    """Events of an author's generator as they come, from a thread of its own.

    So a generator that is silent for long is no reason not to notice that the client left.
    """

    def __init__(self, generator: GeneratorType[Any, None, None], guard: Guard, what: str) -> None:
        super().__init__(generator, guard, what)
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(QUEUED_EVENTS)
        self._is_closed = False
        self._stay = Stay()

    def __iter__(self) -> Iterator[bytes]:
        self._begin(f"{self._guard.name} {self._what}")
        while True:
            try:
                item = self._queue.get(timeout=sse.HEARTBEAT_INTERVAL)
            except queue.Empty:
                yield sse.HEARTBEAT
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise self._fail(item)
            yield item

    def _begin(self, name: str) -> None:
        self._stay.thread = threading.Thread(target=self._pump, name=name, daemon=True)
        try:
            self._stay.thread.start()
        except RuntimeError as error:  # "can't start new thread"
            raise Unavailable(f"no thread can be had for the sidecar: {error}") from None
        self._has_begun = True

    def _pump(self) -> None:
        self._stay.arrive()
        try:
            self._pump_all()
        except Overdue:
            pass  # nobody listens any more
        finally:
            self._stay.leave()
            self._leave()

    def _pump_all(self) -> None:
        last: BaseException | None = None
        try:
            for item in self._source:
                self._queue.put(event(item))
                if self._is_closed:
                    break
        except BaseException as error:  # noqa: BLE001  # sys.exit() too
            last = error
        close(self._source)
        self._queue.put(last)

    def _end(self) -> None:
        """Let the generator end at its next event; it has a while for that, then it is overdue."""
        self._is_closed = True
        if not self._has_begun:
            super()._end()
            return
        while not self._queue.empty():
            self._queue.get_nowait()
        thread = self._stay.thread
        if thread.is_alive():
            try:
                threading.Thread(target=self._show_out, name=f"{thread.name} eviction", daemon=True).start()
            except RuntimeError as error:  # "can't start new thread": it ends at its next event, or never
                log.warning("no thread can be had to end a generator without a client", cause=error)

    def _show_out(self) -> None:
        self._stay.thread.join(LEAVE_TIMEOUT)
        self._stay.evict()
        self._stay.thread.join()
        self._leave()


def event(item: Any) -> bytes:
    """What one `yield` says: data, or (event, data); None is a sign of life; bytes go out as they are."""
    if item is None:
        return sse.HEARTBEAT
    if isinstance(item, bytes):
        return item
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return sse.message(item[1], item[0])
    return sse.message(item)
