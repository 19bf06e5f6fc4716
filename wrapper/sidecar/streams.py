"""Responses of authors' code that go out as they come: the pieces of a body, or the events of a generator.

Each has the thread of its call for as long as its client likes, so there are only so many slots for them. What goes
wrong breaks the response off: an end would be a lie. A client that left is noticed at the next piece.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from wrapper.errors import Refusal, Unavailable
from wrapper.http1.message import encoded
from wrapper.sidecar import sse
from wrapper.sidecar.isolation import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.http1.message import Piece, Request
    from wrapper.sidecar.access import Access
    from wrapper.sidecar.isolation import Guard

MOST_STREAMS = 100  # of the wrapper's own, and of each sidecar
RETRY_AFTER = 5  # seconds


class AuthorStream:
    """Pieces of an author's on their way out, as `encode` makes them; not more than `length` bytes where it has one."""

    def __init__(self, source: Iterable[Any], guard: Guard, what: str, length: int | None = None,
                 encode: Callable[[Any], bytes] = encoded) -> None:
        self._source = source
        self._guard = guard
        self._what = what
        self._left = length
        self._encode = encode
        self._has_begun = False
        self._has_failed = False

    def __iter__(self) -> Iterator[bytes]:
        self._has_begun = True
        pieces = iter(self._source)
        while (piece := self._next(pieces)) is not None:
            if self._left is not None:
                if len(piece) > self._left:
                    self._fail(ValueError("more bytes than its Content-Length"))
                    yield piece[:self._left]
                    return
                self._left -= len(piece)
            yield piece
        if self._left:
            raise self._fail(ValueError(f"{self._left} bytes less than its Content-Length"))

    def _next(self, pieces: Iterator[Any]) -> bytes | None:
        try:
            return self._encode(next(pieces))
        except StopIteration:
            return None
        except BaseException as error:  # noqa: BLE001  sys.exit() too
            raise self._fail(error) from None

    def _fail(self, error: BaseException) -> Refusal:
        self._has_failed = True
        self._guard.failed(self._what, error)
        return Refusal("the sidecar's code failed")

    def close(self) -> None:
        """It is over, or its client has left."""
        if self._has_begun and not self._has_failed:
            self._guard.went_well(self._what)
        close(self._source)


def event(item: Any) -> bytes:
    """What one `yield` says: data, or (event, data); None is a sign of life; bytes go out as they are."""
    if item is None:
        return sse.HEARTBEAT
    if isinstance(item, bytes):
        return item
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return sse.message(item[1], item[0])
    return sse.message(item)


class Slots:
    """MOST_STREAMS slots for streams; a client whose stream finds none is told to come again."""

    def __init__(self) -> None:
        # Guards the streams that have a slot; a set, so that none gives back two.
        self._lock = threading.Lock()
        self.streams: set[SlottedStream] = set()

    def take(self, stream: SlottedStream) -> None:
        """Raises: Unavailable where all are taken."""
        with self._lock:
            if len(self.streams) >= MOST_STREAMS:
                raise Unavailable(f"{MOST_STREAMS} streams are open already", RETRY_AFTER)
            self.streams.add(stream)

    def give_back(self, stream: SlottedStream) -> None:
        with self._lock:
            self.streams.discard(stream)


class SlottedStream:
    """A stream that has one of `slots` until it is closed.

    Raises: Unavailable where all are taken; the stream is closed then.
    """

    def __init__(self, pieces: Iterable[Piece], slots: Slots) -> None:
        self._pieces = pieces
        self._slots = slots
        try:
            slots.take(self)
        except Unavailable:
            close(pieces)
            raise

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def close(self) -> None:
        close(self._pieces)
        self._slots.give_back(self)


class StreamSlots:
    """Slots for streams: strangers must not be able to take those of an operator."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._strangers, self._operators = Slots(), Slots()

    def of(self, request: Request) -> Slots:
        return self._operators if self._access.knows(request) else self._strangers
