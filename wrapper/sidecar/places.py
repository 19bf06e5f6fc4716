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
    """A number of places; whoever finds none is told to come again."""

    def __init__(self, most: int | None = None) -> None:
        self._most = MOST_STREAMS if most is None else most
        # Guards how many are taken, and that none is given back twice.
        self.lock = threading.Lock()
        self.taken = 0

    def take(self) -> Place:
        """Raises: Unavailable where all are taken."""
        with self.lock:
            if self.taken >= self._most:
                raise Unavailable(f"{self._most} streams are open already", RETRY_AFTER)
            self.taken += 1
        return Place(self)


class Place:
    """One of the places, until it is given back; once more does nothing."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._is_taken = True

    def give_back(self) -> None:
        with self._places.lock:
            if self._is_taken:
                self._is_taken = False
                self._places.taken -= 1


class Placed:
    """A stream that has a place until it is closed."""

    def __init__(self, pieces: Iterable[Piece], place: Place) -> None:
        self._pieces = pieces
        self._place = place

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def close(self) -> None:
        close(self._pieces)
        self._place.give_back()
