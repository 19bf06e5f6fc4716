"""One exchange with the service: request out, answer back, both streamed. The same road for plain and upgraded ones.

RFC 9110 sections 7 (routing), 9.2.2 (idempotent methods), 10.1.1 (Expect), 15.2 (1xx); RFC 9112 section 6 and 9.
"""

from __future__ import annotations

import select
import socket
import time

from wrapper.chunked import chunk, last_chunk
from wrapper.deadline import Deadline
from wrapper.errors import BadGateway, GatewayTimeout, Refusal, Unavailable
from wrapper.http1 import Malformed
from wrapper.proxy import headers
from wrapper.proxy.tunnel import Tunnel
from wrapper.proxy.upload import Upload
from wrapper.proxy.upstream import INTERIM_MAX, PATIENCE
from wrapper.stream import ClientGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.gate import Gate, Lane
    from wrapper.http1 import AnswerHead, RequestHead
    from wrapper.pool import Pool, Worker
    from wrapper.proxy.headers import Peer
    from wrapper.proxy.upstream import Connection, Upstream
    from wrapper.stream import Body, Stream

LEAVE_TIMEOUT = 0.5  # seconds a client that has ended its side, but may only have half-closed, is given
UPLOAD_TIMEOUT = 0.005  # seconds an answer waits for the end of its request's upload before it gives the client up
SHORT_BODY = 64 * 1024  # bytes of a request's body that are awaited and sent along with its head
LONG_BODY = 256 * 1024  # bytes of an answer after which a worker steps aside
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))  # RFC 9110 section 9.2.2
_RDHUP = 0x2000  # POLLRDHUP of poll(2), which CPython's select names on some platforms only
_BROKEN = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Broken(Exception):
    """The answer broke after its head had gone out: all that is left is to cut the connection."""


