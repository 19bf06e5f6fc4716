"""One client's connection: reads requests, and lets the sidecar or the service answer them.

One road for every request, and one `except` that turns what went wrong into an answer. RFC 9112 section 9
(connections), RFC 9110 section 15 (status codes).
"""

from __future__ import annotations

import functools
import http.server
import socket
import time

from wrapper.errors import Refusal, RequestTimeout, Unavailable
from wrapper.http1 import read_request
from wrapper.log import log
from wrapper.message import Ended, Request, normal_path
from wrapper.poll import BROKEN
from wrapper.proxy.passage import pass_through
from wrapper.proxy.relay import Exchange
from wrapper.proxy.upstream import Unreached
from wrapper.proxy.watch import Broken
from wrapper.reply import OwnAnswer, refusal_bytes
from wrapper.secure import SecureStream
from wrapper.stream import READ_SIZE, Body, ClientGone, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.gate import Lane
    from wrapper.http1 import RequestHead
    from wrapper.pool import Worker
    from wrapper.port import Port
    from wrapper.proxy.upstream import Connection

_NEVER = float("inf")
TURN_MAX = 16  # pipelined requests that are served before others have their turn
PREFACE = b"PRI * HTTP/2.0\r\n"  # how HTTP/2 begins (RFC 9113 section 3.4), as far as it looks like HTTP/1


