"""One client's connection, from its first byte to its last: each is a generator on the loop.

TLS, then request after request: a head, an own path or the relay, then the next one or the end. What goes wrong with a
relayed exchange becomes a response in `_relay`, with an own path in `own.py`. RFC 9112 section 9 (connections), RFC
9110 section 15 (status codes).
"""

from __future__ import annotations

import socketserver

from wrapper.errors import BadGateway, Refusal, RequestTimeout, Unavailable
from wrapper.front.own import OwnExchange
from wrapper.front.reply import refusal_bytes
from wrapper.http1.message import Ended
from wrapper.http1.request import normal_path, read_request
from wrapper.log import log
from wrapper.loop.loop import LATER, NEXT_TURN
from wrapper.loop.stream import ClientGone, Stream
from wrapper.proxy.body import RequestBody
from wrapper.proxy.relay import Broken, Exchange
from wrapper.proxy.tunnel import PREFACE, Passthrough
from wrapper.proxy.upstream import NoDescriptor
from wrapper.sockets import host_and_port
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.front.server import Server
    from wrapper.http1.request import RequestHead
    from wrapper.loop.loop import Loop, Steps, Task
    from wrapper.proxy.upstream import Upstream, UpstreamConnection

SURPLUS_TIMEOUT = 1.0  # seconds that the request of a connection there is no room for is awaited: a probe waits as long
TOO_LARGE = (400, 413, 414, 431)  # what a service answers to a head over its limits
QUOTA = 16  # own paths that are answered before the other connections have their turn
BUSY_SECONDS = 0.1  # after a request in which its client may have sent the next one: a close would reset that
LINGER_SILENCE, LINGER_TIMEOUT = 5.0, 30.0  # seconds a client whose body is not read gets to see our response; nginx's


class Closing(Exception):
    """The connection carries nothing, and is wanted no longer."""