class Exchange:
    """One request and its response, between one client and one run of the service.

    After `travel`, `keep` says whether the client's connection may carry another.
    """

    __slots__ = ("_connection", "_has_sent", "_is_stream_between", "_timeout", "_tunnel", "_upload", "_worker",
                 "body", "first_byte", "gate", "going", "head", "held", "is_answered", "is_cut", "keep",
                 "on_proceed", "peer", "pool", "sent", "status", "stream")

    def __init__(self, stream: Stream, head: RequestHead, body: Body, peer: Peer, pool: Pool,
                 timeout: float | None) -> None:
        self.stream = stream
        self.head = head
        self.body = body
        self.peer = peer
        self.pool = pool
        self.keep = head.keep
        self.gate: Gate
        self.held = 0.0
        self.is_answered = False
        self.status = 0
        self.sent = 0
        self.first_byte = 0.0  # when the answer of the service began, on the monotonic clock
        self.going = ""  # why this exchange should end soon
        self.on_proceed: Callable[[Lane | None, Refusal | None, float], None]
        self._timeout = timeout
        self._connection: Connection | None = None
        self._tunnel: Tunnel | None = None
        self._upload: Upload | None = None
        self._worker: Worker
        self._has_sent = False
        self.is_cut = False
        self._is_stream_between = False  # an event stream, and no event of it is half-sent

    # For the gate

    def proceed(self, lane: Lane | None, refusal: Refusal | None, held: float) -> None:
        self.on_proceed(lane, refusal, held)

    def warn(self, going: str) -> None:
        self.going = going
        if self._tunnel is not None:
            self._tunnel.warn(going)
        elif self._is_stream_between:
            self._wake()

    def _wake(self) -> None:
        """Let whoever waits for the service read an end."""
        connection = self._connection
        if connection is not None:
            try:
                connection.sock.shutdown(socket.SHUT_RD)
            except OSError:
                pass

    def cut(self) -> None:
        """A client that has no answer yet still gets one, from us."""
        self.is_cut = True
        if self._connection is not None:
            self._connection.cut()
        if self.is_answered:
            self.stream.cut()

    # The road

    def travel(self, lane: Lane, worker: Worker) -> None:
        """Relay the request to the service and its answer to the client.

        Raises: a Refusal as long as the answer has not begun; Broken after that; ClientGone.
        """
        self._worker = worker
        upstream: Upstream = lane.upstream  # type: ignore[assignment]
        try:
            connection, answer = self._ask(upstream)
            if answer.status == 101:
                self._tunnel_through(connection, answer)
            else:
                self._relay(upstream, connection, answer)
        finally:
            if self._upload is not None:
                self._upload.finish()  # first: its thread uses the connection's descriptor
            if self._connection is not None:
                self._connection.close()

    def _ask(self, upstream: Upstream) -> tuple[Connection, AnswerHead]:
        """Send the request and read the answer's head; once more on a fresh connection where a kept one was stale."""
        request = headers.request_head(self.head, self.peer, upstream.host) + self._first_body()
        kept = upstream.take_kept()
        connection = kept if kept is not None else self._connect(upstream)
        while True:
            self._connection = connection
            try:
                return connection, self._exchange_heads(upstream, connection, request)
            except Malformed as error:
                raise BadGateway(f"the service's answer is not HTTP: {error}") from None
            except OSError as error:
                connection.close()
                self._connection = None
                if not (connection.is_used and self._may_ask_again(connection, request)):
                    raise self._failure(error) from None
            connection = self._connect(upstream)

    def _connect(self, upstream: Upstream) -> Connection:
        self._worker.step_aside()
        connection = upstream.connect()
        if self.is_cut:
            connection.close()
            raise self._failure(None)
        return connection

    def _may_ask_again(self, connection: Connection, request: bytes) -> bool:
        """RFC 9110 section 9.2.2: nothing of the answer came, and repeating does no harm or nothing had been sent."""
        if connection.answer.data or self.is_answered or self.is_cut or connection.answer.has_begun:
            return False
        if not self._has_sent:
            return len(request) <= SHORT_BODY
        return self._upload is None and self.head.method in _IDEMPOTENT

    def _failure(self, error: OSError | None) -> Refusal:
        if self._upload is not None and self._upload.refusal is not None:
            return self._upload.refusal
        if self._upload is not None and self._upload.has_client_left:
            raise ClientGone("the client left in the middle of its request")
        if self.is_cut:
            return Unavailable("the service is being stopped")
        return BadGateway(f"the service broke the connection: {error}")

    def _first_body(self) -> bytes:
        """What of the body can go along with the head, framed."""
        if self.body.is_done:
            return b""
        if self.head.expects or (self.head.length > SHORT_BODY and not self.stream.rest):
            return b""
        payload = self.body.arrive(PATIENCE, SHORT_BODY)
        if not self.head.is_chunked:
            return payload
        return chunk(payload) + (last_chunk(headers.trailers(self.body.trailers)) if self.body.is_done else b"")

    def _exchange_heads(self, upstream: Upstream, connection: Connection, request: bytes) -> AnswerHead:
        self._has_sent = False
        connection.send(request)
        self._has_sent = True
        if not self.body.is_done:
            self._start_upload(connection)
        if not upstream.is_slow:
            return self._read_heads(upstream, connection)
        self._worker.step_aside()
        began = time.monotonic()
        answer = self._read_heads(upstream, connection)
        if time.monotonic() - began < PATIENCE:
            upstream.is_slow = False
        return answer

    def _start_upload(self, connection: Connection) -> None:
        self._worker.step_aside()
        self._upload = upload = Upload(self.body, connection, self.head.is_chunked)
        if not self.pool.lend(upload.run):
            self._upload = None
            raise Unavailable("no thread can be had for this upload")

    def _read_heads(self, upstream: Upstream, connection: Connection) -> AnswerHead:
        """Pass interim answers on; returns the final one, or 101."""
        deadline = Deadline(self._timeout) if self._timeout else None

        def wait() -> None:
            upstream.is_slow = True
            self._await_service(connection, deadline)

        for _ in range(INTERIM_MAX):
            answer = connection.getresponse().read_head(self.head.method, wait)
            if not answer.is_interim:
                return answer
            if answer.status == 101:
                if not self.head.upgrade:
                    raise Malformed("it switches protocols though nobody asked")
                return answer
            if self.head.minor:  # RFC 9110 section 15.2: never to an HTTP/1.0 client
                self._send(headers.answer_head(answer, b"", False))
        raise Malformed("too many interim answers")

    def _await_service(self, connection: Connection, deadline: Deadline | None) -> None:
        """Wait until the service has sent something; the client is watched meanwhile.

        Raises: GatewayTimeout; ClientGone.
        """
        self._worker.step_aside()
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        poll.register(self.stream.socket, _RDHUP)
        service = connection.sock.fileno()
        while True:
            events = dict(poll.poll(_milliseconds(deadline)))
            if service in events:
                return
            if not events:
                if not self._is_uploading():
                    raise GatewayTimeout("the service did not answer in time")
                deadline = Deadline(self._timeout)
            elif self._has_left(connection, next(iter(events.values()))):
                raise ClientGone("the client left")
            else:
                return

    def _has_left(self, connection: Connection, event: int) -> bool:
        """A client that ended its side may only have half-closed (`nc -N`): it gets a moment for a quick answer."""
        if event & _BROKEN:
            return True
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        poll.register(self.stream.socket, 0)
        before = self.body.received
        events = dict(poll.poll(LEAVE_TIMEOUT * 1000))
        if connection.sock.fileno() in events:
            return False
        return bool(events) or not self._is_uploading() or self.body.received == before

    def _is_uploading(self) -> bool:
        return self._upload is not None and not self._upload.has_ended

    # The answer

    def _relay(self, upstream: Upstream, connection: Connection, answer: AnswerHead) -> None:
        reader = connection.answer
        is_open = not reader.is_done and answer.length is None  # no length that we could promise the client
        is_chunked = is_open and self.head.minor == 1
        if is_open and not is_chunked:
            self.keep = False
        if self._upload is not None and not self._upload.wait(UPLOAD_TIMEOUT):
            self.keep = False
        block = headers.answer_head(answer, self._own_lines(), is_chunked)
        try:
            arrived = reader.take_arrived()
        except Malformed as error:
            raise BadGateway(f"the service's answer is not HTTP: {error}") from None
        self.status = answer.status
        self.is_answered = True
        self.first_byte = time.monotonic()
        if reader.is_done and not is_chunked:
            self._send(block + arrived)
        else:
            self._stream_body(connection, answer, block, arrived, is_chunked)
        if reader.can_be_followed() and not self._is_uploading() and not self.going and not self.is_cut:
            self._connection = None
            upstream.put_back(connection)

    def _own_lines(self) -> bytes:
        lines = b""
        if not self.keep:
            lines = b"Connection: close\r\n"
        elif not self.head.minor:
            lines = b"Connection: keep-alive\r\n"
        if self.held:
            lines += b"Wrapper-Held: %.3f\r\n" % self.held
        return lines

    def _stream_body(self, connection: Connection, answer: AnswerHead, block: bytes, arrived: bytes,
                     is_chunked: bool) -> None:
        """Pass the body on piece by piece, each as soon as it is there."""
        reader, frame = connection.answer, chunk if is_chunked else bytes
        is_events = is_chunked and b"text/event-stream" in answer.fields.lower()
        out: bytes | memoryview = block + frame(arrived)
        tail = arrived[-4:]

        def wait() -> None:
            self._await_service(connection, None)

        try:
            while not reader.is_done:
                if out:
                    self._send(out)
                if is_events and self._ends_between_events(tail):
                    break
                pieces = reader.read_piece(self._worker.buffer, wait)
                out = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                if is_events:
                    tail = (tail + bytes(out[-4:]))[-4:]
                if is_chunked:
                    out = chunk(out)
                if self.sent > LONG_BODY:
                    self._worker.step_aside()
            if is_chunked:
                out = (bytes(out) if reader.is_done else b"") + last_chunk(headers.trailers(reader.trailers))
            if out:
                self._send(out)
        except (Malformed, OSError) as error:
            raise Broken(str(error)) from None

    def _ends_between_events(self, tail: bytes) -> bool:
        """True where the gate wants this event stream to end and no event would be cut in two by that."""
        is_between = not tail or tail.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
        self._is_stream_between = is_between
        if is_between and self.going:
            self.keep = False
            return True
        return False

    def _send(self, data: bytes | memoryview) -> None:
        """To the client, at once; a client that takes its time does not keep a seat."""
        sent = self.stream.write_now(data)
        if sent < len(data):
            self._worker.step_aside()
            self.stream.write(memoryview(data)[sent:])
        self.sent += len(data)

    # Upgrades

    def _tunnel_through(self, connection: Connection, answer: AnswerHead) -> None:
        self.keep = False
        self.status = 101
        self._worker.step_aside()
        early, connection.answer.data = connection.answer.data, b""
        self._tunnel = tunnel = Tunnel(self.stream, connection.sock, early, b"websocket" in self.head.upgrade.lower())
        self.is_answered = True
        self.first_byte = time.monotonic()
        self._send(headers.answer_head(answer, self._held_line(), False))
        if self.going:
            tunnel.warn(self.going)
        tunnel.run(self._worker.buffer)
        self.sent += tunnel.sent

    def _held_line(self) -> bytes:
        return b"Wrapper-Held: %.3f\r\n" % self.held if self.held else b""


def _milliseconds(deadline: Deadline | None) -> float | None:
    remaining = None if deadline is None else deadline.remaining()
    return None if remaining is None else remaining * 1000
