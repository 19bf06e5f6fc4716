"""The exposed port: takes connections, reads requests, and lets the sidecar or the service answer them.

One road for every request, and one `except` that turns what went wrong into an answer. RFC 9112 section 9
(connections), RFC 9110 section 15 (status codes).
"""

from __future__ import annotations

import http.server
import json
import select
import socket
import ssl
import threading
import time
from email.utils import formatdate
from http import HTTPStatus

from wrapper.errors import Refusal, RequestTimeout, Unavailable
from wrapper.http1 import RequestHead, read_request
from wrapper.log import log
from wrapper.message import Ended, Request, Response, normal_path
from wrapper.pool import Lot, Pool, Worker
from wrapper.proxy.headers import Peer, TrustedProxies
from wrapper.proxy.relay import Broken, Exchange, chunk
from wrapper.proxy.tunnel import Tunnel
from wrapper.proxy.upstream import Upstream
from wrapper.stream import READ_SIZE, Body, ClientGone, SecureStream, Stream, do_nothing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from wrapper.gate import Gate, Lane

    class Site(Protocol):
        """Who answers what: the wrapper's own paths, and the gates of the services behind the others."""

        prefixes: tuple[str, ...]
        observes: bool

        def answer(self, request: Request) -> Response | None:
            """The answer to a request below one of `prefixes`; None: relay it. May raise a Refusal."""

        def gate(self, path: str) -> Gate: ...

        def ended(self, ended: Ended) -> None: ...


LINGER_TIMEOUT = 2.0  # seconds a client whose body we do not read gets to see our answer; nginx's lingering_timeout is 5
ACCEPT_PAUSE = 0.5  # seconds without taking connections when there are no descriptors left
LEAVE_TIMEOUT = 0.5  # seconds a held client that has ended its side, but may only have half-closed, keeps its place
_NEVER = float("inf")
_RDHUP = 0x2000  # EPOLLRDHUP of epoll_ctl(2)
_BROKEN = select.EPOLLHUP | select.EPOLLERR
PREFACE = b"PRI * HTTP/2.0\r\n"  # how HTTP/2 begins (RFC 9113 section 3.4), as far as it looks like HTTP/1


