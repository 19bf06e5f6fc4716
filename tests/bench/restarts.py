"""What clients notice of restarts: `python3 tests/bench/restarts.py [--restarts 10]`.

64 keep-alive clients ask without a pause, while a service that takes 2 s to start is restarted again and again: by the
wrapper (both modes), by the pattern "Go's ReverseProxy with the service as its child", and behind nginx. A request has
failed where anything but a whole 200 comes back. Every request has a number, and the service notes the numbers it saw:
one it saw twice was repeated on the way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NamedTuple

import contestants
import loads

CLIENTS = 64
START = 2  # seconds that the service takes to listen
PAUSE = 1.0  # seconds of quiet between two restarts
REQUEST_TIMEOUT = 40.0
PLACES = ("wrapper, replace", "wrapper, overlap", "Go's ReverseProxy", "nginx")


class Asked(NamedTuple):
    """One request: when, for how long, and whether a whole 200 came back."""

    begin: float
    seconds: float
    is_good: bool


class Clients:
    """CLIENTS keep-alive connections in one thread; each asks the next thing as soon as it has its answer."""

    def __init__(self, address: str) -> None:
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.asked: list[Asked] = []
        self.is_over = False
        self._numbers = itertools.count(1)

    async def ask_on(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    async def _client(self) -> None:
        streams = None
        while not self.is_over:
            begin = time.monotonic()
            try:
                streams = streams or await asyncio.open_connection(self.host, self.port)
                is_good, is_kept = await asyncio.wait_for(self._ask(*streams), REQUEST_TIMEOUT)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError):
                is_good = is_kept = False
            self.asked.append(Asked(begin, time.monotonic() - begin, is_good))
            if not is_kept and streams is not None:
                streams[1].close()
                streams = None
            if not is_good:
                await asyncio.sleep(0.01)  # a client that was refused does not hammer
        if streams is not None:
            streams[1].close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bool, bool]:
        writer.write(b"GET /?%d HTTP/1.1\r\nHost: bench\r\n\r\n" % next(self._numbers))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]) if b"content-length:" in head else None
        if length is None:
            return False, False
        await reader.readexactly(length)
        return b" 200 " in head.split(b"\r\n", 1)[0], b"connection: close" not in head


class Place(NamedTuple):
    """Where the clients ask, and how the service behind it is restarted (returns when it serves again)."""

    address: str
    restart: Callable[[], None]

    @property
    def url(self) -> str:
        return f"http://{self.address}"


Service = Callable[[str], "list[str]"]  # the command for the address to listen on


def late(log: str) -> Service:
    return lambda listen: [contestants.peer(), "late", listen, str(START), log]


@contextlib.contextmanager
def wrapped(service: Service, mode: str, root: Path = contestants.ROOT) -> Iterator[Place]:
    program = [*contestants.python(root), "-m", "wrapper"]
    with tempfile.TemporaryDirectory() as folder:
        control = f"{folder}/control"

        def make(_: str, listen: str) -> list[str]:
            return [*program, "--listen", listen, "--control", control, "--restart-mode", mode, "--",
                    *service("127.0.0.1:{port}")]

        def restart() -> None:
            subprocess.run([*program, "ctl", "--control", control, "restart"], check=True, cwd=folder,
                           env=contestants.environment(), stdout=subprocess.DEVNULL, timeout=60)

        with contestants.run("wrapper", make) as running:
            yield Place(running.address, restart)


@contextlib.contextmanager
def kept_by_go(service: Service) -> Iterator[Place]:
    upstream = contestants.free_address()

    def make(_: str, listen: str) -> list[str]:
        return [contestants.peer(), "keeper", listen, upstream, *service(upstream)]

    with contestants.run("keeper", make) as running:
        def restart() -> None:
            os.kill(running.pid, signal.SIGHUP)
            wait_for_outage_to_end(upstream)

        yield Place(running.address, restart)


@contextlib.contextmanager
def behind_nginx(service: Service) -> Iterator[Place]:
    upstream = contestants.free_address()
    services = [subprocess.Popen(service(upstream))]

    def make(folder: str, listen: str) -> list[str]:
        return contestants.nginx_proxy(folder, listen, upstream)

    def restart() -> None:
        services[-1].terminate()
        services[-1].wait(30)
        services.append(subprocess.Popen(service(upstream)))
        wait_for_outage_to_end(upstream)

    try:
        with contestants.run("nginx", make) as running:
            yield Place(running.address, restart)
    finally:
        services[-1].kill()
        services[-1].wait()


def wait_for_outage_to_end(upstream: str) -> None:
    deadline = time.monotonic() + 30
    gone = False
    while time.monotonic() < deadline:
        try:
            loads.connect(upstream).close()
        except OSError:
            gone = True
        else:
            if gone:
                return
        time.sleep(0.02)  # the pace of the poll
    raise RuntimeError(f"{upstream} did not come back")


def open_place(name: str, log: str) -> contextlib.AbstractContextManager[Place]:
    if name.startswith("wrapper"):
        return wrapped(late(log), name.rpartition(" ")[2])
    return kept_by_go(late(log)) if name.startswith("Go") else behind_nginx(late(log))


async def measure(place: Place, restarts: int) -> tuple[list[Asked], list[tuple[float, float]]]:
    """All that was asked, and the spans in which a restart was under way."""
    clients, spans = Clients(place.address), []
    asking = asyncio.ensure_future(clients.ask_on())
    for _ in range(restarts):
        await asyncio.sleep(PAUSE)  # the quiet part, measured too
        begin = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(None, place.restart)
        spans.append((begin, time.monotonic()))
    await asyncio.sleep(PAUSE)  # as above
    clients.is_over = True
    await asking
    return clients.asked, spans


def p99(seconds: list[float]) -> float:
    """Milliseconds."""
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000 if seconds else 0.0


def row(name: str, asked: list[Asked], spans: list[tuple[float, float]], repeated: int) -> str:
    good = [one for one in asked if one.is_good]
    within = [one.seconds for one in good if any(begin <= one.begin <= end for begin, end in spans)]
    outside = [one.seconds for one in good if not any(begin <= one.begin <= end for begin, end in spans)]
    longest = max((one.seconds for one in good), default=0.0)
    return (f"| {name} | {len(asked):,} | {len(asked) - len(good):,} | {repeated} | {longest:.2f} s "
            f"| {p99(within):.1f} ms | {p99(outside):.1f} ms |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--only", metavar="PLACE", help="one of: " + "; ".join(PLACES))
    options = parser.parse_args()
    print("| | requests | failed | repeated | longest wait | p99 in a restart | p99 outside |\n"
          "|---|---:|---:|---:|---:|---:|---:|")
    is_clean = True
    for name in [options.only] if options.only else PLACES:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "seen")
            with open_place(name, str(log)) as place:
                asked, spans = asyncio.run(measure(place, options.restarts))
            counts = Counter(log.read_text().split())
        repeated = sum(1 for count in counts.values() if count > 1)
        print(row(name, asked, spans, repeated), flush=True)
        is_clean &= not name.startswith("wrapper") or (not repeated and all(one.is_good for one in asked))
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