class Connection(socketserver.BaseRequestHandler):
    """One client's connection. `handle` begins it and returns at once; the loop goes on with it."""

    server: Server
    task: Task

    def __init__(self, request: Any, client_address: Any, server: Any, loop: Loop | None = None) -> None:
        self.loop: Loop = loop or server.loop
        super().__init__(request, client_address, server)

    def setup(self) -> None:
        """Raises: OSError where the loop cannot watch it."""
        server = self.server
        self.stream: Stream = server.stream(self.request, self.loop)
        self.stream.sockaddr = None if server.is_unix else host_and_port(self.client_address)
        self.peer = server.peer_at(self.stream.sockaddr[0] if self.stream.sockaddr else None)
        self.personal: dict[Upstream, UpstreamConnection] = {}
        self.has_served = False
        self.is_answering = False  # its client has a response to come
        self.exchange: Exchange | None = None  # the latest with the service
        self.last_head: RequestHead | None = server.latest_head  # clients of one kind send the same fields
        self.began = 0.0

    def handle(self) -> None:
        said = self.server.admit(self)
        self.task = self.loop.task(self._run(said), "a connection")
        self.loop.begin(self.task)

    def _run(self, said: str) -> Steps:
        """Serve the connection to its end; `said` is why there is no room for it, "" where there is."""
        try:
            if said:
                yield from self._turn_away(said)
                return
            if self.stream.is_secure:
                yield from self._shake_hands()
            yield from self._serve()
        except (ClientGone, Closing):
            pass
        finally:
            self.close()

    def _turn_away(self, said: str) -> Steps:
        """Answer one request for an own path, since probes matter most in a crowd; refuse any other."""
        if self.stream.is_secure:
            return  # there is no response to give before a TLS handshake, and that is not for the surplus
        self.server.surplus[self] = None
        is_answered = yield from self._answer_surplus()
        self.server.surplus[self] = None  # until the client has seen it
        if not is_answered:
            yield from self._say(refusal_bytes(Unavailable(said), close=True))
        yield from self._part()

    def _answer_surplus(self) -> Steps:
        """True where its first request was for an own path, and is answered."""
        stream, settings = self.stream, self.server.settings
        if (data := stream.receive()) is None:
            yield self.loop.now + SURPLUS_TIMEOUT, stream.link.readable
            data = stream.receive()
        try:
            head = read_request(data, settings.max_header) if data else None
        except Refusal:
            return False
        if not data or head is None:
            return False
        path = normal_path(head.target.decode("latin-1"))
        if not path.startswith(self.server.site.prefixes):
            return False
        stream.rest = data[head.end:]
        del self.server.surplus[self]
        body = RequestBody(stream, head, settings.max_header, settings.idle_timeout)
        return (yield from self._answer_own(head, body, path, may_keep=False)) is not None

    def close(self) -> None:
        self.stream.close()
        for connection in self.personal.values():
            connection.close()
        self.server.forget(self)

    def _shake_hands(self) -> Steps:
        deadline = self.loop.now + self.server.settings.header_timeout
        try:
            yield LATER
            while not self.stream.shake_hands():
                if (yield deadline, self.stream.link.readable) is None:
                    raise Closing
                yield LATER
        except (OSError, ValueError) as error:
            log.debug("no TLS with a client", cause=error)
            raise Closing from None

    # One request after the other

    def _serve(self) -> Steps:
        served = 0
        while True:
            try:
                head = yield from self._next_head()
            except Refusal as refusal:
                yield from self._refuse_head(refusal)
                return
            if head is None:
                return
            self.is_answering = True
            if not (yield from self._answer(head)):
                return
            head = None  # an idle connection keeps what `last_head` may hold, and no more
            self.is_answering = False
            self.has_served = True
            served += 1
            if served % QUOTA == 0 and self.stream.rest:
                yield NEXT_TURN

    def _next_head(self) -> Steps:
        """The next request's head, None where the connection is over. Raises: a Refusal."""
        stream, server = self.stream, self.server
        known, limit = 0, server.settings.max_header
        deadline = began = 0.0
        while True:
            if stream.rest:
                head = read_request(stream.rest, limit, self.last_head, known)
                if head is not None:
                    return head
                known = len(stream.rest)
                began = began or self.loop.now
                deadline = began + server.settings.header_timeout
            # The first request has mostly come with its connection.
            data = stream.receive() if not (self.has_served or deadline) or stream.has_unseen() else None
            if data is None:
                deadline = deadline or self.loop.now + server.settings.idle_timeout
                if not (yield from self._await_head(deadline)):
                    return None
                data = stream.receive()
            if data:
                stream.rest = stream.rest + data if stream.rest else data
            elif data is not None:
                return None

    def _await_head(self, deadline: float) -> Steps:
        """True where more has come. Raises: RequestTimeout in the middle of a head."""
        server, link = self.server, self.stream.link
        if self.stream.rest:
            if (yield deadline, link.readable) is None:
                raise RequestTimeout("the request did not come in time")
            return True
        if server.is_stopped and self.has_served:
            deadline = min(deadline, self.loop.now + BUSY_SECONDS)
        server.idle[self] = None
        fired = yield deadline, link.readable
        server.idle.pop(self, None)
        if fired is None and server.is_stopped:
            yield from self._part()
        return fired is not None

    def _refuse_head(self, refusal: Refusal) -> Steps:
        """Raises: ClientGone."""
        if self.server.settings.h2c and (yield from self._begins_h2()):
            yield from Passthrough(self.task, self.stream, self.server.site.gate("/")).run()
            return
        yield from self._say(refusal_bytes(refusal, close=True))
        yield from self._part()

    def _begins_h2(self) -> Steps:
        """True where HTTP/2 begins: all of its preface counts, since a service may take the rest for HTTP/1."""
        stream, deadline = self.stream, self.loop.now + self.server.settings.header_timeout
        while PREFACE.startswith(stream.rest) and len(stream.rest) < len(PREFACE):
            if (data := stream.receive()) is None:
                if (yield deadline, stream.link.readable) is None:
                    return False
            elif not data:
                return False
            else:
                stream.rest += data
        return stream.rest.startswith(PREFACE)

    def _answer(self, head: RequestHead) -> Steps:
        """Answer one request; True where another may follow on this connection."""
        server, stream = self.server, self.stream
        stream.rest = stream.rest[head.end:]
        self.last_head = head if head.rest else None
        server.latest_head = self.last_head or server.latest_head
        self.began = self.loop.now
        body = RequestBody(stream, head, server.settings.max_header, server.settings.idle_timeout)
        path = normal_path(head.target.decode("latin-1"))
        keep = None
        if path.startswith(server.site.prefixes):
            keep = yield from self._answer_own(head, body, path)
        if keep is None:
            keep = yield from self._relay(head, body, path)
        if not keep and (stream.rest or head.keep or not body.is_done):  # else it sends no more
            yield from self._part()
        return keep

    def _answer_own(self, head: RequestHead, body: RequestBody, path: str, may_keep: bool = True) -> Steps:
        """Let the sidecar answer; returns whether the connection can be kept, None where the path is not its own."""
        own = OwnExchange(self.stream, self.peer.address, self.server, head, body, path)
        own.keep = own.keep and may_keep
        if not (yield from own.run()):
            return None
        self._tell_ended(own, head, body, is_own=True, cut="sidecar" if own.is_broken else "")
        if own.is_broken:
            self._break()
        return own.keep

    def _relay(self, head: RequestHead, body: RequestBody, path: str) -> Steps:
        """Relay the exchange, or answer it with what went wrong."""
        server = self.server
        exchange = Exchange(self.task, self.stream, head, body, self.peer, server.site.gate(path), server,
                            self.personal)
        self.exchange = exchange
        is_broken, cut = False, ""
        try:
            yield from exchange.travel()
            if exchange.status in TOO_LARGE and exchange.growth:
                self._tell_failure(exchange, "the service refused the request" + exchange.growth)
        except Refusal as refusal:
            if isinstance(refusal, NoDescriptor):
                server.shortage.note("descriptors", self.loop)
            yield from self._refuse(exchange, refusal)
        except (ClientGone, Broken) as error:
            log.debug("an exchange broke", cause=error)
            exchange.keep = False
            exchange.status = exchange.status or 499
            is_broken = exchange.is_answered
            cut = ("client" if isinstance(error, ClientGone) else "service") if is_broken else ""
        except Exception as error:  # noqa: BLE001  a fault of ours is one client's 500, not the end of all
            log.error("an exchange failed", cause=repr(error))
            exchange.keep = False
            is_broken = exchange.is_answered
            if not is_broken:
                yield from self._refuse(exchange, Refusal("the wrapper failed"))
        self._tell_ended(exchange, head, body, is_own=False, cut=cut)
        self.exchange = None  # an idle connection keeps nothing of it
        if is_broken and exchange.is_close_delimited:
            self._break()
        return exchange.keep and not is_broken

    def _refuse(self, exchange: Exchange, refusal: Refusal) -> Steps:
        exchange.status = refusal.status
        if isinstance(refusal, BadGateway):
            exchange.failure = refusal.reason
            self._tell_failure(exchange, refusal.message)
        exchange.keep = exchange.keep and exchange.body.is_done and not self.server.is_closing
        page, head = self.server.error_page, exchange.head
        how = not exchange.keep, head.method == b"HEAD"
        if page is not None and page.is_for(refusal, head):
            answer = page.answer(refusal, *how, head.minor)
        else:
            answer = refusal_bytes(refusal, *how, exchange.held, head.minor)
        try:
            yield from self._say(answer)
        except ClientGone:
            exchange.keep = False

    def _tell_failure(self, exchange: Exchange, reason: str) -> None:
        """Report a failed exchange, in a thread: the log may have to wait for whatever reads stderr."""
        method, target = exchange.head.method.decode("ascii"), exchange.head.target.decode("latin-1")
        status, what = exchange.status, f"{method} {normal_path(target)}"
        try:
            self.server.workers.submit(lambda: self.server.site.note_failure(status, reason, what))
        except NoThread:
            pass  # the client and the metrics hear it all the same

    def _tell_ended(self, exchange: Exchange | OwnExchange, head: RequestHead, body: RequestBody, *,
                    is_own: bool, cut: str) -> None:
        now = self.loop.now
        self.server.site.ended(Ended(
            head.method.decode("ascii"), head.target.decode("latin-1"), exchange.status, now - self.began,
            (exchange.first_byte or now) - self.began, exchange.held, body.received, exchange.sent, is_own,
            self.peer.address, head, exchange.is_replayed, exchange.failure, cut))

    def _say(self, data: bytes) -> Steps:
        """Send something of our own. Raises: ClientGone."""
        yield from self.stream.write(data, self.server.settings.idle_timeout)

    # The end

    def _part(self) -> Steps:
        """Close once the client could see our response, though it may still be sending (RFC 9112 section 9.6).

        What is closed with bytes unread is reset, and with it goes what the client has not taken yet of a response.
        """
        stream, end = self.stream, self.loop.now + LINGER_TIMEOUT
        stream.finish_writing()
        stream.rest = b""
        self.is_answering = False
        while stream.receive() != b"":  # one piece, and then the others have their turn: a flood would never let go
            if (yield min(end, self.loop.now + LINGER_SILENCE), stream.link.readable) is None:
                return

    def _break(self) -> None:
        """Reset the connection at once: where an end frames the response, an end first would look like success."""
        self.stream.reset()
        raise Closing