class Handler(http.server.BaseHTTPRequestHandler):
    """One client's connection. Its base class would read and answer in one go; here it waits without a thread."""

    protocol_version = "HTTP/1.1"
    server: Server

    def __init__(self, connection: socket.socket, address: Any, server: Server) -> None:
        self.server = server
        self.client_address = address
        self.stream = Stream(connection, server.settings.idle_timeout)
        self.peer = server.peer_of(connection, address)
        self.deadline = _NEVER
        self.is_registered = False
        self.is_closed = False
        self.head_began = 0.0  # when the first byte of a head came that is not complete yet
        self.began = 0.0
        self.held_exchange: Exchange | None = None
        self.verdict: tuple[Lane | None, Refusal | None, float] | None = None

    def fileno(self) -> int:
        return self.stream.fileno()

    # Events: each is called by whoever took the connection out of its lot

    def read(self, worker: Worker, event: int = 0) -> None:
        """Bytes have come, or the end."""
        stream = self.stream
        try:
            data = stream.read_now(READ_SIZE)
        except BlockingIOError:
            self._park()
            return
        except OSError:
            self.close()
            return
        if not data:
            self.close()
            return
        stream.rest = stream.rest + data if stream.rest else data
        self._serve(worker)

    def shake_hands(self, worker: Worker) -> None:
        """The TLS handshake: it may take a client long, so nobody waits for it."""
        worker.step_aside()
        context = self.server.tls
        assert context is not None
        try:
            connection = context.wrap_socket(self.stream.socket, server_side=True, do_handshake_on_connect=False)
            self.stream = stream = SecureStream(connection, self.server.settings.header_timeout)
            stream.handshake()
            stream.patience = self.server.settings.idle_timeout
        except (OSError, ValueError) as error:
            log.debug("no TLS with a client", cause=error)
            self.close()
            return
        self.read(worker)

    def expire_idle(self) -> None:
        self.close()

    def expire_head(self) -> None:
        """RFC 9110 section 15.5.9; said without waiting, because this is the sweeper's thread."""
        try:
            self.stream.write_now(self._refusal_bytes(RequestTimeout("the request did not come in time"), True, False))
        except ClientGone:
            pass
        self.close()

    def expire_surplus(self) -> None:
        """One connection too many."""
        refusal = Unavailable(f"there are {self.server.settings.max_connections} connections already")
        try:
            self.stream.write_now(self._refusal_bytes(refusal, True, False))
        except ClientGone:
            pass
        self._part()

    def leave_held(self, worker: Worker, event: int) -> None:
        """A client that is held ended its side, or broke."""
        if event & _BROKEN:
            self.forget_held()
            return
        with self.server.held_lock:
            if self.verdict is None:
                self.server.pool.park(self, self.server.leaving)

    def forget_held(self) -> None:
        exchange = self.held_exchange
        if exchange is not None and exchange.gate.forget(exchange):
            self.close()

    def linger(self, worker: Worker, event: int) -> None:
        """Read and drop what comes until the client has seen our answer and closes."""
        try:
            while self.stream.read_now(READ_SIZE):
                pass
        except BlockingIOError:
            self.server.pool.park_until(self, self.server.lingering, self.deadline)
            return
        except OSError:
            pass
        self.close()

    def resume(self, worker: Worker) -> None:
        """The gate has decided about the request that was held."""
        exchange, verdict = self.held_exchange, self.verdict
        assert exchange is not None and verdict is not None
        self.held_exchange = self.verdict = None
        lane, refusal, exchange.held = verdict
        self._settle(exchange, lane, refusal, worker)
        self._go_on(exchange.keep, exchange.body, worker)

    # One request after the other

    def _serve(self, worker: Worker) -> None:
        """Serve what has been read; afterwards the connection is parked, held or closed."""
        stream, server = self.stream, self.server
        while True:
            try:
                head = read_request(stream.rest, server.max_header)
            except Refusal as refusal:
                self._refuse_head(refusal, worker)
                return
            if head is None:
                self._park()
                return
            if not self.handle_one(head, worker):
                return
            if not stream.rest:
                self._park()
                return

    def _refuse_head(self, refusal: Refusal, worker: Worker) -> None:
        if self.stream.rest.startswith(PREFACE) and self.server.settings.h2c:
            self._pass_http2(worker)
            return
        try:
            self._write(self._refusal_bytes(refusal, True, False), worker)
        except ClientGone:
            pass
        self._part()

    def handle_one(self, head: RequestHead, worker: Worker) -> bool:
        """Serve one request; True where another may follow on this connection now."""
        server, stream = self.server, self.stream
        rest = stream.rest
        stream.rest = rest[head.end:] if len(rest) > head.end else b""
        self.head_began = 0.0
        self.began = time.monotonic()
        body = Body(stream, head, server.max_header)
        path = normal_path(head.target.decode("latin-1"))
        site = server.site
        if path.startswith(site.prefixes) and (keep := self._answer_own(head, body, path, worker)) is not None:
            return self._go_on(keep, body, worker, is_serving=True)
        exchange = Exchange(stream, head, body, self.peer, server.pool, server.settings.upstream_timeout)
        if server.is_closing:
            exchange.keep = False
        try:
            gate = site.gate(path)
            exchange.gate = gate
            exchange.on_proceed = self.proceed
            lane = gate.admit(exchange)
        except Refusal as refusal:
            self._settle(exchange, None, refusal, worker)
        else:
            if lane is None:
                self._hold(exchange)
                return False
            self._settle(exchange, lane, None, worker)
        return self._go_on(exchange.keep, body, worker, is_serving=True)

    def _settle(self, exchange: Exchange, lane: Lane | None, refusal: Refusal | None, worker: Worker) -> None:
        """Relay the exchange, or answer it with what went wrong: the ONE place where errors become answers."""
        try:
            if refusal is not None:
                raise refusal
            assert lane is not None
            exchange.travel(lane, worker)
        except Refusal as said:
            self._refuse(exchange, said, worker)
        except ClientGone:
            exchange.keep = False
            exchange.status = exchange.status or 499
        except Broken as error:
            log.debug("an answer broke", cause=error)
            exchange.keep = False
            self.stream.reset()
        except Exception as error:
            log.error("an exchange failed", cause=repr(error))
            exchange.keep = False
            if not exchange.is_answered:
                self._refuse(exchange, Refusal("the wrapper failed"), worker)
        finally:
            if lane is not None:
                exchange.gate.leave(lane, exchange)
        if self.server.site.observes:
            self._tell_ended(exchange)

    def _refuse(self, exchange: Exchange, refusal: Refusal, worker: Worker) -> None:
        exchange.status = refusal.status
        exchange.keep = exchange.keep and exchange.body.is_done and not exchange.is_cut
        is_head = exchange.head.method == b"HEAD"
        try:
            self._write(self._refusal_bytes(refusal, not exchange.keep, is_head, exchange.held), worker)
        except ClientGone:
            exchange.keep = False

    def _tell_ended(self, exchange: Exchange) -> None:
        now = time.monotonic()
        self.server.site.ended(Ended(
            exchange.head.method.decode("ascii"), exchange.head.target.decode("latin-1"), exchange.status,
            now - self.began, exchange.first_byte, exchange.held, exchange.body.received, exchange.sent, False,
            self.peer.address))

    def _go_on(self, keep: bool, body: Body, worker: Worker, is_serving: bool = False) -> bool:
        """Close, linger, or stay for the next request; True where the caller is to read on."""
        if not keep:
            self._part(is_whole=body.is_done and not self.stream.rest)
            return False
        if is_serving:
            return True
        if self.stream.rest:
            self._serve(worker)
        else:
            self._park()
        return False

    def _park(self) -> None:
        """Wait for the next bytes, without a thread."""
        server, stream = self.server, self.stream
        if not stream.rest:
            if server.is_closing:
                self.close()
            elif stream.is_secure and stream.has_unseen():
                server.pool.submit(_Again(self))
            else:
                server.pool.park(self, server.idle)
            return
        now = time.monotonic()
        self.head_began = self.head_began or now
        if stream.is_secure and stream.has_unseen():
            server.pool.submit(_Again(self))
        else:
            server.pool.park_until(self, server.heading, self.head_began + server.heading.timeout)

    def _hold(self, exchange: Exchange) -> None:
        """The gate told it to wait: watch only whether the client leaves."""
        with self.server.held_lock:
            self.held_exchange = exchange
            if self.verdict is None:
                self.server.pool.park(self, self.server.holding)
                return
        self.server.pool.submit(self)

    def proceed(self, lane: Lane | None, refusal: Refusal | None, held: float) -> None:
        """From the gate's own thread, once: the wait is over."""
        with self.server.held_lock:
            self.verdict = (lane, refusal, held)
            if self.held_exchange is None:
                return  # so quick that `_hold` has not been reached; it submits then
            server = self.server
            if not server.pool.take_out(self, server.holding):
                server.pool.take_out(self, server.leaving)
        self.server.pool.submit(self)

    # Own paths

    def _answer_own(self, head: RequestHead, body: Body, path: str, worker: Worker) -> bool | None:
        """Let the sidecar answer; returns whether the connection can be kept, None where the path is not its own."""
        worker.step_aside()  # nobody knows how long a sidecar takes
        if head.expects:
            body.before_wait = self._continue
        request = Request(head, path, body, self.peer.address, self.server.trusted)
        own = OwnAnswer(self.stream, head.method == b"HEAD", head.minor, head.keep and not self.server.is_closing)
        try:
            response = self.server.site.answer(request)
            if response is None:
                body.before_wait = do_nothing
                return None
            own.send(response, body)
        except Refusal as refusal:
            own.refuse(refusal, body)
        except ClientGone:
            own.keep = False
        except Exception as error:
            log.error("an own path failed", path=path, cause=repr(error))
            own.refuse(Refusal("the wrapper failed"), body)
        if self.server.site.observes:
            now = time.monotonic()
            self.server.site.ended(Ended(
                request.method, request.target, own.status, now - self.began, now - self.began, 0.0, body.received,
                own.sent, True, self.peer.address))
        return own.keep

    def _continue(self) -> None:
        self.stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # HTTP/2 that is not for us

    def _pass_http2(self, worker: Worker) -> None:
        """With prior knowledge (RFC 9113 section 3.3) the service gets the connection as it is."""
        exchange = Passage(self.stream, self.server)
        try:
            exchange.gate = self.server.site.gate("/")
            lane = exchange.gate.admit(exchange)
            if lane is None:
                exchange.gate.forget(exchange)
                raise Unavailable("the service is not ready, and HTTP/2 cannot be held")
        except Refusal:
            self.close()
            return
        try:
            exchange.travel(lane, worker)
        except Refusal:
            pass
        finally:
            exchange.gate.leave(lane, exchange)
        self.close()

    # The end

    def _refusal_bytes(self, refusal: Refusal, close: bool, is_head: bool, held: float = 0.0) -> bytes:
        """An error of our own for a relayed path: a short page of text."""
        text = f"{refusal.status} {_reason(refusal.status)}\n{refusal.message}\n".encode()
        fields = list(refusal.headers)
        if held:
            fields.append(("Wrapper-Held", f"{held:.3f}"))
        return answer_bytes(refusal.status, fields, "text/plain; charset=utf-8", text, close, is_head)

    def _write(self, data: bytes, worker: Worker) -> None:
        sent = self.stream.write_now(data)
        if sent < len(data):
            worker.step_aside()
            self.stream.write(memoryview(data)[sent:])

    def _part(self, is_whole: bool = False) -> None:
        """Close; where the client may still be sending, only after it could see our answer (RFC 9112 section 9.6)."""
        if is_whole or self.is_closed:
            self.close()
            return
        self.stream.finish_writing()
        self.stream.rest = b""
        self.server.pool.park(self, self.server.lingering)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.stream.close()
            self.server.left(self)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format % args)


