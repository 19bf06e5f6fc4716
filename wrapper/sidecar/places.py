"""How many streams may be open at a time: each costs a thread for as long as its client likes."""

from __future__ import annotations

import threading

from wrapper.errors import Unavailable
from wrapper.sidecar.isolation import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wrapper.message import Piece

MOST_STREAMS = 100  # of the wrapper's own, and of each sidecar
RETRY_AFTER = 5  # seconds


class Places:
    """A number of places for streams; a client whose stream finds none is told to come again."""

    def __init__(self, most: int | None = None) -> None:
        self._most = MOST_STREAMS if most is None else most
        # Guards the streams that have a place; a set, so that none gives back two.
        self._lock = threading.Lock()
        self.streams: set[Placed] = set()

    def take(self, stream: Placed) -> None:
        """Raises: Unavailable where all are taken."""
        with self._lock:
            if len(self.streams) >= self._most:
                raise Unavailable(f"{self._most} streams are open already", RETRY_AFTER)
            self.streams.add(stream)

    def give_back(self, stream: Placed) -> None:
        with self._lock:
            self.streams.discard(stream)


class Placed:
    """A stream that has one of `places` until it is closed.

    Raises: Unavailable where all are taken; the stream is closed then.
    """

    def __init__(self, pieces: Iterable[Piece], places: Places) -> None:
        self._pieces = pieces
        self._places = places
        try:
            places.take(self)
        except Unavailable:
            close(pieces)
            raise

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def close(self) -> None:
        close(self._pieces)
        self._places.give_back(self)
