"""Connections to the service: made, kept, closed, and what the service answers on them, read strictly.

Of `http.client` this uses the connection and the response as the objects they are (host, port, socket,
`response_class`, `getresponse`), and neither its sending nor its reading: both block, and it takes for HTTP what a
proxy must not pass on (RFC 9112 section 11.2).
"""

from __future__ import annotations

import errno
import http.client
import math
import os
import socket
import threading
import time

from wrapper import poll, sockets
from wrapper.errors import BadGateway, Unavailable
from wrapper.http1.chunked import Chunked
from wrapper.http1.request import MAX_REMEMBERED
from wrapper.http1.response import before_end, read_response
from wrapper.loop.stream import ServiceGone, Stream
from wrapper.proxy.body import Framed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.http1.response import ResponseHead
    from wrapper.loop.loop import Loop, Steps
    from wrapper.loop.poller import Source
    from wrapper.settings.address import Address
    from wrapper.sockets import Names

CONNECT_TIMEOUT = 5.0  # seconds; a listener on this machine answers at once unless its backlog is full
BACKLOG_PAUSE = 0.005  # seconds between two tries where the backlog of a unix socket is full
KEPT_MAX = 256  # idle connections kept to one service
HOLDS = 0.1  # seconds after a response in which a service that closes behind each has closed
UNSURE = 1.0  # seconds in which a service that is told to read its configuration closes what its old workers hold
KEPT_FOR = 60.0  # seconds an idle connection is kept where nothing else is said; nginx's keepalive_timeout
RESPONSE_HEAD_MAX = 256 * 1024  # bytes of a response's head


class ServiceResponse(Framed, http.client.HTTPResponse):
    """Reads one response after the other from `stream`, whose `rest` is what was read and not used yet.

    `is_done` once the body of the present one has been read to its end.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.fp = None  # type: ignore[assignment]  # what http.client looks at to see whether a response is closed
        self.head: ResponseHead | None = None
        self._last = (b"", b"")  # method and bytes of the head that `head` was read from
        self._known = 0  # bytes in `rest` that are no whole head yet
        self.is_done = False
        self.has_begun = False  # something of the present response has come, if only an interim one
        self._chunked = None
        self._left = 0
        self._is_followed = False  # a service may send a body behind this response, though there is none

    def receive(self) -> bool:
        """Take what has arrived into `rest`; False where nothing has. Raises: ServiceGone."""
        data = self._stream.receive()
        if data is None:
            return False
        if not data:
            raise ServiceGone("the service closed the connection")
        rest = self._stream.rest
        self._stream.rest = rest + data if rest else data
        return True

    def next_head(self, method: bytes) -> ResponseHead | None:
        """The next head, interim or final; None while it is not all there. Raises: Malformed."""
        data = self._stream.rest
        if not data:
            return None
        last_method, last = self._last
        if method == last_method and data.startswith(last) and self.head is not None:
            head = self.head  # the same to the byte, up to and with the empty line: known already
            self._known = 0
        elif (head := self._judge_head(data, method)) is None:  # type: ignore[assignment]
            return None
        self._stream.rest = data[head.end:]
        self.has_begun = True
        if not head.is_interim:
            self._chunked = Chunked(RESPONSE_HEAD_MAX, mends=True) if head.is_chunked else None
            self._left = head.length
            self.is_done = not head.is_chunked and head.length == 0
            self.trailers = b""
        return head

    def _judge_head(self, data: bytes, method: bytes) -> ResponseHead | None:
        head = read_response(data, RESPONSE_HEAD_MAX, self._known)
        self._known = len(data) if head is None else 0
        if head is None:
            return None
        says_body = head.is_chunked or bool(head.length)
        head.frame_for(method)
        # A HEAD handler that is the GET handler, and 204s and 304s of the same make, send it all the same, and late.
        self._is_followed = says_body and head.length == 0 and not head.is_chunked
        self.head = head
        self._last = (method, data[:head.end]) if head.end <= MAX_REMEMBERED else (b"", b"")
        return head

    def take_arrived(self) -> bytes | memoryview:
        """The payload that was read along with the head. Raises: Malformed."""
        rest = self._stream.rest
        if not rest:
            return b""
        self._stream.rest = b""
        return self._payload(rest)

    def read_some(self, view: memoryview) -> bytes | memoryview | None:
        """More payload by way of `view`, None where nothing has arrived; `is_done` says when that was the last.

        Raises: Malformed; ServiceGone where the body is cut short.
        """
        if self._stream.rest:
            return self.take_arrived()
        count = self._stream.receive_into(view)
        if count is None:
            return None
        if count:
            return self._payload(view[:count])
        if self._left is not None or self._chunked is not None or self._stream.was_reset:
            raise ServiceGone("the service closed the connection in the middle of its response")
        self.is_done = True
        return b""

    def can_be_followed(self) -> bool:
        """True where the next response on this connection can be trusted to be the next request's."""
        head = self.head
        return self.is_done and not self._stream.rest and head is not None and head.keep and not self._is_followed \
            and not (head.length is None and not head.is_chunked)

    def close(self) -> None:
        """Nothing to do: the connection owns the socket."""