class _Again:
    """A connection with bytes that the kernel does not know of: read on soon, without starving the others."""

    __slots__ = ("_handler",)

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def resume(self, worker: Worker) -> None:
        self._handler.read(worker)


class Passage:
    """A connection that is passed to the service as it is, as the gate sees it."""

    def __init__(self, stream: Stream, server: Server) -> None:
        self._stream = stream
        self.gate: Gate

    def proceed(self, lane: Lane | None, refusal: Refusal | None, held: float) -> None:
        return

    def warn(self, going: str) -> None:
        return  # nothing can be said that HTTP/2 would understand

    def cut(self) -> None:
        self._stream.cut()

    def travel(self, lane: Lane, worker: Worker) -> None:
        worker.step_aside()
        upstream: Upstream = lane.upstream  # type: ignore[assignment]
        connection = upstream.connect()
        try:
            Tunnel(self._stream, connection.sock, b"", False).run(worker.buffer)
        finally:
            connection.close()


class OwnAnswer:
    """The answer to a request for one of the wrapper's own paths."""

    def __init__(self, stream: Stream, is_head: bool, minor: int, keep: bool) -> None:
        self._stream = stream
        self._is_head = is_head
        self._minor = minor
        self._has_begun = False
        self.keep = keep
        self.status = 0
        self.sent = 0

    def send(self, response: Response, body: Body) -> None:
        """Raises: ClientGone, and whatever the iteration over the response raises."""
        try:
            self.keep = self.keep and body.is_done
            self.status = response.status
            if response.is_streamed:
                self._stream_out(response)
            else:
                self._write(answer_bytes(response.status, response.headers, None, response.whole(), not self.keep,
                                         self._is_head, self._minor))
        finally:
            response.close()

    def _stream_out(self, response: Response) -> None:
        has_length = any(name.lower() == "content-length" for name, _ in response.headers)
        is_chunked = self._minor == 1 and not has_length
        if not is_chunked and not has_length:
            self.keep = False
        framing = [("Transfer-Encoding", "chunked")] if is_chunked else []
        self._write(head_bytes(response.status, response.headers + framing, not self.keep, self._minor))
        if self._is_head or response.status in (204, 304):
            return
        for piece in response.pieces():
            if piece:
                self._write(chunk(piece) if is_chunked else piece)
        if is_chunked:
            self._write(b"0\r\n\r\n")

    def refuse(self, refusal: Refusal, body: Body) -> None:
        if self._has_begun:  # nothing honest can be said any more: the end is missing
            self.keep = False
            return
        self.status = refusal.status
        self.keep = self.keep and body.is_done
        text = json.dumps({"error": refusal.message, "status": refusal.status}).encode() + b"\n"
        try:
            self._write(answer_bytes(refusal.status, refusal.headers, "application/json", text, not self.keep,
                                     self._is_head, self._minor))
        except ClientGone:
            self.keep = False

    def _write(self, data: bytes) -> None:
        self._has_begun = True
        self._stream.write(data)
        self.sent += len(data)


