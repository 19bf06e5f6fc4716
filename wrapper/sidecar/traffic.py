"""What the road carried: each exchange counted, cheap enough for every request, and the last seconds for the page.

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
    from wrapper.gate import Peaks
    from wrapper.http1.message import Ended

# Seconds: from what a small response takes on one machine to what people wait for.
TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
HELD_TIMES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"})
SWITCHING = 101  # an upgraded connection lives for hours; its length is no latency
# Seconds, from 0.1 ms to 100 s: each bound is 12 % above the one before, so that a percentile is wrong by 6 % at most.
FINE_TIMES = tuple(10 ** (step / 20 - 4) for step in range(121))
FAILED = (502, 503, 504)  # statuses of what the service did not answer
SECONDS_KEPT = 900  # a quarter of an hour


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


class Second:
    """The relayed exchanges that ended in about a second: counts by time to the first byte, each up to one of
    `FINE_TIMES`, the longest such time, and how many failed."""

    __slots__ = ("began", "failed", "latency", "slowest")

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.latency = [0] * (len(FINE_TIMES) + 1)
        self.slowest = 0.0
        self.failed = 0


class Traffic:
    """Counts exchanges, for the scrape since the beginning and for the page second by second."""

    def __init__(self) -> None:
        # Guards all below.
        self._lock = threading.Lock()
        self._roads = (Road("service"), Road("sidecar"))  # by `own`
        self._held = _row(HELD_TIMES)
        self._failures = dict.fromkeys(BadGateway.REASONS, 0)
        self._replayed = 0
        self._second = Second()
        self._totals = [0] * 10  # by status // 100, at the end of the second before
        self._number = 0  # of the second that was closed last
        self._seconds: deque[dict[str, Any]] = deque(maxlen=SECONDS_KEPT)
        self.stirred = threading.Event()  # an exchange has ended since this was cleared

    def observe(self, ended: Ended) -> None:
        """Called for each exchange by the thread that ends it."""
        method, _, status, seconds, first_byte, held, received, sent, own, _, _, replayed, failure, _ = ended
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
            self._replayed += replayed
            if failure:
                self._failures[failure] += 1
            if held:
                _count(self._held, HELD_TIMES, held)
            if not own:
                second = self._second
                second.latency[bisect_left(FINE_TIMES, first_byte)] += 1
                if first_byte > second.slowest:  # noqa: PLR1730  max() costs three times as much, for each exchange
                    second.slowest = first_byte
                if status in FAILED:
                    second.failed += 1
        if not self.stirred.is_set():
            self.stirred.set()

    # The last seconds

    def close_second(self, peaks: Sequence[Peaks], **facts: Any) -> int:
        """Keep what was counted since the last call, with the peaks of all gates; the number of this second."""
        with self._lock:
            second, self._second = self._second, Second()
            self._number += 1
            before, self._totals = self._totals, self._count_by_class()
            classes = [after - before for before, after in zip(before, self._totals)]
            self._seconds.append({
                "number": self._number, "time": round(time.time(), 3),
                "seconds": round(self._second.began - second.began, 3),
                "requests": sum(classes), "denied": classes[4], "errors": classes[5], "failed": second.failed,
                "latency": {place: count for place, count in enumerate(second.latency) if count},
                "slowest": round(second.slowest, 6),
                "in_flight": sum(one.in_flight for one in peaks), "held": sum(one.held for one in peaks),
                "waits": sum(one.waits for one in peaks),
                "longest_wait": round(max((one.longest_wait for one in peaks), default=0.0), 3), **facts})
            return self._number

    def _count_by_class(self) -> list[int]:
        """Relayed exchanges so far by status // 100."""
        assert self._lock.locked()
        totals = [0] * 10
        for (_, code), count in self._roads[False].requests.items():
            totals[code] += count
        return totals

    def seconds_after(self, number: int) -> list[dict[str, Any]]:
        """Those of the last quarter of an hour that were closed later, oldest first: `time` (of the end, since the
        epoch), `seconds` (how long), `requests`, `denied` (4xx), `errors` (5xx), `failed` (502, 503, 504), `latency`
        (counts by place among `FINE_TIMES`), `slowest`, the peaks, and the facts they were closed with.
        """
        with self._lock:
            return [one for one in self._seconds if one["number"] > number]

    # The scrape

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
                Family("wrapper_requests_replayed_total", "counter",
                       "Requests that travelled once more, because their run of the service ended.",
                       [Sample("", (), self._replayed)]),
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
