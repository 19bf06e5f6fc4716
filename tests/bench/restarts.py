"""What clients notice of restarts, crashes, hangs and the end: `python3 tests/bench/restarts.py [--only WHAT,...]`.

64 clients ask without a pause, while the service that they ask is restarted, killed with -9, stopped with SIGSTOP or
ended for good: by the wrapper, by the pattern "Go's ReverseProxy with the service as its child", and behind nginx with
a supervisor of the bench's own. A request has failed where anything but a whole 200 comes back. Every request has a
number, and the service notes the numbers it saw: so it is known how often one was sent.
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
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import contestants
import loads

CLIENTS = 64
PAUSE = 1.0  # seconds of quiet between two restarts
REQUEST_TIMEOUT = 40.0
POSTS = 4  # every such request is a POST, where some are
RESTARTS, KILLS, HANGS, TRIES = 8, 20, 2, 1000
KILL_PAUSE = 1.0  # seconds from one kill to the next
HANG = 20.0  # seconds until a service that hangs goes on by itself
DELAY = 3.0  # seconds of --shutdown-delay
GO, NGINX = "Go's ReverseProxy", "nginx"


class Asked(NamedTuple):
    """One request: when, for how long, and whether a whole 200 came back."""

    begin: float
    seconds: float
    is_good: bool
    is_post: bool


class Clients:
    """CLIENTS connections in one thread; each asks the next thing as soon as it has its answer.

    `has_posts`: some of the requests must not be repeated. `is_fresh`: each request has a connection of its own.
    """

    def __init__(self, address: str, *, has_posts: bool = False, is_fresh: bool = False) -> None:
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.asked: list[Asked] = []
        self.is_over = False
        self.open_posts = 0
        self._has_posts = has_posts
        self._is_fresh = is_fresh
        self._numbers = itertools.count(1)

    async def ask_on(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    async def _client(self) -> None:
        streams = None
        while not self.is_over:
            begin, number = time.monotonic(), next(self._numbers)
            is_post = self._has_posts and not number % POSTS
            self.open_posts += is_post
            try:
                streams = streams or await asyncio.open_connection(self.host, self.port)
                is_good, is_kept = await asyncio.wait_for(self._ask(*streams, number, is_post), REQUEST_TIMEOUT)
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError, ValueError):
                is_good = is_kept = False
            self.open_posts -= is_post
            self.asked.append(Asked(begin, time.monotonic() - begin, is_good, is_post))
            if (not is_kept or self._is_fresh) and streams is not None:
                streams[1].close()
                streams = None
            if not is_good:
                await asyncio.sleep(0.01)  # a client that was refused does not hammer
        if streams is not None:
            streams[1].close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int,
                   is_post: bool) -> tuple[bool, bool]:
        method, length_line = (b"POST", b"Content-Length: 0\r\n") if is_post else (b"GET", b"")
        writer.write(b"%s /?%d HTTP/1.1\r\nHost: bench\r\n%s\r\n" % (method, number, length_line))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]) if b"content-length:" in head else None
        if length is None:
            return False, False
        await reader.readexactly(length)
        return b" 200 " in head.split(b"\r\n", 1)[0], b"connection: close" not in head


class Place(NamedTuple):
    """Where the clients ask, and how the service behind it is restarted (returns when it serves again).

    `pid`: the program that answers there.
    """

    address: str
    restart: Callable[[], None]
    pid: int

    @property
    def url(self) -> str:
        return f"http://{self.address}"


Service = Callable[[str], "list[str]"]  # the command for the address to listen on


class Log:
    """What the service noted over all its runs: their pids, and the number of each request."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def service(self, start: float) -> Service:
        return lambda listen: [contestants.peer(), "late", listen, str(start), str(self._path)]

    @property
    def pids(self) -> list[int]:
        """Of the runs, in the order of their starts."""
        return [int(line[4:]) for line in self._path.read_text().splitlines() if line.startswith("pid ")]

    @property
    def most_sent(self) -> int:
        """How often the service saw one request at the most."""
        return max(Counter(line for line in self._path.read_text().splitlines() if line.isdigit()).values())


