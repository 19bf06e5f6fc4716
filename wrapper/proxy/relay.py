"""One exchange with the service: request out, answer back, both streamed. The same road for plain and upgraded ones.

RFC 9110 sections 7 (routing), 9.2.2 (idempotent methods), 10.1.1 (Expect), 15.2 (1xx); RFC 9112 section 6 and 9.
"""

from __future__ import annotations

import time

from wrapper.chunked import chunk, last_chunk
from wrapper.errors import BadGateway, GatewayTimeout, Refusal, Unavailable
from wrapper.http1 import Malformed
from wrapper.proxy import headers
from wrapper.proxy.delivery import SHORT_WAIT, Delivery
from wrapper.proxy.tunnel import Tunnel
from wrapper.proxy.upload import Upload
from wrapper.proxy.upstream import CONNECT_TIMEOUT, INTERIM_MAX
from wrapper.proxy.watch import Broken, await_service
from wrapper.stream import ClientGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.gate import Gate, Lane
    from wrapper.answer import AnswerHead
    from wrapper.http1 import RequestHead
    from wrapper.pool import Pool, Worker
    from wrapper.proxy.bell import Bell
    from wrapper.proxy.headers import Peer
    from wrapper.proxy.upstream import Connection, Upstream
    from wrapper.stream import Body, Stream

AWAIT_TIMEOUT = 0.25  # seconds an answer is awaited without a thread; then one waits, and watches the client too
UPLOAD_TIMEOUT = 0.005  # seconds an answer waits for the end of its request's upload before it gives the client up
NOTICE_TIMEOUT = 0.05  # seconds until the end of a run has been noticed: a signal, a wait and two threads
SEATED_TIMEOUT = 0.1  # seconds a connection may take to be made where no thread can be had to wait for it
SHORT_BODY = 64 * 1024  # bytes of a request's body that are awaited and sent along with its head
LARGE_REQUEST = 16 * 1024  # bytes of a request that a socket's buffer takes without waiting for the service
_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))  # RFC 9110 section 9.2.2


class _Waiting(Exception):
    """The answer takes long; nobody should sit and wait for it."""


