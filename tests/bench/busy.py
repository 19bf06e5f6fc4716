"""What relayed requests notice of a busy sidecar: `python3 tests/bench/busy.py`.

A steady load goes through the wrapper to nginx, alone and beside something busy, taking turns. Goal: a route that is
asked all the time leaves the 99th percentile within 1.5 times. A handler that computes without end is shown beside
another process that does so: that much is the machine's, the rest is the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import contestants
import loads

ROUNDS = 7
SECONDS = 1.5  # of load in each measurement
CONNECTIONS, RATE = 8, 500  # the steady load, requests a second
ROUTE_RATE = 200  # requests a second for the route
MAX_RATIO = 1.5
SIDECAR = """
import time
from wrapper import Sidecar
sidecar = Sidecar()
sidecar.route("GET", "/sidecar/hello")(lambda: {"hello": "world"})

@sidecar.route("GET", "/sidecar/compute", timeout=None)
def compute(request):
    end = time.monotonic() + float(request.query["seconds"])
    while time.monotonic() < end:
        sum(number * number for number in range(100))
"""


def steady(address: str, seconds: float, connections: int, rate: float, path: str = "/") -> list[float]:
    """Milliseconds each request took, sorted; requests are sent at their time, however the earlier ones fare."""
    spans: list[float] = []
    begin = time.perf_counter()

    def run(number: int) -> None:
        due = begin + number / rate
        with loads.connect(address) as connection:
            while due < begin + seconds:
                time.sleep(max(0.0, due - time.perf_counter()))  # the rate itself
                sent = time.perf_counter()
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
                loads.read_head(connection)
                spans.append((time.perf_counter() - sent) * 1e3)
                due += connections / rate

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(spans)


@contextlib.contextmanager
def beside(work: threading.Thread) -> Iterator[None]:
    work.start()
    time.sleep(0.2)  # until it is well under way
    yield
    work.join()


def compute(address: str) -> None:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", f"/sidecar/compute?seconds={SECONDS + 0.5}")
    assert connection.getresponse().status == 204
    connection.close()


@contextlib.contextmanager
def busy(kind: str, address: str) -> Iterator[None]:
    if kind == "a route asked all the time":
        asked = threading.Thread(target=steady, args=(address, SECONDS + 0.5, 2, ROUTE_RATE, "/sidecar/hello"))
        with beside(asked):
            yield
    elif kind == "a handler that computes":
        with beside(threading.Thread(target=compute, args=(address,))):
            yield
    elif kind == "another process that computes":
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
            yield
            process.kill()
    else:
        yield


KINDS = ("alone", "a route asked all the time", "another process that computes", "a handler that computes")


def measure(address: str) -> dict[str, float]:
    """The 99th percentile in ms beside each kind of work."""
    found = {}
    for kind in KINDS:
        with busy(kind, address):
            spans = steady(address, SECONDS, CONNECTIONS, RATE)
        found[kind] = spans[int(len(spans) * 0.99)]
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        sidecar = Path(folder, "busy_sidecar.py")
        sidecar.write_text(SIDECAR)

        def proxy(own: str, listen: str) -> list[str]:
            return contestants.wrapper(own, listen, service.address, "--sidecar", str(sidecar), "--log-level", "error")

        with contestants.run("nginx", contestants.nginx_service) as service:
            with contestants.run("wrapper", proxy) as running:
                rounds = [measure(running.address) for _ in range(ROUNDS)]
    # Of medians: within one round a percentile of a thousand requests is ten of them, and jumps.
    spans = {kind: statistics.median(found[kind] for found in rounds) for kind in KINDS}
    for kind, span in spans.items():
        print(f"{kind:32} p99 {span:6.2f} ms  x {span / spans['alone']:.2f}")
    return int(spans["a route asked all the time"] > MAX_RATIO * spans["alone"])


if __name__ == "__main__":
    sys.exit(main())