@contextlib.contextmanager
def wrapped(service: Service, mode: str, root: Path = contestants.ROOT,
            options: tuple[str, ...] = ()) -> Iterator[Place]:
    program = [*contestants.python(root), "-m", "wrapper"]
    with tempfile.TemporaryDirectory() as folder:
        control = f"{folder}/control"

        def make(_: str, listen: str) -> list[str]:
            return [*program, "--listen", listen, "--control", control, "--restart-mode", mode, *options, "--",
                    *service("127.0.0.1:{port}")]

        def restart() -> None:
            subprocess.run([*program, "ctl", "--control", control, "restart"], check=True, cwd=folder,
                           env=contestants.environment(), stdout=subprocess.DEVNULL, timeout=60)

        with contestants.run("wrapper", make) as running:
            yield Place(running.address, restart, running.pid)


@contextlib.contextmanager
def kept_by_go(service: Service) -> Iterator[Place]:
    upstream = contestants.free_address()

    def make(_: str, listen: str) -> list[str]:
        return [contestants.peer(), "keeper", listen, upstream, *service(upstream)]

    with contestants.run("keeper", make) as running:
        def restart() -> None:
            os.kill(running.pid, signal.SIGHUP)
            wait_for_outage_to_end(upstream)

        yield Place(running.address, restart, running.pid)