class Handler(http.server.BaseHTTPRequestHandler):
    """One client's connection. Its base class would read and answer in one go; here it waits without a thread."""

    protocol_version = "HTTP/1.1"
    server: Port  # type: ignore[assignment]

    def __init__(self, connection: socket.socket, address: Any, server: Port) -> None:
        self.server = server
        self.client_address = address
        self.stream = Stream(connection, server.settings.idle_timeout)
        self.peer = server.peer_of(connection, address)
        self.deadline = _NEVER
        self.is_registered = False
        self.is_closed = False
        self.head_began = 0.0  # when the first byte of a head came that is not complete yet
        self.began = 0.0
        self.last_head: RequestHead | None = None
        self.known = 0  # bytes of a head that is not complete yet, as far as they have been judged
        self.may_ask_more = True  # the client has not said that the present request is its last
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
            data = b""
        if not data:
            self.close()
            return
        stream.rest = stream.rest + data if stream.rest else data
        self._serve(worker)

    def greet(self, worker: Worker) -> None:
        """Begin with TLS where the port speaks it."""
        context = self.server.tls_context()
        if context is None:
            self.read(worker)
            return
        self.head_began = time.monotonic()
        try:
            self.stream = SecureStream(self.stream.socket, self.stream.patience, context)
        except (OSError, ValueError) as error:
            log.debug("no TLS with a client", cause=error)
            self.close()
            return
        self.shake_hands(worker)

    def shake_hands(self, worker: Worker, event: int = 0) -> None:
        """A part of the TLS handshake has come: no thread waits for the next, and no other client does."""
        stream, lot = self.stream, self.server.greeting
        assert isinstance(stream, SecureStream)
        try:
            is_done = stream.shake_hands()
        except (OSError, ValueError) as error:
            log.debug("no TLS with a client", cause=error)
            self.close()
            return
        if is_done:
            self.head_began = 0.0
            self.read(worker)
        else:
            self.server.pool.park_until(self, lot, self.head_began + lot.timeout)

    def expire_idle(self) -> None:
        self.close()

    def expire_head(self) -> None:
        """RFC 9110 section 15.5.9; said without waiting, because this is the sweeper's thread."""
        self._say_at_once(RequestTimeout("the request did not come in time"))
        self.close()

    def expire_surplus(self) -> None:
        """One connection too many."""
        self._say_at_once(Unavailable(f"there are {self.server.settings.max_connections} connections already"))
        self.part()

    def _say_at_once(self, refusal: Refusal) -> None:
        try:
            self.stream.write_now(refusal_bytes(refusal, close=True))
        except ClientGone:
            pass

    def leave_held(self, worker: Worker, event: int) -> None:
        """A client that is held ended its side, or broke; or the event is a late one of somebody else."""
        if event & BROKEN:
            self.forget_held()
            return
        has_ended = self.stream.has_ended()
        with self.server.held_lock:
            if self.held_exchange is not None and self.verdict is None:
                self.server.pool.park(self, self.server.leaving if has_ended else self.server.holding)

    def forget_held(self) -> None:
        exchange = self.held_exchange
        if exchange is not None and exchange.gate.forget(exchange):
            self.close()

    def linger(self, worker: Worker, event: int) -> None:
        """Read and drop what comes until the client has seen our answer and closes."""
        try:
            is_more = bool(self.stream.read_now(READ_SIZE))
        except BlockingIOError:
            is_more = True
        except OSError:
            is_more = False
        if is_more:
            self.server.pool.park_until(self, self.server.lingering, self.deadline)
        else:
            self.close()

    def _resume(self, worker: Worker) -> None:
        """The gate has decided about the request that was held."""
        with self.server.held_lock:
            exchange, verdict = self.held_exchange, self.verdict
            self.held_exchange = self.verdict = None
        assert exchange is not None
        assert verdict is not None
        lane, refusal, exchange.held = verdict
        if self._settle(exchange, lane, refusal, worker):
            self._go_on(exchange.keep, exchange.body, worker)

    @staticmethod
    def answer_came(connection: Connection, worker: Worker, _event: int) -> None:
        """Something of an awaited answer has come."""
        handler, exchange = connection.awaited_by
        handler._travel_on(exchange, worker, is_late=False)

    @staticmethod
    def expire_awaited(connection: Connection) -> None:
        """An answer has been awaited without a thread for long enough."""
        handler, exchange = connection.awaited_by
        handler.server.pool.submit(functools.partial(handler._travel_on, exchange, is_late=True))

    def _travel_on(self, exchange: Exchange, worker: Worker, is_late: bool) -> None:
        if self._settle(exchange, exchange.lane, None, worker, is_late):
            self._go_on(exchange.keep, exchange.body, worker)

    # One request after the other

    def _serve(self, worker: Worker) -> None:
        """Serve what has been read; afterwards the connection is parked, held or closed."""
        stream, server = self.stream, self.server
        for _ in range(TURN_MAX):
            try:
                head = read_request(stream.rest, server.max_header, self.last_head, self.known)
            except Refusal as refusal:
                self._refuse_head(refusal, worker)
                return
            if head is None:
                self.known = len(stream.rest)
                self._park()
                return
            self.known = 0
            if not self.handle_one(head, worker):
                return
            if not stream.rest:
                self._park()
                return
        server.pool.submit(self._serve)  # when others have had their turn

    def _refuse_head(self, refusal: Refusal, worker: Worker) -> None:
        if self.stream.rest.startswith(PREFACE) and self.server.settings.h2c:
            pass_through(self.stream, self.server.site.gate("/"), worker)
            self.close()
            return
        try:
            self._write(refusal_bytes(refusal, close=True), worker)
        except ClientGone:
            pass
        self.part()

    def handle_one(self, head: RequestHead, worker: Worker) -> bool:
        """Serve one request; True where another may follow on this connection now."""
        server, stream = self.server, self.stream
        rest = stream.rest
        stream.rest = rest[head.end:] if len(rest) > head.end else b""
        self.head_began = 0.0
        self.last_head = head if head.rest else None
        self.may_ask_more = head.keep
        self.began = time.monotonic()
        body = Body(stream, head, server.max_header)
        path = normal_path(head.target.decode("latin-1"))
        site = server.site
        if path.startswith(site.prefixes):
            keep = self._answer_own(head, body, path, worker)
            if keep is not None:
                return self._go_on(keep, body, worker, is_serving=True)
        exchange = Exchange(stream, head, body, self.peer, server.pool, server.settings.upstream_timeout)
        exchange.gate = site.gate(path)
        exchange.on_proceed = self.proceed
        return self._enter(exchange, worker) and self._go_on(exchange.keep, body, worker, is_serving=True)

    def _enter(self, exchange: Exchange, worker: Worker) -> bool:
        """Ask the gate, and relay or refuse; False where somebody else goes on with it later."""
        try:
            lane = exchange.gate.admit(exchange)
        except Refusal as refusal:
            return self._settle(exchange, None, refusal, worker)
        if lane is None:
            self._hold(exchange)
            return False
        return self._settle(exchange, lane, None, worker)

    def _settle(self, exchange: Exchange, lane: Lane | None, refusal: Refusal | None, worker: Worker,
                is_late: bool | None = None) -> bool:
        """Relay the exchange, or answer it with what went wrong: the ONE place where errors become answers.

        False where its answer is awaited without a thread: then somebody else may have gone on with it already.
        """
        is_over = True
        try:
            if refusal is not None:
                raise refusal
            assert lane is not None
            exchange.lane = lane
            is_over = exchange.travel(lane, worker) if is_late is None else exchange.travel_on(worker, is_late)
        except Unreached as said:
            if lane is not None and lane.run is not None and exchange.go_back(lane, worker):
                # The gate may not have been told yet.
                exchange.gate.lose(lane.run, "the service has ended")
                exchange.gate.leave(lane, exchange)
                return self._enter(exchange, worker)
            self._refuse(exchange, said, worker)
        except Refusal as said:
            self._refuse(exchange, said, worker)
        except (ClientGone, Broken) as error:
            log.debug("an exchange broke", cause=error)
            exchange.keep = False
            exchange.status = exchange.status or 499
            if exchange.is_answered:
                self._break()
        except Exception as error:  # noqa: BLE001  a fault of ours is one client's 500, not everybody's end
            log.error("an exchange failed", cause=repr(error))
            exchange.keep = False
            if not exchange.is_answered:
                self._refuse(exchange, Refusal("the wrapper failed"), worker)
        if not is_over:
            self._await(exchange)
            return False
        if lane is not None:
            exchange.gate.leave(lane, exchange)
        if self.server.site.observes:
            self._tell_ended(exchange)
        return True

    def _await(self, exchange: Exchange) -> None:
        """Nothing of this connection or its exchange may be touched after this."""
        connection = exchange.connection
        assert connection is not None
        connection.awaited_by = (self, exchange)
        pool, lot = self.server.pool, self.server.awaiting
        seconds = lot.timeout if exchange.timeout is None else min(exchange.timeout, lot.timeout)
        pool.park_until(connection, lot, time.monotonic() + seconds)

    def _refuse(self, exchange: Exchange, refusal: Refusal, worker: Worker) -> None:
        exchange.status = refusal.status
        is_spoilt = not exchange.body.is_done or exchange.is_cut or self.server.pool.is_closing
        exchange.keep = exchange.keep and not is_spoilt
        is_head = exchange.head.method == b"HEAD"
        try:
            self._write(refusal_bytes(refusal, not exchange.keep, is_head, exchange.held, exchange.head.minor), worker)
        except ClientGone:
            exchange.keep = False

    def _tell_ended(self, exchange: Exchange) -> None:
        now = time.monotonic()
        self.server.site.ended(Ended(
            exchange.head.method.decode("ascii"), exchange.head.target.decode("latin-1"), exchange.status,
            now - self.began, (exchange.first_byte or now) - self.began, exchange.held, exchange.body.received,
            exchange.sent, False, self.peer.address, exchange.head))

    def _go_on(self, keep: bool, body: Body, worker: Worker, is_serving: bool = False) -> bool:
        """Close, linger, or stay for the next request; True where the caller is to read on."""
        if not keep:
            self.part(is_whole=body.is_done and not self.stream.rest and not self.may_ask_more)
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
        pool, stream = self.server.pool, self.stream
        if not stream.rest and pool.is_closing:
            self.part()
            return
        if stream.rest:
            self.head_began = self.head_began or time.monotonic()
        if stream.is_secure and stream.has_unseen():  # what the kernel will not tell of any more
            pool.submit(self.read)
        elif stream.rest:
            pool.park_until(self, self.server.heading, self.head_began + self.server.heading.timeout)
        else:
            self._park_idle()

    def _park_idle(self) -> None:
        pool, lot = self.server.pool, self.server.idle
        pool.park(self, lot)
        if pool.is_closing and pool.take_out(self, lot):
            self.part()  # the port was being stopped, and may have looked before we came

    def _hold(self, exchange: Exchange) -> None:
        """The gate told it to wait: watch only whether the client leaves."""
        with self.server.held_lock:
            self.held_exchange = exchange
            if self.verdict is None:
                self.server.pool.park(self, self.server.holding)
                return
        self.server.pool.submit(self._resume)

    def proceed(self, lane: Lane | None, refusal: Refusal | None, held: float) -> None:
        """From the gate's own thread, once: the wait is over."""
        with self.server.held_lock:
            self.verdict = (lane, refusal, held)
            if self.held_exchange is None:
                return  # so quick that `_hold` has not been reached; it submits then
            server = self.server
            if not server.pool.take_out(self, server.holding):
                server.pool.take_out(self, server.leaving)
        self.server.pool.submit(self._resume)

    # Own paths

    def _answer_own(self, head: RequestHead, body: Body, path: str, worker: Worker) -> bool | None:
        """Let the sidecar answer; returns whether the connection can be kept, None where the path is not its own."""
        server = self.server
        request = Request(head, path, body, self.peer.address, server.trusted)
        own = OwnAnswer(self.stream, head, body, worker, head.keep and not server.pool.is_closing)
        if not own.answer(server.site, request):
            return None
        if own.is_broken:
            self._break()
        if server.site.observes:
            seconds = time.monotonic() - self.began
            server.site.ended(Ended(request.method, request.target, own.status, seconds, seconds, 0.0, body.received,
                                    own.sent, True, self.peer.address, head))
        return own.keep

    # The end

    def _write(self, data: bytes, worker: Worker) -> None:
        sent = self.stream.write_now(data)
        if sent < len(data):
            if not worker.step_aside():
                raise ClientGone("no thread can be had to wait for the client")
            self.stream.write(memoryview(data)[sent:])

    def part(self, is_whole: bool = False) -> None:
        """Close; where the client may still be sending, only after it could see our answer (RFC 9112 section 9.6).

        What is closed with bytes unread is reset, and with it goes what the client has not taken yet of an answer.
        """
        if is_whole or self.is_closed:
            self.close()
            return
        self.stream.finish_writing()
        self.stream.rest = b""
        self.server.pool.park(self, self.server.lingering)

    def _break(self) -> None:
        """At once: an end before the reset would look like success where the end is what frames the answer."""
        self.stream.reset()
        self.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.stream.close()
            self.server.left(self)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format % args)