class Unreached(BadGateway):
    """The service does not listen where it should."""


class NoDescriptor(Unavailable):
    """No descriptor is left for a connection to the service."""


class UpstreamConnection(http.client.HTTPConnection):
    """One connection to the service, over TCP or a unix socket."""

    response_class = ServiceResponse

    def __init__(self, stream: Stream, upstream: Upstream, names: Names | None = None) -> None:
        """`names`: None over a unix socket."""
        super().__init__(upstream.address.host or "localhost", upstream.address.port or None)
        self._upstream = upstream
        self.sock = stream.socket
        self.name = names[0] if names else None
        self.stream = stream
        self.response = ServiceResponse(stream)
        self.is_personal = False  # a client has been logged in on it
        self.is_used = False  # True once it has carried an exchange, so that it may have gone stale
        self.kept_at = self.kept_until = 0.0
        if names:
            upstream.ends[names[0]] = names[1]

    def getresponse(self) -> ServiceResponse:
        """The reader of this connection's responses."""
        return self.response

    def rest(self, seconds: float) -> None:
        """Carry nothing until `resume`, which may be `seconds` away, and hear of the service's end meanwhile."""
        self.is_used = True
        self.response.has_begun = False
        self.kept_at = self.stream.loop.now
        self.kept_until = self.kept_at + seconds
        self.stream.link.readable.attend(self)

    def resume(self) -> bool:
        """False where the service has ended it or written to it, or its time is over.

        In the turn in which it was kept the loop could not hear yet what came behind the response.
        """
        stream = self.stream
        stream.link.readable.waiter = None
        if stream.loop.now >= self.kept_until or (
                self.kept_at == stream.loop.now and poll.is_ready(stream.link.fd, poll.READABLE, 0)):
            self.close()
        return stream.link.fd >= 0

    def wake(self, source: Source) -> None:
        """While it was kept the service closed it, or sent what was not asked for: that must not become a response."""
        self._upstream.note_stale(self)
        self._upstream.discard(self)
        self.close()

    def close(self) -> None:
        self._upstream.ends.pop(self.name, None)
        self.name = None  # the kernel gives it out again
        self.stream.close()


