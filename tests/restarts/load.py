"""Clients that ask without a pause, and what the service has noted of them."""

from __future__ import annotations

import asyncio
import collections
import itertools
import sys
import threading
import time

from tests.running import PATIENCE, SERVICES, wait_until

NUMBERS = itertools.count(1)  # of requests, no two alike in one test run


def counting(log, start="0") -> list[str]:
    """The command of the service that counts."""
    return [sys.executable, "-S", "-u", str(SERVICES / "counting.py"), "{port}", str(log), str(start)]


class Noted:
    """The log of the service that counts, over all its runs."""

    def __init__(self, path) -> None:
        self.lines = [line.split() for line in path.read_text().splitlines()]

    def of(self, word) -> list[list[str]]:
        return [line[1:] for line in self.lines if line[0] == word]

    @property
    def repeated(self) -> list[str]:
        """Numbers of requests that it got more than once."""
        counts = collections.Counter(line[1] for line in self.lines if line[0] in ("whole", "began"))
        both = {line[0] for line in self.of("began")}
        return [number for number, count in counts.items() if count > 1 + (number in both)]

    @property
    def most(self) -> int:
        """How often it got one request at the most."""
        return max(collections.Counter(line[1] for line in self.lines if line[0] == "whole").values())

    @property
    def longest_outage(self) -> float:
        """Seconds between the end of one run and the next one that listened."""
        marks = sorted((float(line[1]), line[0]) for line in self.lines if line[0] in ("up", "down"))
        return max((two[0] - one[0] for one, two in zip(marks, marks[1:])
                    if (one[1], two[1]) == ("down", "up")), default=0.0)


class _Client(asyncio.Protocol):
    """One keep-alive connection that asks as soon as it has its answer."""

    def __init__(self, load) -> None:
        self.load = load
        self.data = b""
        self.began = 0.0

    def connection_made(self, transport) -> None:
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        if self.load.is_over:
            self.began = 0.0
            self.transport.close()
            return
        self.began = time.monotonic()
        self.number = next(NUMBERS)
        self.transport.write(b"GET /?%d HTTP/1.1\r\nHost: test\r\n\r\n" % self.number)

    def data_received(self, data) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self.data = b""
        self.load.held += b"\r\nwrapper-held:" in lower
        is_good = head.startswith(b"HTTP/1.1 200 ") and body == b"ok"
        self.load.note(self, None if is_good else f"{head!r} {body!r}")
        if b"connection: close" in lower:
            self.began = 0.0
            self.transport.close()
        elif is_good:
            self._ask()
        else:
            asyncio.get_running_loop().call_later(0.01, self._ask)  # who was refused does not hammer

    def connection_lost(self, error) -> None:
        if self.began:
            self.load.note(self, f"the connection broke: {error!r} {self.data!r}")
        self.load.came_back()


class Load:
    """`connections` clients in a thread of their own, from `with` to its end.

    `answered` and `failed` hold (begin, seconds, what) of each request, in the order of the answers; `held` of them
    had to wait at the gate.
    """

    def __init__(self, port: int, connections: int) -> None:
        self.answered: list[tuple[float, float, str]] = []
        self.failed: list[tuple[float, float, str]] = []
        self.held = 0
        self.is_over = False
        self._port = port
        self._connections = connections
        self._open = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.is_over = True
        self._thread.join(60)
        assert not self._thread.is_alive(), "a client still waits for its answer"

    async def _run(self) -> None:
        self._all_closed = asyncio.Event()
        await asyncio.gather(*(self._connect() for _ in range(self._connections)))
        await self._all_closed.wait()

    async def _connect(self) -> None:
        self._open += 1
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Client(self), "127.0.0.1", self._port)
        except OSError as error:
            self.failed.append((time.monotonic(), 0.0, f"cannot connect: {error}"))
            asyncio.get_running_loop().call_later(0.01, self.came_back)

    def came_back(self) -> None:
        self._open -= 1
        if not self.is_over:
            self._reconnecting = asyncio.ensure_future(self._connect())
        elif not self._open:
            self._all_closed.set()

    def note(self, client, fault) -> None:
        one = (client.began, time.monotonic() - client.began, fault or "")
        client.began = 0.0
        (self.failed if fault else self.answered).append(one)

    def wait(self, more: int, timeout: float = PATIENCE) -> None:
        """Wait until `more` further requests have been answered."""
        wanted = len(self.answered) + more
        wait_until(lambda: len(self.answered) >= wanted, timeout, f"{more} more answers; failed: {self.failed[-3:]}")

    @property
    def longest(self) -> float:
        return max(one[1] for one in self.answered)

    def p99(self, spans, *, inside: bool) -> float:
        """Seconds, of the requests that began in one of the (begin, end) `spans`, or in none."""
        chosen = sorted(one[1] for one in self.answered
                        if any(begin <= one[0] <= end for begin, end in spans) is inside)
        return chosen[int(len(chosen) * 0.99)]
