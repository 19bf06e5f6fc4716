"""The wrapper's own metrics that are read off at each scrape: the services, their configuration, this process.

Those of requests are counted in `traffic.py`.
"""

from __future__ import annotations

import os
import platform
import resource
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

import wrapper
from wrapper.service import procfs
from wrapper.service.state import State
from wrapper.sidecar.registry import Family, Sample
from wrapper.text import elapsed, epoch

if TYPE_CHECKING:
    from wrapper.front.server import Server
    from wrapper.problems import Board
    from wrapper.service.service import Service


def single(name: str, kind: str, help: str, value: float) -> Family:
    return Family(name, kind, help, [Sample((), value)])


def of_services(services: Sequence[Service]) -> Iterator[Family]:
    """State, requests on the road, restarts and ends of every service, by its name."""
    known = list(services)
    facts = [((("service", service.name),), service, service.status()) for service in known]

    def family(name: str, kind: str, help: str, value: Callable[[Mapping[str, Any]], float]) -> Family:
        return Family(name, kind, help, [Sample(labels, value(status)) for labels, _, status in facts])

    yield Family("wrapper_service_state", "gauge", "1 for the state a service is in, 0 for the others.", [
        Sample((*labels, ("state", state.value)), int(status["state"] == state.value))
        for labels, _, status in facts for state in State])
    yield family("wrapper_service_state_since_timestamp_seconds", "gauge", "When a service came into its state.",
                 lambda status: epoch(status["since"]) or 0)
    yield family("wrapper_service_ready", "gauge", "1 while a service is ready.", lambda status: int(status["ready"]))
    yield family("wrapper_service_generation", "gauge", "How many runs of a service there were.",
                 lambda status: status["generation"])
    yield family("wrapper_requests_in_flight", "gauge", "Requests on the road to a service.",
                 lambda status: status["in_flight"])
    yield family("wrapper_requests_held", "gauge", "Requests that wait for a service.", lambda status: status["held"])
    yield Family("wrapper_upstream_connections", "gauge", "Connections to a service, idle or with a request.", [
        Sample((*labels, ("state", state)), count) for labels, service, status in facts for state, count in (
            ("idle", getattr(service.gate.upstream, "idle", 0)), ("busy", status["in_flight"]))])
    yield family("wrapper_service_crashes_total", "counter", "Ends of a service's runs that were not asked for.",
                 lambda status: status["crashes"])
    yield from _counts(known)
    yield from _usage(known)


def _counts(services: Iterable[Service]) -> Iterator[Family]:
    counts = [((("service", service.name),), *service.life.counts()) for service in services]
    # Present from the beginning, so that the first one is a rise that an alert can see.
    yield Family("wrapper_service_restarts_total", "counter", "Restarts, planned or after an exit.", [
        Sample((*labels, ("reason", reason)), count) for labels, by_reason, _ in counts
        for reason, count in {"planned": 0, "exit": 0, **by_reason}.items()])
    yield Family("wrapper_service_exits_total", "counter", "Ends of a service's runs by exit status.", [
        Sample((*labels, ("status", str(status))), count) for labels, _, by_status in counts
        for status, count in sorted(by_status.items())])


def _usage(services: Iterable[Service]) -> Iterator[Family]:
    """What the services take, with all their processes; nothing where there is no /proc."""
    try:
        table = procfs.processes()
    except OSError:
        return
    found = [((("service", service.name),), procfs.usage(service.life.pids, table)) for service in services]
    yield Family("wrapper_service_cpu_seconds_total", "counter", "CPU time of a service's processes that run.", [
        Sample(labels, cpu) for labels, (cpu, _) in found])
    yield Family("wrapper_service_resident_memory_bytes", "gauge", "Memory of a service's processes.", [
        Sample(labels, memory) for labels, (_, memory) in found])
    if (limit := procfs.memory_limit()) is not None:
        yield single("wrapper_memory_limit_bytes", "gauge", "Memory that the container may use.", limit)


def of_configuration(subscriptions: Sequence[Any]) -> Iterator[Family]:
    """One series for each subscription; see `config/subscription.py` for the facts."""
    facts = [subscription.status() for subscription in list(subscriptions)]

    def family(name: str, kind: str, help: str, value: Callable[[Mapping[str, Any]], float | None]) -> Family:
        return Family(name, kind, help, [
            Sample((("subscription", str(status.get("name", ""))),), found)
            for status in facts if (found := value(status)) is not None])

    now = time.time()
    yield family("wrapper_config_last_success_timestamp_seconds", "gauge",
                 "When a configuration was last fetched and in place; absent until it was.",
                 lambda status: epoch(status.get("last_success")))
    yield family("wrapper_config_hash_age_seconds", "gauge", "How long the applied configuration has been the same.",
                 lambda status: elapsed(status.get("applied_at"), now))
    yield family("wrapper_config_failures_total", "counter", "Fetches and changes that failed.",
                 lambda status: status.get("failures", 0))
    yield family("wrapper_config_stale", "gauge", "1 while a configuration cannot be fetched.",
                 lambda status: int(bool(status.get("stale_since"))))
    yield family("wrapper_config_pending", "gauge", "1 while a change waits for --config-splay or a pause.",
                 lambda status: int(bool(status.get("pending"))))
    yield family("wrapper_config_hash", "gauge", "The hash of what is applied, as a number.",
                 lambda status: int(status["hash_applied"], 16) if status.get("hash_applied") else None)


def of_board(board: Board) -> Iterator[Family]:
    yield single("wrapper_problems", "gauge", "Problems on the board now.", len(board))


def of_server(server: Server) -> Iterator[Family]:
    """The exposed port."""
    yield single("wrapper_client_connections", "gauge", "Open connections of clients.", server.connections)
    yield single("wrapper_client_connections_accepted_total", "counter", "Connections taken so far.", server.accepted)


def of_process() -> Iterator[Family]:
    """This process itself; names as those of Prometheus' clients, after `wrapper_`."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield Family("wrapper_build_info", "gauge", "What runs here; always 1.", [
        Sample((("version", wrapper.__version__), ("python", platform.python_version())), 1)])
    yield single("wrapper_process_cpu_seconds_total", "counter", "CPU time of the wrapper, not of the service.",
                 round(usage.ru_utime + usage.ru_stime, 6))
    yield single("wrapper_process_threads", "gauge", "Threads of the wrapper.", threading.active_count())
    yield single("wrapper_process_start_time_seconds", "gauge", "When the wrapper started.", START_TIME)
    if (known := procfs.stat(os.getpid())) is not procfs.GONE:
        yield single("wrapper_process_resident_memory_bytes", "gauge", "Memory of the wrapper.",
                     known.memory * procfs.PAGE_BYTES)
    try:
        yield single("wrapper_process_open_fds", "gauge", "Open file descriptors of the wrapper.",
                     len(os.listdir("/proc/self/fd")))
    except OSError:
        pass  # no /proc here: a container may hide it
    yield single("wrapper_process_max_fds", "gauge", "How many file descriptors may be open.",
                 resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _start_time() -> float:
    """Seconds since the epoch, from the age of this process; the moment of import where there is no /proc."""
    known = procfs.stat(os.getpid())
    age = 0.0 if known is procfs.GONE else time.clock_gettime(time.CLOCK_BOOTTIME) - known.started / procfs.TICKS
    return round(time.time() - age, 2)


START_TIME = _start_time()