class Upstream:
    """The connections to one address of the service; those that are kept belong to the loop that made them.

    `kept_for`: seconds that an idle one is kept, 0 for not at all.
    """

    def __init__(self, address: Address, kept_for: float = KEPT_FOR) -> None:
        self.address = address
        named = address if address.host else address._replace(host="localhost")
        self.host = b"localhost" if address.is_unix else str(named).encode()
        # Guards what is kept and who is hungry against a close, or another loop, at the same moment.
        self._lock = threading.Lock()
        self._is_closed = False
        self._kept_for = kept_for  # less as soon as the service announces less
        self._holds = False  # the service has been seen to hold a connection that carries nothing
        self._closes_at_once = False  # it closes them behind each response, and does not say so
        self._borne = math.inf  # seconds of idleness after which the service may be about to close one
        self._unsure_until = 0.0  # on the loop's clock
        self._hungry: set[object] = set()  # those who wait on a fresh connection
        # Of each connection that there is, by its own (host, port): that of the service's end.
        self.ends: dict[tuple[str, int] | None, tuple[str, int]] = {}
        # The latest is used first, so that surplus ones grow old. By loop.
        self._kept: dict[Loop, dict[UpstreamConnection, None]] = {}

    @property
    def idle(self) -> int:
        return sum(len(kept) for kept in list(self._kept.values()))

    def leads_to(self, client: Stream) -> bool:
        """True where `client` is the other end of one of our own connections: the service's address leads back to us.

        No two connections share their four numbers (RFC 9293 section 3.3.1).
        """
        end = self.ends.get(client.sockaddr)
        return end is not None and end == sockets.host_and_port(client.socket.getsockname())

    def take_kept(self, loop: Loop, is_repeatable: bool) -> UpstreamConnection | None:
        """A kept connection that the service has neither closed nor written to, or None.

        A request that may not be repeated gets none whose close may be on its way: the service must have been seen to
        hold a connection for HOLDS seconds behind its response, must not be about to close those that carry nothing,
        and must be known to bear them for longer than this one has been idle.
        """
        kept = self._kept.get(loop)
        if not kept:
            return None
        self._holds = self._holds or loop.now - next(iter(kept)).kept_at >= HOLDS
        for connection in reversed(kept):
            if connection.kept_at != loop.now:  # else it is to be asked what came behind its response
                break
        else:
            connection = next(reversed(kept))
        if not is_repeatable:
            is_sure = self._holds and loop.now >= self._unsure_until
            if not is_sure or loop.now - connection.kept_at >= self._borne:
                return None
        del kept[connection]
        return connection if connection.resume() else None

    def doubt_kept(self) -> None:
        """Note that the service may be about to close connections that carry nothing; from any thread."""
        self._unsure_until = time.monotonic() + UNSURE

    def connect(self, loop: Loop) -> Steps:
        """A fresh connection. Raises: Unreached; NoDescriptor; BadGateway."""
        stream: Stream | None = None
        try:
            stream, names = yield from _connected(self.address, loop)
            if sockets.is_reserved(stream.link.fd):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return UpstreamConnection(stream, self, names)
        except OSError as error:
            if stream is not None:
                stream.close()
            if error.errno in sockets.SHORT:
                raise NoDescriptor(f"no connection to the service: {error.strerror}") from None
            said = f"cannot connect to the service at {self.address}: {error.strerror or error}"
            # Reset: it has just ended, with us in its listen queue; then the connection has no other end either.
            if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.ENOENT):
                raise Unreached(said, "refused") from None
            raise BadGateway(said, "unreachable") from None

    def put_back(self, connection: UpstreamConnection) -> None:
        """Keep `connection` for another exchange, or close it where enough are kept."""
        loop, head = connection.stream.loop, connection.response.head
        if head is not None and head.kept_for < self._kept_for:
            self._kept_for = head.kept_for
        with self._lock:
            kept = self._kept.get(loop, {})
            is_wanted = self._kept_for > 0 and len(kept) < KEPT_MAX and not (
                self._is_closed or self._closes_at_once or self._hungry)
            if self._hungry:
                self._hungry.pop()
            if is_wanted:
                if loop not in self._kept:
                    self._kept[loop] = kept
                    loop.spawn(self._expire(loop, kept), "kept connections")
                kept[connection] = None
        if is_wanted:
            connection.rest(self._kept_for)
        else:
            connection.close()

    def _expire(self, loop: Loop, kept: dict[UpstreamConnection, None]) -> Steps:
        """Close each when its time is over."""
        while not self._is_closed:
            while kept and (oldest := next(iter(kept))).kept_until <= loop.now:
                self.discard(oldest)
            oldest_until = next(iter(kept)).kept_until if kept else math.inf
            yield (min(oldest_until, loop.now + KEPT_FOR),)  # not for as long as the option says: the run may end

    def note_stale(self, connection: UpstreamConnection) -> None:
        """Learn from a kept connection that the service has ended how long the service keeps one."""
        age = connection.stream.loop.now - connection.kept_at
        if age >= HOLDS:
            self._borne = min(self._borne, before_end(age))
        elif not self._holds:
            self._closes_at_once = True

    def give_way(self, hungry: object) -> None:
        """A request waits on a fresh connection: kept ones may hold all the workers that the service has.

        Closes those that are idle and, unless `fed` is called before, the next one that is put back: one that is idle
        now may be taken before it is closed.
        """
        with self._lock:
            self._hungry.add(hungry)
        self.close_idle()

    def fed(self, hungry: object) -> None:
        """Note that the request `hungry` waits no longer."""
        with self._lock:
            self._hungry.discard(hungry)

    def close_idle(self) -> None:
        """Close those that are kept, soon; from any thread."""
        # `list` copies in one step: each loop takes from its own meanwhile, without the lock.
        for loop, kept in list(self._kept.items()):
            for connection in list(kept):
                loop.post(self.discard, connection)

    def discard(self, connection: UpstreamConnection) -> None:
        """Close one that is kept; in its loop's thread."""
        kept = self._kept.get(connection.stream.loop, {})  # there is none before the first that is no client's own
        if connection in kept:
            del kept[connection]
            connection.stream.link.readable.waiter = None
            connection.close()

    def close(self) -> None:
        """Close what is kept now and what comes back later; from any thread."""
        with self._lock:
            self._is_closed = True
        self.close_idle()


