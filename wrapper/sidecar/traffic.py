"""What the road carried: each exchange counted, cheap enough for every request, and the last minutes kept for the page.

Exchanges are told by the loop's thread, on CPython without the GIL by one for each core: a lock costs them next to
nothing.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable

from wrapper.errors import BadGateway
from wrapper.sidecar.metrics import Family, Sample, histogram_samples

if TYPE_CHECKING:
    from wrapper.message import Ended

# Seconds: from what a small response takes on one machine to what people wait for.
TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
HELD_TIMES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"})
SWITCHING = 101  # an upgraded connection lives for hours; its length is no latency
SLOT_SECONDS = 5.0  # between two moments that are kept
SLOTS = 180  # a quarter of an hour


class Road:
    """The counts of relayed exchanges, or of those answered here. A row of times has a count for each bound, one above
    them, and the sum."""

    __slots__ = ("durations", "first_bytes", "name", "received", "requests", "sent")

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: dict[tuple[str, int], int] = {}  # by method and status // 100
        self.durations, self.first_bytes = _row(TIMES), _row(TIMES)
        self.received = self.sent = 0  # bytes


def _row(bounds: Sequence[float]) -> list[float]:
    return [0] * (len(bounds) + 2)


def _count(row: list[float], bounds: Sequence[float], seconds: float) -> None:
    row[bisect_left(bounds, seconds)] += 1
    row[-1] += seconds


class Traffic:
    """Counts exchanges; `gauges` tells what the history keeps beside them: (in flight, held)."""

    def __init__(self, gauges: Callable[[], tuple[int, int]] = lambda: (0, 0)) -> None:
        self._gauges = gauges
        # Guards all below.
        self._lock = threading.Lock()
        self._roads = (Road("service"), Road("sidecar"))  # by `own`
        self._held = _row(HELD_TIMES)
        self._failures = dict.fromkeys(BadGateway.REASONS, 0)
        self._history: deque[dict[str, Any]] = deque(maxlen=SLOTS)
        self._next_slot = time.monotonic()

    def observe(self, ended: Ended) -> None:
        """Called for each exchange by the thread that ends it."""
        method, _, status, seconds, first_byte, held, received, sent, own, *_, failure, _ = ended
        # Clients invent methods: unknown ones are counted together.
        key = (method if method in METHODS else "other", status // 100)
        road = self._roads[own]
        with self._lock:
            road.requests[key] = road.requests.get(key, 0) + 1
            if status != SWITCHING:
                _count(road.durations, TIMES, seconds)
            _count(road.first_bytes, TIMES, first_byte)
            road.received += received
            road.sent += sent
            if failure:
                self._failures[failure] += 1
            if held:
                _count(self._held, HELD_TIMES, held)
            now = time.monotonic()
            if now >= self._next_slot:
                self._next_slot = now + SLOT_SECONDS
                self._history.append(self._moment())

    # What readers ask for

    def moment(self) -> dict[str, Any]:
        """The counts of relayed exchanges up to now: `time` (epoch seconds), `requests`, `errors` (5xx), `latency`
        (a count for each of `bounds` and one above them, of the time to the first byte), `in_flight`, `held`.
        """
        with self._lock:
            return self._moment()

    def _moment(self) -> dict[str, Any]:
        assert self._lock.locked()
        in_flight, held = self._gauges()
        relayed = self._roads[False]
        return {"time": round(time.time(), 3), "requests": sum(relayed.requests.values()),
                "errors": sum(count for (_, code), count in relayed.requests.items() if code == 5),
                "latency": relayed.first_bytes[:-1], "in_flight": in_flight, "held": held}

    def history(self) -> list[dict[str, Any]]:
        """Moments of the last quarter of an hour, oldest first; none are kept while no exchange ends."""
        with self._lock:
            return list(self._history)

    def families(self) -> list[Family]:
        """The counts for a scrape, all of one moment."""
        with self._lock:
            return [
                self._family("wrapper_requests_total", "counter", "Requests answered, by whom they were for.",
                             _requests),
                self._family("wrapper_request_duration_seconds", "histogram",
                             "From the request's head to the end of the response.",
                             lambda road, to: histogram_samples(to, TIMES, road.durations)),
                self._family("wrapper_request_first_byte_seconds", "histogram",
                             "From the request's head to the response's first byte.",
                             lambda road, to: histogram_samples(to, TIMES, road.first_bytes)),
                self._family("wrapper_request_bytes_total", "counter", "What clients sent.",
                             lambda road, to: [Sample("", to, road.received)]),
                self._family("wrapper_response_bytes_total", "counter", "What clients got.",
                             lambda road, to: [Sample("", to, road.sent)]),
                Family("wrapper_bad_gateways_total", "counter", "Requests that the wrapper answered with 502.",
                       [Sample("", (("reason", reason),), count) for reason, count in self._failures.items()]),
                Family("wrapper_request_held_seconds", "histogram",
                       "How long requests waited for the service to start or restart, of those that waited.",
                       histogram_samples((), HELD_TIMES, self._held))]

    def _family(self, name: str, kind: str, meaning: str,
                samples: Callable[[Road, tuple[tuple[str, str]]], list[Sample]]) -> Family:
        return Family(name, kind, meaning,
                      [sample for road in self._roads for sample in samples(road, (("to", road.name),))])


def _requests(road: Road, to: tuple[tuple[str, str]]) -> list[Sample]:
    return [Sample("", (*to, ("method", method), ("code", f"{code}xx")), count)
            for (method, code), count in sorted(road.requests.items())]