class Exchange:
    """One request and its response, between one client and one run of the service.

    After `travel`, `keep` says whether the client's connection may carry another.
    """

    __slots__ = ("_asked_at", "_delivery", "_has_client_ended", "_has_gone_back", "_has_sent", "_interim", "_is_late",
                 "_request", "_tunnel", "_upload", "_upstream", "body", "connection", "first_byte", "gate", "going",
                 "head", "held", "is_answered", "is_cut", "keep", "lane", "on_proceed", "peer", "pool", "sent",
                 "status", "stream", "timeout", "worker")

    def __init__(self, stream: Stream, head: RequestHead, body: Body, peer: Peer, pool: Pool,
                 timeout: float | None) -> None:
        self.stream = stream
        self.head = head
        self.body = body
        self.peer = peer
        self.pool = pool
        self.keep = head.keep
        self.gate: Gate
        self.lane: Lane | None = None
        self.held = 0.0
        self.is_answered = False
        self.status = 0
        self.sent = 0
        self.first_byte = 0.0  # when the answer of the service began, on the monotonic clock
        self.going = ""  # why this exchange should end soon
        self.on_proceed: Callable[[Lane | None, Refusal | None, float], None]
        self.timeout = timeout
        self.connection: Connection | None = None
        self._tunnel: Tunnel | None = None
        self._upload: Upload | None = None
        self.worker: Worker
        self._upstream: Upstream
        self._request = b""
        self._asked_at = 0.0
        self._is_late = False  # the answer was awaited without a thread, and for long
        self._interim = 0
        self._has_sent = False
        self._has_gone_back = False
        self._has_client_ended = False
        self.is_cut = False
        self._delivery: Delivery | None = None

    # For the gate

    def proceed(self, lane: Lane | None, refusal: Refusal | None, held: float) -> None:
        self.on_proceed(lane, refusal, held)

    def warn(self, going: str) -> None:
        self.going = going
        tunnel, delivery = self._tunnel, self._delivery
        if tunnel is not None:
            tunnel.warn(going)
        elif delivery is not None:
            delivery.warn()

    def cut(self) -> None:
        """A client that has no answer yet still gets one, from us."""
        self.is_cut = True
        connection = self.connection
        if connection is not None:
            connection.cut()
        if self._tunnel is not None:
            self.stream.cut()
        elif self.is_answered:
            self.stream.cut_writer()

    # The road

    def travel(self, lane: Lane, worker: Worker) -> bool:
        """Relay the request to the service and its answer to the client; True when that is done.

        False: the answer is awaited, and nobody should sit and wait for it. The caller parks `connection`, and calls
        `travel_on` when something came or `AWAIT_TIMEOUT` passed.

        Raises: a Refusal as long as the answer has not begun; Broken after that; ClientGone.
        """
        self.worker = worker
        self._upstream = lane.upstream  # type: ignore[assignment]
        return self._advance(self._ask)

    def travel_on(self, worker: Worker, is_late: bool) -> bool:
        """Go on after a wait without a thread; what `travel` says holds here too."""
        self.worker = worker
        self._is_late = is_late
        return self._advance(self._hear)

    def go_back(self, lane: Lane, worker: Worker) -> bool:
        """True, once, where nothing was sent and the run of the service has ended, or is found to have in a moment."""
        if self._has_sent or self._has_gone_back or self.body.received or self.is_cut or lane.run is None:
            return False
        self._has_gone_back = True
        return lane.run.ended.wait(0.0 if worker.is_seated else NOTICE_TIMEOUT)

    def _advance(self, step: Callable[[], AnswerHead | None]) -> bool:
        is_over = True
        try:
            answer = step()
            if answer is None:
                is_over = False
            elif answer.status == 101:
                self._tunnel_through(answer)
            else:
                self._relay(answer)
        finally:
            if is_over:
                self._end()
        return is_over

    def _end(self) -> None:
        self._finish_upload()
        if self.connection is not None:
            self.connection.close()
        self._delivery = None  # not left to the garbage collector, because of its descriptors

    def _finish_upload(self) -> None:
        """Before its connection is closed: its thread would wait at a descriptor that is gone, or somebody else's."""
        if self._upload is not None:
            self._upload.finish()

    def _ask(self) -> AnswerHead | None:
        """Send the request and read the answer's head; None where that has to be waited for."""
        self._request = headers.request_head(self.head, self.peer, self._upstream.host) + self._first_body()
        self.connection = self._upstream.take_kept() or self._connect()
        try:
            self._send_request()
        except OSError as error:
            self._ask_again(error)
        return None if self._can_be_parked() else self._hear()

    def _hear(self) -> AnswerHead | None:
        while True:
            try:
                return self._read_heads()
            except _Waiting:
                return None
            except Malformed as error:
                raise BadGateway(f"the service's answer is not HTTP: {error}") from None
            except OSError as error:
                self._ask_again(error)

    def _ask_again(self, error: OSError) -> None:
        """Once more, on a fresh connection, where a kept one was stale.

        Raises: what is to be said about `error` where asking again might do harm, or would not help.
        """
        broken, self.connection = self.connection, None
        assert broken is not None
        self._finish_upload()
        broken.close()
        if not (broken.is_used and self._may_ask_again(broken)):
            raise self._failure(error)
        self.connection = self._connect()
        try:
            self._send_request()
        except OSError as another:
            raise self._failure(another) from None

    def _connect(self) -> Connection:
        has_time = self.worker.step_aside()
        connection = self._upstream.connect(CONNECT_TIMEOUT if has_time else SEATED_TIMEOUT)
        if self.is_cut:
            connection.close()
            raise self._failure(None)
        return connection

    def _send_request(self) -> None:
        assert self.connection is not None
        self._has_sent = False
        if len(self._request) > LARGE_REQUEST:
            self.step_aside()
        self.connection.send(self._request)
        self._has_sent = True
        self._asked_at = time.monotonic()
        if not self.body.is_done:
            self._start_upload(self.connection)

    def step_aside(self) -> None:
        """A wait begins that needs a thread. Raises: Unavailable, or Broken, where none can be had for it."""
        if not self.worker.step_aside():
            said = "no thread can be had for this request"
            raise Broken(said) if self.is_answered else Unavailable(said)

    def _can_be_parked(self) -> bool:
        """Not while a thread is busy with this exchange anyway, nor when it has been waited for long already."""
        return self._upload is None and not self._is_late

    def _may_ask_again(self, connection: Connection) -> bool:
        """RFC 9110 section 9.2.2: nothing of the answer came, and repeating does no harm or nothing had been sent."""
        if connection.answer.data or self.is_answered or self.is_cut or connection.answer.has_begun:
            return False
        if not self._has_sent:
            return len(self._request) <= LARGE_REQUEST  # sent in one piece or not at all
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
        payload = self.body.arrive(SHORT_WAIT, SHORT_BODY)
        if not self.head.is_chunked:
            return payload
        return chunk(payload) + self._end_of_body()

    def _end_of_body(self) -> bytes:
        return last_chunk(headers.trailers(self.body.trailers, self.head.options)) if self.body.is_done else b""

    def _start_upload(self, connection: Connection) -> None:
        self.step_aside()
        self._upload = upload = Upload(self.body, connection, self.head)
        if not self.pool.lend(upload.run):
            self._upload = None
            raise Unavailable("no thread can be had for this upload")

    def _read_heads(self) -> AnswerHead:
        """Pass interim answers on; returns the final one, or 101."""
        assert self.connection is not None
        reader = self.connection.getresponse()
        while self._interim < INTERIM_MAX:
            answer = reader.read_head(self.head.method, self._await_answer)
            if not answer.is_interim:
                return answer
            if answer.status == 101:
                if not self.head.upgrade:
                    raise Malformed("it switches protocols though nobody asked")
                return answer
            self._interim += 1
            if self.head.minor:  # RFC 9110 section 15.2: never to an HTTP/1.0 client
                self.send(headers.answer_head(answer, b"", False))
        raise Malformed("too many interim answers")

    def _await_answer(self) -> None:
        """Nothing has come yet. Raises: _Waiting, and what `await_service` raises."""
        if self._can_be_parked():
            raise _Waiting
        if self._upload is None and not self.worker.step_aside():
            self._look_at_client()
            raise _Waiting
        self.await_service(self.timeout)

    def _look_at_client(self) -> None:
        """Where no thread can be had that would watch it: it has left when it had ended its side a look ago."""
        if self.timeout is not None and time.monotonic() >= self._asked_at + self.timeout:
            raise GatewayTimeout("the service did not answer in time")
        had_ended, self._has_client_ended = self._has_client_ended, self.stream.has_ended()
        if had_ended and self._has_client_ended:
            raise ClientGone("the client left")

    def await_service(self, timeout: float | None, bell: Bell | None = None) -> None:
        """Wait until the service has sent something; the client is watched meanwhile.

        Raises: GatewayTimeout; ClientGone; Rung.
        """
        assert self.connection is not None
        self.step_aside()
        began = self._asked_at
        while True:
            left = None if timeout is None else max(0.0, began + timeout - time.monotonic())
            if await_service(self.connection.sock, self.stream.socket, bell, left, self._progress):
                return
            if not self._is_uploading():
                raise GatewayTimeout("the service did not answer in time")
            began = time.monotonic()

    def _progress(self) -> int | None:
        return self.body.received if self._is_uploading() else None

    def _is_uploading(self) -> bool:
        return self._upload is not None and not self._upload.has_ended

    # The answer

    def _relay(self, answer: AnswerHead) -> None:
        connection = self.connection
        assert connection is not None
        reader = connection.answer
        is_open = not reader.is_done and answer.length is None  # no length that we could promise the client
        is_chunked = is_open and self.head.minor == 1
        if self.pool.is_closing or (is_open and not is_chunked):
            self.keep = False
        if self._upload is not None and not self._upload.wait(UPLOAD_TIMEOUT):
            self.keep = False
        block = headers.answer_head(answer, self._own_lines(), is_chunked)
        try:
            arrived = reader.take_arrived()
        except Malformed as error:
            raise BadGateway(f"the service's answer is not HTTP: {error}") from None
        if self.pool.is_short and not reader.is_done:
            self.step_aside()  # now, while another answer can still be given
        self.status = answer.status
        self.is_answered = True
        self.first_byte = time.monotonic()
        if reader.is_done and not is_chunked:
            self.send(block + arrived)
        else:
            self._delivery = Delivery(self, connection, answer, is_chunked)
            self._delivery.run(block, arrived)
        if reader.can_be_followed() and not self._is_uploading() and not self.going and not self.is_cut:
            self.connection = None
            self._upstream.put_back(connection)

    def _own_lines(self) -> bytes:
        lines = b""
        if not self.keep:
            lines = b"Connection: close\r\n"
        elif not self.head.minor:
            lines = b"Connection: keep-alive\r\n"
        if self.held:
            lines += b"Wrapper-Held: %.3f\r\n" % self.held
        return lines

    def send(self, data: bytes | memoryview) -> None:
        """To the client, at once; a client that takes its time does not keep a seat."""
        sent = self.stream.write_now(data)
        if sent < len(data):
            self.step_aside()
            if self.is_cut and self.is_answered:
                raise Broken("cut in the middle of the answer")
            self.stream.write(memoryview(data)[sent:])
        self.sent += len(data)

    # Upgrades

    def _tunnel_through(self, answer: AnswerHead) -> None:
        connection = self.connection
        assert connection is not None
        if self._upload is not None and not self._upload.wait(self.stream.patience):
            raise BadGateway("the service switched protocols before the request had come whole")
        self.keep = False
        self.step_aside()
        self.status = 101
        early, connection.answer.data = connection.answer.data, b""
        tunnel = Tunnel(self.stream, connection.sock, early, b"websocket" in self.head.upgrade.lower())
        self.is_answered = True
        self.first_byte = time.monotonic()
        self.send(headers.answer_head(answer, self._held_line(), False))
        self._tunnel = tunnel  # only now, so that no warning gets in front of the head
        if self.going:
            tunnel.warn(self.going)
        tunnel.run(self.worker.buffer)
        self.sent += tunnel.sent

    def _held_line(self) -> bytes:
        return b"Wrapper-Held: %.3f\r\n" % self.held if self.held else b""
