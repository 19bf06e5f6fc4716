"""One exchange with the service, told from top to bottom: the gate, the request, the response or the tunnel.

RFC 9110 sections 7 (routing), 9.2.2 (idempotent methods), 10.1.1 (Expect), 15.2 (1xx); RFC 9112 section 6 and 9.
"""

from __future__ import annotations

from wrapper.errors import BadGateway, GatewayTimeout, Refusal, Unavailable
from wrapper.http1.chunked import chunk, last_chunk
from wrapper.http1.request import Malformed
from wrapper.loop.loop import BUFFER_SIZE, LARGE_SIZE, NEVER, NEXT_TURN
from wrapper.loop.stream import READ_SIZE, TURN_SIZE, ClientGone, ServiceGone
from wrapper.proxy import headers
from wrapper.proxy.admission import Cut, Travelling
from wrapper.proxy.body import Upload
from wrapper.proxy.tunnel import Tunnel
from wrapper.proxy.upstream import Unreached

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from wrapper.gate import Gate, GatedRun, Lane
    from wrapper.http1.request import RequestHead
    from wrapper.http1.response import ResponseHead
    from wrapper.loop.loop import Steps, Task
    from wrapper.loop.stream import Stream
    from wrapper.proxy.body import RequestBody
    from wrapper.proxy.headers import Peer
    from wrapper.proxy.upstream import ServiceResponse, Upstream, UpstreamConnection

    class ExchangePort(Protocol):
        """What an exchange needs of the port it came in by."""

        settings: Any
        is_closing: bool  # it takes no further requests

UPLOAD_TIMEOUT = 0.005  # seconds a response waits for the end of its request's upload before it gives the client up
REST_TIMEOUT = 0.001  # seconds that the rest of a short body may take to be sent along with its head
SWITCH_TIMEOUT = 10.0  # seconds that the rest of a request's body may take before its connection becomes a tunnel
NOTICE_TIMEOUT = 0.05  # seconds from the break of a run's connections to its end: the kernel closes them first
SHORT_BODY = 64 * 1024  # bytes of a request's body that are awaited and sent along with its head
SENDS_MAX = 2  # times that one request may reach the service
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25  # seconds between two tries to reach a service that does not listen; doubles
HUNGER = 0.1  # seconds a request waits on a fresh connection until kept ones give way; doubles
# Bytes of a head that services take: uwsgi's buffer-size; Apache, nginx, gunicorn and Tomcat; Node.
HEAD_LIMITS = (4096, 8192, 16384)
INTERIM_MAX = 32  # 1xx responses before the final one; CVE-2021-3737 was a client that took them without end
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))  # RFC 9110 section 9.2.1
_IDEMPOTENT = _SAFE | {b"PUT", b"DELETE"}  # RFC 9110 section 9.2.2


class Broken(Exception):
    """The response broke after its head had gone out: all that is left is to cut the connection."""