@contextlib.contextmanager
def supervised(command: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A service that is started again whenever it ends; its runs so far."""
    runs, is_over = [subprocess.Popen(command)], threading.Event()

    def supervise() -> None:
        while not is_over.is_set():
            runs[-1].wait()
            if not is_over.is_set():
                runs.append(subprocess.Popen(command))

    thread = threading.Thread(target=supervise, name="supervisor", daemon=True)
    thread.start()
    try:
        yield runs
    finally:
        is_over.set()
        while thread.is_alive():
            runs[-1].kill()
            thread.join(0.1)
        runs[-1].kill()
        runs[-1].wait()


@contextlib.contextmanager
def behind_nginx(service: Service) -> Iterator[Place]:
    upstream = contestants.free_address()

    def make(folder: str, listen: str) -> list[str]:
        return contestants.nginx_proxy(folder, listen, upstream)

    with supervised(service(upstream)) as runs, contestants.run("nginx", make) as running:
        def restart() -> None:
            runs[-1].terminate()
            wait_for_outage_to_end(upstream)

        yield Place(running.address, restart, running.pid)


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


def open_place(name: str, service: Service, *options: str) -> contextlib.AbstractContextManager[Place]:
    if name.startswith("wrapper"):
        return wrapped(service, "overlap" if name.endswith("overlap") else "replace", options=options)
    return kept_by_go(service) if name == GO else behind_nginx(service)


# What befalls the service, one function each: returns the columns of its row

Row = dict[str, str]


async def load(clients: Clients, act: Callable[[], Any]) -> Any:
    """What `act` returns, which runs in a thread while the clients ask."""
    asking = asyncio.ensure_future(clients.ask_on())
    await asyncio.sleep(PAUSE)  # they come first
    found = await asyncio.get_running_loop().run_in_executor(None, act)
    clients.is_over = True
    await asking
    return found


def planned(name: str, log: Log) -> Row:
    """Planned restarts of a service that takes 2 s to start."""
    with open_place(name, log.service(2)) as place:
        clients = Clients(place.address)

        def restart() -> list[tuple[float, float]]:
            spans = []
            for _ in range(RESTARTS):
                begin = time.monotonic()
                place.restart()
                spans.append((begin, time.monotonic()))
                time.sleep(PAUSE)  # the quiet part, measured too
            return spans

        spans = asyncio.run(load(clients, restart))
    good = [one for one in clients.asked if one.is_good]
    within = [one.seconds for one in good if any(begin <= one.begin <= end for begin, end in spans)]
    outside = [one.seconds for one in good if not any(begin <= one.begin <= end for begin, end in spans)]
    return {**shown(clients, log), "p99 in a restart": f"{p99(within):.1f} ms",
            "p99 outside": f"{p99(outside):.1f} ms"}


def killed(name: str, log: Log) -> Row:
    """Ends by kill -9, with a service that starts in 0.2 s; a quarter of the requests are POSTs."""
    with open_place(name, log.service(0.2), "--restart", "on-failure", "--backoff", "100ms..100ms") as place:
        clients = Clients(place.address, has_posts=True)

        def kill() -> int:
            in_flight = 0
            for _ in range(KILLS):
                in_flight += clients.open_posts
                os.kill(log.pids[-1], signal.SIGKILL)
                time.sleep(KILL_PAUSE)  # until the next one is at work
            return in_flight

        in_flight = asyncio.run(load(clients, kill))
    failed = Counter(one.is_post for one in clients.asked if not one.is_good)
    return {**shown(clients, log), "failed": f"{failed[False]:,}", "POSTs failed": f"{failed[True]:,}",
            "POSTs under way at a kill": f"{in_flight:,}"}


def hung(name: str, log: Log) -> Row:
    """A service that is stopped with SIGSTOP; --live-path is asked every 0.5 s and may fail once."""
    options = ("--live-path", "/", "--live-interval", "500ms", "--live-failures", "2")
    with open_place(name, log.service(0.2), *options) as place:
        clients = Clients(place.address)

        def hang() -> None:
            for _ in range(HANGS):
                pid = log.pids[-1]
                os.kill(pid, signal.SIGSTOP)
                time.sleep(HANG)  # the span that is measured
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        asyncio.run(load(clients, hang))
    return shown(clients, log)


def poisoned(name: str, log: Log) -> Row:
    """A path that ends the service, asked a thousand times."""
    runs = []
    with open_place(name, log.service(0), "--restart", "on-failure", "--backoff", "1ms..1ms") as place:
        for _ in range(TRIES):
            before = len(log.pids)
            with loads.connect(place.address) as connection:
                connection.sendall(b"GET /die HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
                while connection.recv(65536):
                    pass
            with loads.connect(place.address) as connection:  # held until the next run is there
                connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
                loads.read_head(connection)
            runs.append(len(log.pids) - before)
    return {"tries": f"{TRIES:,}", "runs ended by one": f"{max(runs)} at most"}


def ended(name: str, log: Log) -> Row:
    """The end: TERM (nginx: QUIT), while every request has a connection of its own."""
    with open_place(name, log.service(0), "--shutdown-delay", f"{DELAY:g}s") as place:
        clients = Clients(place.address, is_fresh=True)

        def end() -> float:
            told = time.monotonic()
            os.kill(place.pid, signal.SIGQUIT if name == NGINX else signal.SIGTERM)
            time.sleep(DELAY + 1)  # the span that is measured
            return told

        told = asyncio.run(load(clients, end))
    delayed = [one for one in clients.asked if told <= one.begin and one.begin + one.seconds < told + DELAY]
    return {"requests in 3 s from TERM on": f"{len(delayed):,}",
            "refused or failed": f"{sum(1 for one in delayed if not one.is_good):,}"}


WHAT: dict[str, tuple[Callable[[str, Log], Row], tuple[str, ...]]] = {
    "planned": (planned, ("wrapper, replace", "wrapper, overlap", GO, NGINX)),
    "killed": (killed, ("wrapper", GO, NGINX)),
    "hung": (hung, ("wrapper", GO, NGINX)),
    "poisoned": (poisoned, ("wrapper",)),
    "ended": (ended, ("wrapper", GO, NGINX))}


def shown(clients: Clients, log: Log) -> Row:
    longest = max((one.seconds for one in clients.asked), default=0.0)
    failed = sum(1 for one in clients.asked if not one.is_good)
    return {"requests": f"{len(clients.asked):,}", "failed": f"{failed:,}",
            "one was sent": f"{log.most_sent} times at most", "longest wait": f"{longest:.2f} s"}


def p99(seconds: list[float]) -> float:
    """Milliseconds."""
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000 if seconds else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="WHAT,...", default=",".join(WHAT), help="some of: " + ", ".join(WHAT))
    parser.add_argument("--places", metavar="PLACE", help="only those whose name begins so")
    options = parser.parse_args()
    is_clean = True
    for what in options.only.split(","):
        befall, places = WHAT[what]
        print(f"\n{(befall.__doc__ or '').splitlines()[0]}\n")
        for index, name in enumerate(place for place in places if place.startswith(options.places or "")):
            with tempfile.TemporaryDirectory() as folder:
                row = befall(name, Log(f"{folder}/seen"))
            if not index:
                print(f"| | {' | '.join(row)} |\n|---|{'---:|' * len(row)}")
            print(f"| {name} | {' | '.join(row.values())} |", flush=True)
            is_clean &= not name.startswith("wrapper") or row.get("failed", row.get("refused or failed", "0")) == "0"
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