def _connected(address: Address, loop: Loop) -> Steps:
    """A stream to `address`, and its names, None over a unix socket. Raises: OSError, TimeoutError among them."""
    end = loop.now + CONNECT_TIMEOUT
    for family, sockaddr in (yield from _addresses(address, loop)):
        try:
            return (yield from _connect(family, sockaddr, address, loop, end))
        except OSError as error:
            failure = error
    raise failure


def _addresses(address: Address, loop: Loop) -> Steps:
    """What getaddrinfo says; a name is looked up in a thread, since that may take as long as a name server likes."""
    if (known := sockets.known_addresses(address)):
        return known
    return (yield from loop.in_thread(lambda: sockets.resolve(address)))


def _connect(family: int, sockaddr: Any, address: Address, loop: Loop, end: float) -> Steps:
    connecting = sockets.begin_connect(family)
    stream: Stream | None = None
    try:
        code = yield from _begin(connecting, sockaddr, loop, end)
        stream = Stream(connecting, loop, ServiceGone, is_urgent=True)
        if code == errno.EINPROGRESS:
            if (yield end, stream.link.writable) is None:
                raise TimeoutError("timed out")
            code = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        return stream, None if address.is_unix else sockets.refuse_self(connecting, address)
    except BaseException:
        (stream or connecting).close()
        raise


def _begin(connecting: socket.socket, sockaddr: Any, loop: Loop, end: float) -> Steps:
    """What connect(2) says; EINPROGRESS where that is not the end of it."""
    while (code := connecting.connect_ex(sockaddr)) == errno.EAGAIN:
        # A unix socket whose backlog is full (connect(2)); there is no event for room in it.
        if loop.now >= end:
            raise TimeoutError("timed out")
        yield (loop.now + BACKLOG_PAUSE,)
    return code
