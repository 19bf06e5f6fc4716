"""Server and Gate alone, always open, without a service or a controller: `bare.py LISTEN UPSTREAM`, for profiles."""

from __future__ import annotations

import sys
import threading

from wrapper import sockets
from wrapper.front.server import Server
from wrapper.gate import Gate
from wrapper.proxy.upstream import Upstream
from wrapper.settings import address


class Settings:
    """What the server and the upstream read of the settings, at their defaults."""

    max_header = 64 << 10
    max_connections = 10_000
    idle_timeout = 60.0
    header_timeout = 10.0
    upstream_timeout = None
    h2c = False
    replay = "idempotent"
    error_page = None
    trusted_proxies = ()
    via = False
    tls_cert = tls_key = None


class Site:
    """No own paths; everything is relayed through one gate."""

    prefixes = ("/sidecar/",)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def answer(self, request: object) -> None:
        return None

    def gate(self, path: str) -> Gate:
        return self._gate

    def is_quick(self, path: str) -> bool:
        return False

    def note_failure(self, status: int, reason: str, what: str) -> None:
        pass

    def note_shortage(self, what: str, is_short: bool) -> None:
        pass

    def ended(self, facts: object) -> None:
        pass


def main(listen: str, upstream: str) -> None:
    gate = Gate(Upstream, hold_timeout=30.0, hold_max=1000)
    gate.open(address.parse(upstream))
    server = Server(sockets.listen(address.parse(listen)), Site(gate), Settings())
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
