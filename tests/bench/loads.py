"""What is done to a proxy: each load takes an address and a span in seconds and returns {metric: value}."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator

import contestants

UPLOAD_SIZE = 512 << 20
PIECE = 1 << 20
TIMEOUT = 60.0
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}


def wrk(url: str, seconds: float, connections: int, path: str = "/", *fields: str) -> dict[str, float]:
    """Requests a second and the 99th percentile in ms, by wrk with one thread.

    Raises: RuntimeError where a request failed: a fast proxy that fails is no proxy.
    """
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command += [part for field in fields for part in ("-H", field)]
    text = subprocess.run([*command, f"{url}{path}"], check=True, stdout=subprocess.PIPE,
                          timeout=seconds + TIMEOUT).stdout.decode()
    if "Socket errors" in text or "Non-2xx" in text:
        raise RuntimeError(f"requests failed:\n{text}")
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert tail and rate, text
    return {"requests/s": float(rate[1]), "p99 ms": float(tail[1]) * UNITS[tail[2]]}


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT)


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The response head, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            raise RuntimeError(f"the connection ended in the head: {data!r}")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(f"not a 200: {head!r}")
    return head, rest


def download(address: str, size: int) -> dict[str, float]:
    buffer = memoryview(bytearray(PIECE))
    begin = time.perf_counter()
    with connect(address) as connection:
        connection.sendall(b"GET /download HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        count = len(read_head(connection)[1])
        while received := connection.recv_into(buffer):
            count += received
    if count != size:
        raise RuntimeError(f"{count} bytes of {size} arrived")
    return {"MiB/s": size / PIECE / (time.perf_counter() - begin)}


def upload(address: str) -> dict[str, float]:
    piece = bytes(PIECE)
    begin = time.perf_counter()
    with connect(address) as connection:
        connection.sendall(b"POST /upload HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
                           b"Content-Length: %d\r\n\r\n" % UPLOAD_SIZE)
        for _ in range(UPLOAD_SIZE // PIECE):
            connection.sendall(piece)
        answer = read_head(connection)[1]
        while piece := connection.recv(65536):
            answer += piece
    if str(UPLOAD_SIZE).encode() not in answer:
        raise RuntimeError(f"the service counted {answer!r}")
    return {"MiB/s": UPLOAD_SIZE / PIECE / (time.perf_counter() - begin)}


@contextlib.contextmanager
def idle(address: str, count: int) -> Iterator[None]:
    """`count` keep-alive connections that have each made one request and now do nothing."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(connect(address))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            read_head(connection)
            connections.append(connection)
        yield
        for connection in connections:
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while connection.recv(65536):
                    pass
                raise RuntimeError("an idle connection was closed while it was counted")


def busy_beside_idle(address: str, seconds: float, count: int) -> dict[str, float]:
    alone = wrk(f"http://{address}", seconds, 1)["requests/s"]
    with idle(address, count):
        beside = wrk(f"http://{address}", seconds, 1)
    return {"requests/s": beside["requests/s"], "of its own rate": beside["requests/s"] / alone}


def event_delay(address: str, events: int) -> dict[str, float]:
    """From the moment the service writes an event to its first byte here: the first of a stream, and the median."""
    delays = []
    with connect(address) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: bench\r\n\r\n")
        data = read_head(connection)[1]
        while len(delays) < events:
            now = time.time_ns()
            delays += [(now - int(stamp)) / 1e6 for stamp in re.findall(rb"data: (\d+)\n\n", data)]
            data = data[data.rfind(b"\n\n") + 2:] if b"\n\n" in data else data
            data += connection.recv(65536)
    return {"first event ms": delays[0], "event ms": statistics.median(delays)}


class Crowd:
    """Clients in a process of their own, which `crowd.go` tells about."""

    def __init__(self, load: str, *words: object) -> None:
        self._what = f"crowd {load}"
        self._process = subprocess.Popen([contestants.peer(), "crowd", load, *map(str, words)],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def await_ready(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.figures()

    def figures(self) -> dict[str, float]:
        """Let it go on, where it waits for that, and return what it found.

        Raises: RuntimeError where it failed.
        """
        output, errors = self._process.communicate(b"\n", 4 * TIMEOUT)
        if self._process.returncode or not output:
            raise RuntimeError(f"{self._what} failed: {errors.decode()}")
        found: dict[str, float] = json.loads(output)
        return found

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def crowd(load: str, *words: object) -> Iterator[Crowd]:
    clients = Crowd(load, *words)
    try:
        yield clients
    finally:
        clients.end()


@contextlib.contextmanager
def beside(kind: str, url: str) -> Iterator[dict[str, float]]:
    """Something small is asked every 10 ms (`crowd.go` says of which kinds); its figures are there at the end."""
    found: dict[str, float] = {}
    with crowd("beside", kind, url) as clients:
        clients.await_ready()
        yield found
        found.update(clients.figures())


def handshakes(url: str, count: int) -> dict[str, float]:
    with beside("kept", url) as kept, crowd("handshake", url, count) as clients:
        clients.figures()
    return {"worst plain request s": kept["worst s"]}
