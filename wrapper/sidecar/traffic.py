"""What the road carried: each exchange counted, cheap enough for every request, and the last seconds for the page.

Exchanges are told by the loop's thread, on CPython without the GIL by one for each core: a lock costs them next to
nothing.

Once a second, while something happens, what the gates saw and what the processes take joins that second's traffic.
Where nothing happens nothing wakes up: the next second is as long as that. A page that is open asks each second.
A restart is summed up here too, as one event, once the requests that it held are through.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wrapper import threads
from wrapper.errors import BadGateway
from wrapper.log import log
from wrapper.service import procfs
from wrapper.service.state import MAIN
from wrapper.sidecar.registry import Family, Sample, histogram_samples
from wrapper.text import dumps
from wrapper.threads import NoThread

if TYPE_CHECKING:
    from wrapper.events import Feed
    from wrapper.gate import Peaks
    from wrapper.http1.message import Ended
    from wrapper.service.service import Service

# Seconds: from what a small response takes on one machine to what people wait for.
TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
HELD_TIMES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"})
SWITCHING = 101  # an upgraded connection lives for hours; its length is no latency
# Seconds, from 0.1 ms to 100 s: each bound is 12 % above the one before, so that a percentile is wrong by 6 % at most.
FINE_TIMES = tuple(10 ** (step / 20 - 4) for step in range(121))
FAILED = (502, 503, 504)  # statuses of what the service did not answer
SECONDS_KEPT = 900  # a quarter of an hour
SECONDS_TOLD = 100  # of them in one response, some 70 KB: a client that reads nothing keeps as much in memory
SAMPLE_INTERVAL = 1.0  # seconds
QUIET_SAMPLES = 2  # without an exchange or a restart, after which the next one of these is waited for
USAGE_EVERY = 5  # samples, or a new run: /proc of a container with hundreds of processes is not read each second
SETTLE_SECONDS = 0.5  # after a restart until what it held is through, see `gate.BATCH_INTERVAL`


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
        self._seconds: deque[tuple[dict[str, Any], str]] = deque(maxlen=SECONDS_KEPT)  # with their JSON
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
            facts = {
                "number": self._number, "time": round(time.time(), 3),
                "seconds": round(self._second.began - second.began, 3),
                "requests": sum(classes), "denied": classes[4], "errors": classes[5], "failed": second.failed,
                "latency": {place: count for place, count in enumerate(second.latency) if count},
                "slowest": round(second.slowest, 6),
                "in_flight": sum(one.in_flight for one in peaks), "held": sum(one.held for one in peaks),
                "waits": sum(one.waits for one in peaks),
                "longest_wait": round(max((one.longest_wait for one in peaks), default=0.0), 3), **facts}
            self._seconds.append((facts, dumps(facts)))
            return self._number

    def _count_by_class(self) -> list[int]:
        """Relayed exchanges so far by status // 100."""
        assert self._lock.locked()
        totals = [0] * 10
        for (_, code), count in self._roads[False].requests.items():
            totals[code] += count
        return totals

    def seconds_after(self, number: int) -> list[dict[str, Any]]:
        """The seconds of the last quarter of an hour behind that number, oldest first: `time` (of the end, since the
        epoch), `seconds` (how long), `requests`, `denied` (4xx), `errors` (5xx), `failed` (502, 503, 504), `latency`
        (counts by place among `FINE_TIMES`), `slowest`, the peaks, and the facts they were closed with.
        """
        with self._lock:
            return [one for one, _ in self._seconds if one["number"] > number]

    def told_after(self, number: int) -> str:
        """The first SECONDS_TOLD seconds behind `number` as a list in JSON, each written once.

        While `json` writes a long list no other thread runs, and any client may ask for it, and often.
        """
        with self._lock:
            told = [text for one, text in self._seconds if one["number"] > number]
        return f"[{', '.join(told[:SECONDS_TOLD])}]"

    # The scrape

    def families(self) -> list[Family]:
        """The counts for a scrape, all of one moment."""
        with self._lock:
            roads = [((("to", road.name),), road) for road in self._roads]
            return [
                Family("wrapper_requests_total", "counter", "Requests answered, by whom they were for.",
                       [Sample((*to, ("method", method), ("code", f"{code}xx")), count)
                        for to, road in roads for (method, code), count in sorted(road.requests.items())]),
                Family("wrapper_request_duration_seconds", "histogram",
                       "From the request's head to the end of the response.",
                       [one for to, road in roads for one in histogram_samples(to, TIMES, road.durations)]),
                Family("wrapper_request_first_byte_seconds", "histogram",
                       "From the request's head to the response's first byte.",
                       [one for to, road in roads for one in histogram_samples(to, TIMES, road.first_bytes)]),
                Family("wrapper_request_bytes_total", "counter", "What clients sent.",
                       [Sample(to, road.received) for to, road in roads]),
                Family("wrapper_response_bytes_total", "counter", "What clients got.",
                       [Sample(to, road.sent) for to, road in roads]),
                Family("wrapper_bad_gateways_total", "counter", "Requests that the wrapper answered with 502.",
                       [Sample((("reason", reason),), count) for reason, count in self._failures.items()]),
                Family("wrapper_requests_replayed_total", "counter",
                       "Requests that travelled once more, because their run of the service ended.",
                       [Sample((), self._replayed)]),
                Family("wrapper_request_held_seconds", "histogram",
                       "How long requests waited for the service to start or restart, of those that waited.",
                       histogram_samples((), HELD_TIMES, self._held))]


