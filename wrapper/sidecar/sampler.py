"""Once a second, while something happens: what the gates saw and what the processes take joins that second's traffic.

Where nothing happens nothing wakes up: the next second is as long as that. A page that is open asks each second.
A restart is summed up here too, as one event, once the requests that it held are through.
"""

from __future__ import annotations

import os
import resource
import threading
import time

from wrapper import threads
from wrapper.log import log
from wrapper.service import procfs
from wrapper.service.state import MAIN
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wrapper.events import Feed
    from wrapper.service.service import Service
    from wrapper.sidecar.traffic import Traffic

INTERVAL = 1.0  # seconds
QUIET_SAMPLES = 2  # without an exchange or a restart, after which the next one of these is waited for
USAGE_EVERY = 5  # samples, or a new run: /proc of a container with hundreds of processes is not read each second
SETTLE_SECONDS = 0.5  # after a restart until what it held is through, see `gate.BATCH_INTERVAL`


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
        while not self._stopping.wait(INTERVAL):
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
    """One, planned or after a crash, from its first event until the service runs again."""

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
                "wrapper_cores": cores(spent[2]), "wrapper_bytes": own and own.memory * procfs.PAGE_BYTES}