def head_bytes(status: int, fields: Any, close: bool, minor: int = 1) -> bytes:
    """The head of an answer of our own (RFC 9110 section 6.6.1 asks for a Date)."""
    lines = [f"HTTP/1.1 {status} {_reason(status)}", f"Date: {_date()}"]
    lines += [f"{name}: {value}" for name, value in fields]
    if close:
        lines.append("Connection: close")
    elif not minor:
        lines.append("Connection: keep-alive")
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a line break in a field of an answer")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


def answer_bytes(status: int, fields: Any, content_type: str | None, body: bytes, close: bool, is_head: bool,
                 minor: int = 1) -> bytes:
    """A whole answer of our own."""
    fields = list(fields)
    if content_type is not None:
        fields.append(("Content-Type", content_type))
    if status in (204, 304) or status < 200:
        return head_bytes(status, fields, close, minor)
    if not any(name.lower() == "content-length" for name, _ in fields):
        fields.append(("Content-Length", str(len(body))))
    return head_bytes(status, fields, close, minor) + (b"" if is_head else body)


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _date() -> str:
    return formatdate(usegmt=True)


class Door:
    """The listening socket, as something that waits for events; parked where it is shut for a moment."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.deadline = _NEVER
        self.is_registered = False

    def fileno(self) -> int:
        return self.server.socket.fileno()

    def open(self) -> None:
        if not self.server.is_closing:
            self.server.pool.park(self, self.server.knocking)

    def answer(self, worker: Worker, event: int) -> None:
        """Take one connection; the door is open again before it is served."""
        server = self.server
        try:
            connection, address = server.get_request()
        except BlockingIOError:
            self.open()
            return
        except OSError as error:
            if server.is_closing:
                return
            # EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection stays in the queue, so trying at once would spin.
            log.warning("cannot take a connection", cause=error)
            server.pool.park(self, server.shut)
            return
        self.open()
        server.welcome(connection, address, worker)


class Server(http.server.ThreadingHTTPServer):
    """Serves `listener`, which must be listening already. `trusted`: it is the control socket."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, site: Site, settings: Any, *, trusted: bool = False) -> None:
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.setblocking(False)
        self.site = site
        self.settings = settings
        self.trusted = trusted
        self.max_header: int = settings.max_header
        self.is_unix = listener.family == socket.AF_UNIX
        self.is_closing = False
        self.accepted = 0
        self.tls = _tls_context(settings) if not trusted else None
        self.trusted_proxies = TrustedProxies(tuple(settings.trusted_proxies))
        # Guards each handler's `held_exchange` and `verdict`, and where it is parked meanwhile.
        self.held_lock = threading.Lock()
        self._open: set[Handler] = set()
        self.pool = Pool(2 * settings.max_connections + 64)
        self._add_lots(self.pool, settings)
        self.door = Door(self)

    def _add_lots(self, pool: Pool, settings: Any) -> None:
        readable = select.EPOLLIN | _RDHUP
        self.idle = pool.add(Lot(readable, settings.idle_timeout, Handler.read, Handler.expire_idle))
        self.heading = pool.add(Lot(readable, settings.header_timeout, Handler.read, Handler.expire_head))
        self.knocking = pool.add(Lot(select.EPOLLIN, _NEVER, Door.answer, Door.open))
        self.shut = pool.add(Lot(0, ACCEPT_PAUSE, Door.answer, Door.open))
        self.holding = pool.add(Lot(_RDHUP, _NEVER, Handler.leave_held, Handler.forget_held))
        self.leaving = pool.add(Lot(0, LEAVE_TIMEOUT, Handler.leave_held, Handler.forget_held))
        self.lingering = pool.add(Lot(select.EPOLLIN, LINGER_TIMEOUT, Handler.linger, Handler.expire_idle))

    @property
    def connections(self) -> int:
        return len(self._open)

    @property
    def threads(self) -> int:
        return self.pool.threads

    def start(self) -> None:
        self.pool.start()
        self.door.open()

    def stop(self) -> None:
        """Take no more connections, close those that carry nothing; answers say Connection: close from now on."""
        self.is_closing = True
        for lot in (self.knocking, self.shut):
            self.pool.take_out(self.door, lot)
        self.socket.close()
        for fd, handler in list(self.idle.waiting.items()):
            if self.idle.waiting.pop(fd, None) is handler:
                handler.close()  # type: ignore[attr-defined]

    def close_connections(self) -> None:
        """Cut whatever is left, and end the threads."""
        for handler in list(self._open):
            handler.stream.cut()
        self.pool.stop()

    def get_request(self) -> tuple[socket.socket, Any]:
        return self.socket.accept()

    def welcome(self, connection: socket.socket, address: Any, worker: Worker) -> None:
        """Serve a new connection at once: its first request has mostly come with it."""
        self.accepted += 1
        if not self.is_unix:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handler = Handler(connection, address, self)
        self._open.add(handler)
        if len(self._open) > self.settings.max_connections:
            handler.expire_surplus()
        elif self.tls is not None:
            handler.shake_hands(worker)
        else:
            handler.read(worker)

    def left(self, handler: Handler) -> None:
        self._open.discard(handler)
        if self.shut.waiting and self.pool.take_out(self.door, self.shut):
            self.door.open()

    def peer_of(self, connection: socket.socket, address: Any) -> Peer:
        host = None if self.is_unix else str(address[0])
        if host is not None and host.startswith("::ffff:"):
            host = host[7:]  # an IPv4 client of a socket for both
        return Peer(host, self.tls is not None, self.trusted_proxies.trust(host))

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.error("a connection failed")


def _tls_context(settings: Any) -> ssl.SSLContext | None:
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.tls_cert, settings.tls_key or settings.tls_cert)
    context.set_alpn_protocols(["http/1.1"])
    return context
