"""Why the loop is not asyncio: the road of small answers on its protocols, beside the wrapper: `asyncio_road.py`.

What it does is the least that a relay does: it judges heads by one strict expression each, as the wrapper does, tells
the service of the client, and keeps its connections to the service. It knows no bodies of requests, no chunks, no
gate, no own paths. `asyncio_road.py LISTEN UPSTREAM` is the proxy itself, "asyncio" among relay.py's `--proxies`.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
from collections import deque

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
SECTION = rb"(\n(?:" + TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
LINE = re.compile(TOKEN + rb" /[\x21-\x7e\x80-\xff]* HTTP/1\.1")
REQUEST = re.compile(rb"(" + LINE.pattern + rb")\r" + SECTION)
RESPONSE = re.compile(rb"(HTTP/1\.1 [1-9][0-9][0-9] [\t\x20-\x7e\x80-\xff]*\r)" + SECTION)
SPECIAL = re.compile(rb"\n(host|content-length|transfer-encoding|connection|upgrade|expect|te|forwarded"
                     rb"|x-forwarded-" + TOKEN + rb"):[ \t]*([^\r]*)", re.IGNORECASE)
FORWARDED = b"X-Forwarded-Host: %b\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\nVia: 1.1 asyncio\r\n\r\n"


class Service(asyncio.Protocol):
    """One kept connection to the service; `client` is the one that waits for the response."""

    def __init__(self, idle: deque[Service]) -> None:
        self._idle = idle
        self._data = b""
        self.client: Client | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._data = self._data + data
        match = RESPONSE.match(data)
        if match is None or self.client is None:
            return
        special = dict(SPECIAL.findall(match[2].lower()))
        if len(data) < match.end() + int(special.get(b"content-length", 0)):
            return
        self._data = b""
        client, self.client = self.client, None
        self._idle.append(self)
        client.transport.write(b"%bVia: 1.1 asyncio\r\n%b" % (data[:match.end(2)], data[match.end(2):]))

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        if self.client is not None:
            self.client.transport.close()


class Client(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, upstream: tuple[str, int], idle: deque[Service]) -> None:
        self._upstream, self._idle = upstream, idle
        self._data = self._rest = self._sent = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._name = transport.get_extra_info("peername")[0].encode()

    def data_received(self, data: bytes) -> None:
        data = self._data = self._data + data
        line, _, rest = data.partition(b"\r")
        if rest != self._rest or not LINE.fullmatch(line):  # clients mostly repeat their fields
            match = REQUEST.fullmatch(data)
            if match is None:
                return
            special = dict(SPECIAL.findall(match[2]))
            if [name.lower() for name in special] != [b"host"]:
                self.transport.close()
                return
            self._rest = rest
            self._sent = match[2] + FORWARDED % (*special.values(), self._name)
        self._data = b""
        self._send(b"%b\r%b" % (line, self._sent))

    def _send(self, request: bytes) -> None:
        if self._idle:
            service = self._idle.pop()
            service.client = self
            service.transport.write(request)
        else:
            self._connecting = asyncio.ensure_future(self._connect(request))

    async def _connect(self, request: bytes) -> None:
        _, service = await asyncio.get_running_loop().create_connection(lambda: Service(self._idle), *self._upstream)
        service.client = self
        service.transport.write(request)


async def serve(listen: str, upstream: str) -> None:
    host, _, port = listen.rpartition(":")
    behind, _, number = upstream.rpartition(":")
    idle: deque[Service] = deque()
    server = await asyncio.get_running_loop().create_server(
        lambda: Client((behind, int(number)), idle), host, int(port), backlog=4096)
    await server.serve_forever()


def main() -> int:
    import relay
    import suite
    names = ["wrapper", "asyncio"]
    print("| | wrapper | asyncio | wrapper to asyncio |\n|---|---:|---:|---:|")
    for point in relay.POINTS:
        if point.name in ("small-1", "small-16", "small-128", "go-16", "go-128"):
            rounds = suite.measure(point, names, range(5), 3.0)
            mine, other = ([one[name]["requests/s"] for one in rounds] for name in names)
            ratio = statistics.median(own / its for own, its in zip(mine, other))
            print(f"| {point.title} | {statistics.median(mine):,.0f} | {statistics.median(other):,.0f} | {ratio:.2f} |",
                  flush=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(serve(*sys.argv[1:]))
    sys.exit(main())