class Sampler:
    """Samples all `services` and the wrapper itself; the first of the services is the main one."""

    def __init__(self, traffic: Traffic, services: Sequence[Service], feed: Feed) -> None:
        self._traffic = traffic
        self._services = services
        self._feed = feed
        self._stopping = threading.Event()
        self._samples = 0
        self._usage = Usage()
        # Guards the restart that is under way or not told yet.
        self._lock = threading.Lock()
        self._restart: Restart | None = None
        feed.listen(self._hear)

    def start(self) -> None:
        try:
            threads.start("sampler", self._run)
        except NoThread as error:
            log.warning("no thread can be had to look at the traffic: the page has no plots", cause=error)

    def stop(self) -> None:
        self._stopping.set()
        self._traffic.stirred.set()

    def _run(self) -> None:
        quiet, stirred = 0, self._traffic.stirred
        while not self._stopping.wait(SAMPLE_INTERVAL):
            quiet = 0 if stirred.is_set() or self._restart is not None else quiet + 1
            stirred.clear()
            self.sample()
            if quiet >= QUIET_SAMPLES and not self._stopping.is_set():
                stirred.wait()
                self.sample()  # of the quiet

    def sample(self) -> int:
        """Close one second; its number."""
        facts: dict[str, Any] = {}
        pids = self._services[0].life.pids
        if self._samples % USAGE_EVERY == 0 or pids != self._usage.pids:
            facts["usage"] = self._usage.of(pids)
        self._samples += 1
        number = self._close(**facts)
        with self._lock:
            settled = self._restart if self._restart is not None and self._restart.is_settled else None
            if settled is not None:
                self._restart = None
        if settled is not None:
            summary = settled.summary(self._traffic.seconds_after(settled.number))
            log.info(summary["message"], service=MAIN)
            self._feed.publish("restarted", service=MAIN, first=settled.first, **summary)
        return number

    def _close(self, **facts: Any) -> int:
        return self._traffic.close_second([service.gate.take_peaks() for service in list(self._services)], **facts)

    def _hear(self, event: dict[str, Any]) -> None:
        """Called by the thread that publishes, the controller's where the service is concerned."""
        if event.get("service") != MAIN or event["kind"] not in ("state", "exit", "next"):
            return
        self._traffic.stirred.set()
        with self._lock:
            if Restart.begins_with(event) and (self._restart is None or self._restart.ended is not None):
                self._restart = Restart(event, self._close())  # of the second before
            elif self._restart is not None:
                if event.get("state") == "running":
                    self._restart.ended = time.monotonic()
                elif event.get("state") in ("stopped", "failed") or event.get("step") == "failed":
                    self._restart = None


class Restart:
    """A restart, planned or after a crash, from its first event until the service runs again."""

    def __init__(self, event: dict[str, Any], number: int) -> None:
        self.first = event["id"]
        self.number = number  # of the last second before it
        self.began = time.monotonic()
        self.ended: float | None = None
        self._is_crash = event["kind"] == "exit"
        self._reason = event.get("reason", "")
        if self._is_crash:
            self._reason = f"signal {event['signal']}" if event["signal"] else f"exit {event['status']}"

    @staticmethod
    def begins_with(event: dict[str, Any]) -> bool:
        """A drain, a crash, or a next run that is started beside the one that serves."""
        return event.get("state") == "draining" or event.get("step") == "starting" or event.get("planned") is False

    @property
    def is_settled(self) -> bool:
        return self.ended is not None and time.monotonic() - self.ended >= SETTLE_SECONDS

    def summary(self, seconds: Sequence[dict[str, Any]]) -> dict[str, Any]:
        assert self.ended is not None
        took = self.ended - self.began
        held, failed = sum(one["waits"] for one in seconds), sum(one["failed"] for one in seconds)
        longest = max((one["longest_wait"] for one in seconds), default=0.0)
        what = f"crashed, {self._reason}; back after {took:.1f} s" if self._is_crash else \
            f"restarted in {took:.1f} s: {self._reason}"
        waits = f"{held} held, longest {longest:.1f} s" if held else "0 held"
        return {"message": f"{what}; {waits}, {failed} failed", "seconds": round(took, 3), "held": held,
                "longest": longest, "failed": failed, "planned": not self._is_crash, "reason": self._reason}


class Usage:
    """What the processes of the service, and the wrapper itself, take; `pids` are the first processes of its runs."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self._before: tuple[float, float, float] | None = None

    def of(self, pids: list[int]) -> dict[str, float | None] | None:
        """Cores and bytes; None for what cannot be told: cores need an earlier look at the same processes.

        None for all of it where there is no /proc.
        """
        try:
            cpu, memory = procfs.usage(pids)
        except OSError:
            return None
        own, used = procfs.stat(os.getpid()), resource.getrusage(resource.RUSAGE_SELF)
        now = (time.monotonic(), cpu, used.ru_utime + used.ru_stime)
        spent = [after - before for after, before in zip(now, self._before or now)]
        is_same, self._before, self.pids = pids == self.pids, now, pids

        def cores(seconds: float) -> float | None:
            return round(max(0.0, seconds) / spent[0], 4) if spent[0] else None

        return {"service_cores": cores(spent[1]) if pids and is_same else None,
                "service_bytes": memory if pids else None,
                "wrapper_cores": cores(spent[2]), "wrapper_bytes": own.memory * procfs.PAGE_BYTES}