class Exchange(Travelling):
    """One request and its response, between one client and one run of the service.

    After `travel`, `keep` says whether the client's connection may carry another.
    """

    status = 0
    sent = 0
    first_byte = 0.0  # when the response of the service began, on the monotonic clock
    is_answered = False
    is_replayed = False
    failure = ""  # the reason of a 502 of ours
    is_close_delimited = False  # the response ends with its connection (RFC 9112 section 6.3), so a break must differ
    connection: UpstreamConnection | None = None
    _began = _hungry_at = 0.0
    _payload: bytes | None = None  # of the body, as it goes out along with the head
    _head_size = _sends = 0
    _has_sent = False  # the latest try has gone out
    _has_heard = False  # something of a response had come before its connection broke
    _is_hungry = False
    _may_end = False
    _upload: Upload | None = None

    def __init__(self, task: Task, client: Stream, head: RequestHead, body: RequestBody, peer: Peer, gate: Gate,
                 port: ExchangePort, personal: dict[Upstream, UpstreamConnection]) -> None:
        """`personal`: connections to the service that belong to this client, because it has been logged in on them."""
        super().__init__(task, client, gate)
        self.port = port
        self.head = head
        self.body = body
        self.peer = peer
        self.keep, self.may_last = head.keep, bool(head.upgrade)
        self._personal = personal

    # The road

    def travel(self) -> Steps:
        """Relay the request to the service and its response to the client.

        Raises: a Refusal as long as the response has not begun; Broken after that; ClientGone.
        """
        try:
            response = yield from self._ask()
            if response.status == 101:
                yield from self._tunnel(response)
            else:
                yield from self._respond(response)
        except (Cut, ServiceGone) as error:
            raise self._failure(
                Unavailable("the service is being stopped") if self.going or isinstance(error, Cut)
                else BadGateway(f"{error}{self.growth}", "closed")) from None
        except Malformed as error:
            raise self._failure(BadGateway(
                f"the service's response is not HTTP: {error}{self.growth}", "malformed")) from None
        finally:
            self._end()

    def _failure(self, refusal: Refusal) -> Exception:
        if not self.is_answered:
            return refusal
        is_spoilt = self._upload is not None and self._upload.is_spoilt
        return ClientGone("the client broke its upload") if is_spoilt else Broken(refusal.message)

    @property
    def growth(self) -> str:
        """What to say of a head that the service may not have taken because of what we added to it, else nothing.

        Services count more than the bytes of a head, so one that is nearly too large counts as well.
        """
        for limit in HEAD_LIMITS:
            if self.head.end <= limit and self._head_size > limit * 7 // 8:
                return f"; with our forwarding fields its head may be over the {limit} bytes that some services take"
        return ""

    def _end(self) -> None:
        if self._upload is not None and not self._upload.is_over:
            self._upload.stop()
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self.leave()

    def _ask(self) -> Steps:
        """Find a run of the service that takes the request; returns the head of its response."""
        while True:
            lane = yield from self.enter()
            try:
                return (yield from self._ask_run(lane))
            except (ServiceGone, Unreached):
                if lane.run is None or not (yield from self._may_go_back(lane.run)):
                    raise
                self.gate.lose(lane.run)  # the gate may not have been told yet
                self.leave()

    def _may_go_back(self, run: GatedRun) -> Steps:
        """True where `run` has ended and the request may travel once more; never a third time. Raises: BadGateway."""
        is_barred = self._upload is not None or self._has_heard or (self._sends and not self._may_repeat())
        if is_barred or not (yield from self._has_fallen(run)):
            return False
        if self._sends >= SENDS_MAX:
            raise BadGateway("the service ended twice while it had this request", "ended_twice")
        self.is_replayed = self._sends > 0
        return True

    def _has_fallen(self, run: GatedRun | None) -> Steps:
        """True where the run has ended, as it is seen to do soon after its connections have broken."""
        end = self.loop.now + NOTICE_TIMEOUT
        while run is not None and not run.has_fallen() and self.loop.now < end:
            yield (self.loop.now + 0.001,)
        return run is not None and run.has_fallen()

    def _may_repeat(self) -> bool:
        """True where --replay allows it: RFC 9110 section 9.2.2, draft-ietf-httpapi-idempotency-key-header."""
        which, method = self.port.settings.replay, self.head.method
        if which != "idempotent":
            return which == "safe" and method in _SAFE
        return method in _IDEMPOTENT or b"\nidempotency-key:" in self.head.fields.lower()

    # The request

    def _ask_run(self, lane: Lane) -> Steps:
        """Send the request and read the head of the response; once more where a kept connection was stale."""
        upstream: Upstream = lane.upstream  # type: ignore[assignment]
        if self._payload is None:
            self._payload = (yield from self._first_body()) if self.head.has_body else b""
        if upstream.leads_to(self.client):
            raise BadGateway("the service's address leads back to the wrapper itself", "loop")
        head = headers.request_head(self.head, self.peer, upstream.host)
        request, self._head_size = head + self._payload, len(head)
        connection = self._personal.pop(upstream, None)
        if connection is None or not connection.resume():
            connection = upstream.take_kept(self.loop, self.head.method in _IDEMPOTENT)
        while True:
            connection = self.connection = connection or (yield from self._connect(lane, upstream))
            try:
                self._send_request(connection, request)
                return (yield from self._read_heads(connection, upstream))
            except (ServiceGone, Malformed) as error:
                self.connection = None
                connection.close()
                if self._upload is not None:
                    self._upload.judge()
                self._has_heard = connection.response.has_begun or bool(connection.stream.rest)
                # A run that falls still takes connections into its listen queue: that would count as a second time.
                if not self._may_ask_again(connection, error) or (
                        self._has_sent and (yield from self._has_fallen(lane.run))):
                    raise
                upstream.note_stale(connection)
                connection = None
            finally:
                if self._is_hungry:
                    upstream.fed(self)

    def _connect(self, lane: Lane, upstream: Upstream) -> Steps:
        """A connection; a service that lives but does not listen is waited for as long as a request may be held.

        Raises: Unreached; NoDescriptor; BadGateway; ClientGone.
        """
        end, pause = self.loop.now + self.gate.hold_timeout - self.held, FIRST_PAUSE
        while True:
            try:
                return (yield from upstream.connect(self.loop))
            except Unreached:
                if lane.run is None or lane.run.has_fallen() or self.loop.now + pause > end:
                    raise
            if pause == FIRST_PAUSE:
                self.gate.doubt()
            began = self.loop.now
            yield from self.client.watch(began + pause)
            self.held += self.loop.now - began
            pause = min(2 * pause, LONGEST_PAUSE)

    def _first_body(self) -> Steps:
        """What of the body can go along with the head, framed."""
        body, head = self.body, self.head
        payload, body.ahead = body.ahead, b""
        if not (body.is_done or head.expects or (head.length > SHORT_BODY and not self.client.rest)):
            payload += yield from body.read_within(REST_TIMEOUT, SHORT_BODY)
        if not head.is_chunked:
            return payload
        end = last_chunk(headers.trailers(body.trailers, head.options)) if body.is_done else b""
        return chunk(payload) + end

    def _send_request(self, connection: UpstreamConnection, request: bytes) -> None:
        self._began = self._hungry_at = self.loop.now
        self._has_sent = False
        connection.stream.send(request)
        self._has_sent = True
        self._sends += 1
        if not self.body.is_done:
            self._upload = Upload(self.body, connection.stream, self.head)

    def _may_ask_again(self, connection: UpstreamConnection, error: Exception) -> bool:
        """RFC 9110 section 9.2.2: nothing of the response came, and repeating does no harm or nothing had been sent.

        Rubbish on a used connection was no response to this request.
        """
        if not connection.is_used or connection.response.has_begun or self._upload or self._sends >= SENDS_MAX:
            return False
        if connection.stream.rest and not isinstance(error, Malformed):
            return False
        return not self._has_sent or self.head.method in _IDEMPOTENT

    # The response

    def _read_heads(self, connection: UpstreamConnection, upstream: Upstream) -> Steps:
        """Pass interim responses on; returns the final one, or 101."""
        reader, method = connection.response, self.head.method
        for _ in range(INTERIM_MAX):
            while (response := reader.next_head(method)) is None:
                yield from self._await_response(connection, upstream)
            if not response.is_interim:
                return response
            if response.status == 101:
                if not self.head.upgrade:
                    raise Malformed("it switches protocols though that was not asked for")
                return response
            if self.head.minor:  # RFC 9110 section 15.2: never to an HTTP/1.0 client
                yield from self._send(headers.response_head(response, b"", False))
        raise Malformed("too many interim answers")

    def _await_response(self, connection: UpstreamConnection, upstream: Upstream) -> Steps:
        """Wait for more of a response. Raises: GatewayTimeout; ClientGone; what broke the upload; ServiceGone."""
        link, upload, deadline = connection.stream.link, self._upload, NEVER
        ended = None
        if upload is not None:
            upload.judge()
            ended = None if upload.is_over else upload.task.ended
        hungry_at = NEVER if connection.is_used else 2 * self._hungry_at - self._began + HUNGER
        if ended is not None:
            fired = yield hungry_at, link.readable, ended
        else:
            sources = (link.readable, link.writable) if connection.stream.unsent else (link.readable,)
            if (timeout := self.port.settings.upstream_timeout) is not None:
                deadline = self._began + timeout
            fired = yield from self.client.watch(min(deadline, hungry_at), *sources)
        if fired is None and self.loop.now >= deadline:
            raise GatewayTimeout("the service did not answer in time")
        if fired is None:
            self._hungry_at = self.loop.now
            if ended is None or connection.stream.unsent or self.head.expects:  # else its client takes its time
                self._is_hungry = True
                upstream.give_way(self)
        elif fired is ended:
            self._began = self._hungry_at = self.loop.now
        elif fired is link.writable:
            connection.stream.send_unsent()
        else:
            connection.response.receive()

    def _respond(self, response: ResponseHead) -> Steps:
        connection = self.connection
        assert connection is not None
        reader = connection.response
        is_open = not reader.is_done and response.length is None  # no length that we could promise the client
        is_chunked = is_open and self.head.minor == 1
        self.is_close_delimited = is_open and not is_chunked
        if self.port.is_closing or self.is_close_delimited:
            self.keep = False
        if self._upload is not None:
            yield from self._await_upload(UPLOAD_TIMEOUT)
            self.keep = self.keep and self.body.is_done
        block = headers.response_head(response, self._own_lines(), is_chunked)
        arrived = reader.take_arrived()
        self.status = response.status
        self.is_answered = True
        self.first_byte = self.loop.now
        if reader.is_done and not is_chunked:
            self.sent += len(block) + len(arrived)
            if not self.client.send(block + arrived, is_last=not self.keep):
                yield from self.client.flush()
        else:
            is_events = headers.is_event_stream(response.fields)
            if is_events:
                self.mark_lasting()
            # What opened it opens it anew by itself (WHATWG HTML section 9.2.3). Any other response, events of a POST
            # among them, is a whole that must not be cut short.
            self._may_end = is_chunked and is_events and self.head.method == b"GET"
            yield from self._copy(reader, response, is_chunked, block, arrived)
        if reader.can_be_followed() and (self._upload is None or self._upload.is_whole) and not self.going:
            self.connection = None
            self._keep(connection, response)

    def _keep(self, connection: UpstreamConnection, response: ResponseHead) -> None:
        """Keep the connection for a next request, of this client alone where it is logged in (RFC 4559 section 6)."""
        assert self.lane is not None
        upstream: Upstream = self.lane.upstream  # type: ignore[assignment]
        if connection.is_personal or headers.logs_in(self.head, response):
            connection.is_personal = True
            connection.rest(response.kept_for)
            self._personal[upstream] = connection
        else:
            upstream.put_back(connection)

    def _await_upload(self, seconds: float) -> Steps:
        upload = self._upload
        if upload is not None and not upload.is_over:
            yield self.loop.now + seconds, upload.task.ended

    def _own_lines(self) -> bytes:
        lines = b""
        if not self.keep:
            lines = b"Connection: close\r\n"
        elif not self.head.minor:
            lines = b"Connection: keep-alive\r\n"
        return lines + self._held_line()

    def _held_line(self) -> bytes:
        return "{}: {}\r\n".format(*headers.held_field(self.held)).encode() if self.held else b""

    def _send(self, data: bytes | memoryview) -> Steps:
        """Send `data` to the client and wait until it has taken it, however long that takes."""
        self.sent += len(data)
        yield from self.client.write(data)

    def _copy(self, reader: ServiceResponse, response: ResponseHead, is_chunked: bool, block: bytes,
              arrived: bytes | memoryview) -> Steps:
        """Copy the body to the client, each piece as soon as it is there; `block` and `arrived` go first."""
        out: bytes | memoryview = block + (chunk(arrived) if is_chunked else arrived)
        connection, tail, size, moved = self.connection, bytes(arrived[-4:]), READ_SIZE, 0
        assert connection is not None
        while not reader.is_done:
            if out:
                moved += len(out)
                self.sent += len(out)
                size = self._next_size(size) if self.client.send(out) else READ_SIZE
                if self.client.unsent:
                    yield from self.client.flush()
            if self._may_end and self.going and _is_between_events(tail):
                yield from self._send(last_chunk())
                return
            if moved >= TURN_SIZE or connection.stream.rest:  # or more very small chunks than one turn may take
                moved = 0
                yield NEXT_TURN
            payload = reader.read_some(self.loop.large_buffer[:size])
            if payload is None:
                yield from self._await_body(tail)
                out = b""
                continue
            if self._may_end:
                tail = (tail + bytes(payload[-4:]))[-4:]
            out = chunk(payload) if is_chunked else payload
        if is_chunked:
            out = bytes(out) + last_chunk(headers.trailers(reader.trailers, response.options))
        yield from self._send(out)

    def _next_size(self, size: int) -> int:
        """Twice as much as was taken, but little more than the client's socket has room for: that would be kept."""
        if 2 * size <= BUFFER_SIZE:
            return 2 * size
        return min(2 * size, LARGE_SIZE, max(BUFFER_SIZE, self.client.room()))

    def _await_body(self, tail: bytes) -> Steps:
        assert self.connection is not None
        readable = self.connection.stream.link.readable
        if self._upload is not None and not self._upload.is_over:
            yield NEVER, readable, self._upload.task.ended
        elif self._may_end and _is_between_events(tail):
            yield from self.client.watch(NEVER, readable, self.warning())
        else:
            yield from self.client.watch(NEVER, readable)

    # Upgrades

    def _tunnel(self, response: ResponseHead) -> Steps:
        connection = self.connection
        assert connection is not None
        yield from self._await_upload(SWITCH_TIMEOUT)
        if self._upload is not None and not self._upload.is_whole:
            raise BadGateway("the service switched protocols before the request had come whole", "malformed")
        self.keep = False
        self.status = 101
        self.is_answered = True
        self.first_byte = self.loop.now
        tunnel = Tunnel(self, connection.stream, is_websocket=b"websocket" in self.head.upgrade.lower())
        self.mark_lasting()
        self.head.let_go()  # it is kept for as long as the tunnel lives
        try:
            yield from self._send(headers.response_head(response, self._held_line(), False))
            yield from tunnel.run()
        finally:
            self.sent += tunnel.sent
            self.body.received += tunnel.received


def _is_between_events(tail: bytes) -> bool:
    """True where no event would be cut in two."""
    return not tail or tail.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))

