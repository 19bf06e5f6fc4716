"""What the road carried: each exchange counted, cheap enough for every request, and the last minutes kept for the page.

Every thread counts in a shard of its own, so nothing is locked while requests flow and no count is lost on CPython
without the GIL. The shard of a thread that ended goes to the next one that begins.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Callable

from wrapper.sidecar.metrics import Family, Sample, histogram_samples

if TYPE_CHECKING:
    from wrapper.message import Ended

Cell = list[Any]  # how many requests, and the rows of their road

# Seconds: from what a small answer takes on one machine to what people wait for.
TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
HELD_TIMES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 16777216, 268435456)  # bytes
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"})
SWITCHING = 101  # an upgraded connection lives for hours; its length is no latency
SLOT_SECONDS = 5.0  # between two moments that are kept
SLOTS = 180  # a quarter of an hour

# In the order of a shard's rows.
HISTOGRAMS = (
    ("wrapper_request_duration_seconds", "From the request's head to the end of the answer.", TIMES),
    ("wrapper_request_first_byte_seconds", "From the request's head to the answer's first byte.", TIMES),
    ("wrapper_request_size_bytes", "What clients sent.", SIZES),
    ("wrapper_response_size_bytes", "What clients got.", SIZES),
)
FIRST_BYTE = 1
ROADS = ("service", "sidecar")  # whom a request was for, by `own`


class Shard:
    """The counts of one thread. A row of a histogram has a count for each bound, one above them, and the sum."""

    __slots__ = ("cells", "held", "requests", "rows")

    def __init__(self) -> None:
        self.requests: dict[tuple[bool, str, int], Cell] = {}  # by own, method, status // 100
        self.cells: dict[tuple[str, int, bool], Cell] = {}  # the same cells, as `observe` finds them at once
        self.rows = (_rows(), _rows())  # of relayed exchanges, and of our own
        self.held = _row(HELD_TIMES)

    def cell(self, method: str, status: int, own: bool) -> Cell:
        """Clients invent methods: those nobody knows are counted together."""
        known = method if method in METHODS else "other"
        cell = self.requests.setdefault((own, known, status // 100), [0, self.rows[own]])
        if known == method:
            self.cells[method, status, own] = cell
        return cell


def _row(bounds: Sequence[float]) -> list[float]:
    return [0] * (len(bounds) + 2)


def _rows() -> tuple[list[float], ...]:
    """A row for each of HISTOGRAMS."""
    return tuple(_row(bounds) for _, _, bounds in HISTOGRAMS)


class _Lease:
    """Gives the shard of a thread back when the thread ends."""

    __slots__ = ("_free", "shard")

    def __init__(self, shard: Shard, free: deque[Shard]) -> None:
        self.shard = shard
        self._free = free

    def __del__(self) -> None:
        self._free.append(self.shard)


class Traffic:
    """Counts exchanges; `gauges` tells what the history keeps beside them: (in flight, held)."""

    def __init__(self, gauges: Callable[[], tuple[int, int]] = lambda: (0, 0)) -> None:
        self._gauges = gauges
        self._local = threading.local()
        self._free: deque[Shard] = deque()
        # Guards the list of shards, and the keeping of a moment: one thread does it, the others go on.
        self._lock = threading.Lock()
        self._shards: list[Shard] = []
        self._history: deque[dict[str, Any]] = deque(maxlen=SLOTS)
        self._next_slot = time.monotonic()

    def observe(self, ended: Ended) -> None:
        """Called for each exchange by the thread that ends it."""
        try:
            cells = self._local.cells
        except AttributeError:
            cells = self._lease()
        method, _, status, seconds, first_byte, held, received, sent, own, *_ = ended
        cell = cells.get((method, status, own))
        if cell is None:
            cell = self._local.lease.shard.cell(method, status, own)
        cell[0] += 1
        durations, first_bytes, sizes_in, sizes_out = cell[1]
        if status != SWITCHING:
            durations[bisect_left(TIMES, seconds)] += 1
            durations[-1] += seconds
        first_bytes[bisect_left(TIMES, first_byte)] += 1
        first_bytes[-1] += first_byte
        if received:
            sizes_in[bisect_left(SIZES, received)] += 1
            sizes_in[-1] += received
        else:
            sizes_in[0] += 1
        sizes_out[bisect_left(SIZES, sent)] += 1
        sizes_out[-1] += sent
        if held:
            waits = self._local.lease.shard.held
            waits[bisect_left(HELD_TIMES, held)] += 1
            waits[-1] += held
        if time.monotonic() >= self._next_slot:
            self._keep_moment()

    def _lease(self) -> dict[tuple[str, int, bool], Cell]:
        try:
            shard = self._free.pop()
        except IndexError:
            shard = Shard()
            with self._lock:
                self._shards.append(shard)
        self._local.lease = _Lease(shard, self._free)
        self._local.cells = shard.cells
        return shard.cells

    # For those who look

    def _keep_moment(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() >= self._next_slot:
                    self._next_slot = time.monotonic() + SLOT_SECONDS
                    self._history.append(self._moment())
            finally:
                self._lock.release()

    def moment(self) -> dict[str, Any]:
        """The counts of relayed exchanges up to now: `time` (epoch seconds), `requests`, `errors` (5xx), `latency`
        (a count for each of `bounds` and one above them, of the time to the first byte), `in_flight`, `held`.
        """
        with self._lock:
            return self._moment()

    def _moment(self) -> dict[str, Any]:
        assert self._lock.locked()
        in_flight, held = self._gauges()
        latency = _sum([shard.rows[False][FIRST_BYTE] for shard in self._shards], TIMES)
        counts = [(key[2], cell[0]) for shard in self._shards for key, cell in shard.requests.copy().items()
                  if not key[0]]
        return {"time": round(time.time(), 3), "requests": sum(count for _, count in counts),
                "errors": sum(count for code, count in counts if code == 5), "latency": latency[:-1],
                "in_flight": in_flight, "held": held}

    def history(self) -> list[dict[str, Any]]:
        """Moments of the last quarter of an hour, oldest first; none are kept while no exchange ends."""
        with self._lock:
            return list(self._history)

    # For the scrape

    def families(self) -> Iterable[Family]:
        with self._lock:
            shards = list(self._shards)
        yield Family("wrapper_requests_total", "counter", "Requests answered, by whom they were for.",
                     _requests(shards))
        for index, (name, meaning, bounds) in enumerate(HISTOGRAMS):
            yield Family(name, "histogram", meaning, [
                sample for own, road in enumerate(ROADS) for sample in histogram_samples(
                    (("to", road),), bounds, _sum([shard.rows[own][index] for shard in shards], bounds))])
        yield Family("wrapper_request_held_seconds", "histogram",
                     "How long requests waited for the service to start or restart, of those that waited.",
                     histogram_samples((), HELD_TIMES, _sum([shard.held for shard in shards], HELD_TIMES)))


def _requests(shards: Iterable[Shard]) -> list[Sample]:
    counts: dict[tuple[bool, str, int], int] = {}
    for shard in shards:
        for key, cell in shard.requests.copy().items():
            counts[key] = counts.get(key, 0) + cell[0]
    return [Sample("", (("to", ROADS[own]), ("method", method), ("code", f"{code}xx")), count)
            for (own, method, code), count in sorted(counts.items())]


def _sum(rows: Iterable[list[float]], bounds: Sequence[float]) -> list[float]:
    return [sum(column) for column in zip(*rows, _row(bounds))]
