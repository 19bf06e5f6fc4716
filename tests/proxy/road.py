"""The exposed port in front of a scripted service, both in this process, and a client that speaks raw bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import types

from tests.loop.driving import held
from wrapper.front.server import Server
from wrapper.gate import Gate
from wrapper.http1.message import Response
from wrapper.proxy.upstream import Upstream
from wrapper.settings import address

PATIENCE = 10.0  # seconds after which a test says that what it waits for will not come

DEFAULTS = {
    "max_header": 65536, "max_connections": 1000, "idle_timeout": 30.0, "header_timeout": 10.0,
    "upstream_timeout": None, "replay": "idempotent",
    "error_page": None, "h2c": False, "trusted_proxies": (), "via": False, "tls_cert": None, "tls_key": None,
}


class GatedRun:
    """A run of the service, as the gate sees it, that a test ends."""

    def __init__(self):
        self.ended = threading.Event()

    def has_fallen(self):
        return self.ended.is_set()


class Site:
    """Own paths below /sidecar, answered by `answers[path](request)`; everything else through one gate."""

    prefixes = ("/sidecar",)

    def __init__(self, gate):
        self.answers = {}
        self.seen = []
        self.short = {}
        self.failures = []
        self.arrived = threading.Condition()
        self._gate = gate

    def answer(self, request):
        if request.path != "/sidecar" and not request.path.startswith("/sidecar/"):
            return None
        return self.answers.get(request.path, lambda request: Response(b"own"))(request)

    def is_quick(self, path):
        return path == "/sidecar/healthz"

    def gate(self, path):
        return self._gate

    def ended(self, ended):
        with self.arrived:
            self.seen.append(ended)
            self.arrived.notify_all()

    def note_failure(self, status, reason, what):
        self.failures.append(f"{status} for {what}: {reason}")

    def note_shortage(self, what, is_short):
        self.short[what] = is_short

    def wait_ended(self, count=1):
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.seen) >= count, PATIENCE)
            return self.seen[count - 1]


class EndedError(AssertionError):
    """The other side ended before all came that was waited for."""


class Line:
    """One end of a connection, in raw bytes."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        self.rest = b""

    def send(self, data):
        self.sock.sendall(data)
        return self

    def until(self, mark):
        """What comes up to and with `mark`."""
        while mark not in self.rest:
            piece = self.sock.recv(65536)
            if not piece:
                raise EndedError(f"ended after {self.rest!r}")
            self.rest += piece
        found, _, self.rest = self.rest.partition(mark)
        return found + mark

    def exactly(self, count):
        while len(self.rest) < count:
            piece = self.sock.recv(65536)
            if not piece:
                raise EndedError(f"ended after {self.rest!r}")
            self.rest += piece
        found, self.rest = self.rest[:count], self.rest[count:]
        return found

    def head(self):
        return self.until(b"\r\n\r\n")

    def all(self):
        """What comes until the end; a reset is an end too, see `is_reset`."""
        while piece := self.sock.recv(65536):
            self.rest += piece
        found, self.rest = self.rest, b""
        return found

    def message(self):
        """One message framed by Content-Length: (head, body)."""
        head = self.head()
        return head, self.exactly(length(head))

    def is_reset(self):
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            return True
        return False

    def is_at_end(self):
        """True when the other side ends without another byte."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.sock.close()


def length(head):
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0


def fields(head):
    """The (name, value) pairs of a head, as they stand there."""
    return [tuple(line.split(b": ", 1)) for line in head.split(b"\r\n")[1:] if line]


def field(head, name):
    values = [value for key, value in fields(head) if key.lower() == name.lower()]
    assert len(values) <= 1, values
    return values[0] if values else None


class Service:
    """Runs `script(line)` for every connection that is made to it; a failing script is the test's failure.

    Not so where it fails by nothing but the end of its connection after `close`: the test is over.
    """

    def __init__(self, script, place=("127.0.0.1", 0), family=socket.AF_INET):
        self.script = script
        self.listener = socket.socket(family)
        self.listener.bind(place)
        self.listener.listen(1024)
        self.lines = []
        self.failures = []
        self.closed = False
        name = self.listener.getsockname()
        self.address = address.unix(name) if family == socket.AF_UNIX else address.tcp(*name[:2])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while self.listener.fileno() >= 0:
            try:
                line = Line(self.listener.accept()[0])
            except OSError:
                time.sleep(0.01)  # the pace of the poll where a test takes all descriptors
                continue
            self.lines.append(line)
            threading.Thread(target=self._run, args=(line,), daemon=True).start()

    def _run(self, line):
        try:
            self.script(line)
        except (EndedError, OSError) as error:
            if not self.closed:
                self.failures.append(error)
        except AssertionError as error:
            self.failures.append(error)
        finally:
            line.close()

    def close(self):
        self.closed = True
        # A close alone would leave the thread in accept.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for line in self.lines:
            with contextlib.suppress(OSError):
                line.sock.shutdown(socket.SHUT_RDWR)


class Road:
    """Server, gate and service; `open` is False for a gate that is still shut."""

    def __init__(self, script, is_open=True, hold=30.0, listener=None, service=None, kept_for=60.0, **settings):
        self.service = service or Service(script)
        self.gate = Gate(lambda address: Upstream(address, kept_for), hold, 1000)
        self.site = Site(self.gate)
        if listener is None:
            listener = socket.socket()
            listener.bind(("127.0.0.1", 0))
            listener.listen(1024)  # a client that found the queue full would try again after a second
        self.listener = listener
        self.place = listener.getsockname()
        self.server = Server(listener, self.site, types.SimpleNamespace(**{**DEFAULTS, **settings}))
        self.server.start()
        if is_open:
            self.gate.open(self.service.address)
        else:
            self.gate.hold("the service is starting")

    def connect(self):
        sock = socket.socket(self.listener.family)
        sock.settimeout(PATIENCE)
        sock.connect(self.place)
        return Line(sock)

    def connect_with(self, data):
        """A connection whose first bytes come along with it, however late this thread gets its turn to send them."""
        with held(self.server.loop):
            return self.connect().send(data)

    def ask(self, request):
        """All that comes back on a connection that carries `request`, until it ends."""
        line = self.connect().send(request)
        try:
            return line.all()
        finally:
            line.close()

    def close(self):
        self.service.closed = True  # its connections end from here on
        self.server.stop()
        self.server.close_connections()
        self.service.close()


def answering(*answers):
    """A script: reads one request after the other (Content-Length bodies) and answers each with the next answer."""
    def script(line):
        for answer in answers:
            try:
                line.message()
            except AssertionError:
                if line.rest:
                    raise
                return  # the end, between two requests
            line.send(answer)
        line.is_at_end()
    return script


def in_turn(*answers):
    """A script that gives the answers one after the other, whichever connection asks: not all of them are kept."""
    left = iter(answers)

    def script(line):
        while True:
            try:
                line.message()
            except EndedError:
                return
            line.send(next(left))
    return script


def echoing(line):
    """A script: answers every request with the request itself as it came, head and body, chunked ones too."""
    while True:
        try:
            head = line.head()
        except AssertionError:
            return
        body = line.exactly(length(head))
        if b"transfer-encoding: chunked" in head.lower():
            body = line.until(b"0\r\n")
            body += line.until(b"\r\n") if line.rest.startswith(b"\r\n") else line.head()
        text = head + body
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
GET_CLOSE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def frame(payload, masked=False):
    """A WebSocket frame of binary data (RFC 6455 section 5.2)."""
    size = len(payload)
    mark = 0x80 if masked else 0
    if size < 126:
        head = bytes([0x82, mark | size])
    elif size < 65536:
        head = bytes([0x82, mark | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x82, mark | 127]) + size.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if masked else b"") + payload
