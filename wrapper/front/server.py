"""The exposed port: a `ThreadingHTTPServer` whose hooks hand each connection to the loop, and own paths to threads.

What runs short there is told from here as well.
"""

from __future__ import annotations

import functools
import http.server
import os
import socket
import sys
import threading
import time

from wrapper import sockets
from wrapper.front.connection import BUSY_SECONDS, Closing, Connection
from wrapper.front.reply import ErrorPage
from wrapper.log import log
from wrapper.loop.loop import NEVER, NEXT_TURN, Loop
from wrapper.loop.poller import Link
from wrapper.loop.stream import ClientGone, Stream
from wrapper.loop.workers import Workers, share
from wrapper.proxy.headers import Peer, TrustedProxies
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Protocol

    from wrapper.front.secure import Certificate
    from wrapper.gate import Gate
    from wrapper.http1.message import Ended, Request, Response
    from wrapper.http1.request import RequestHead
    from wrapper.loop.loop import Steps

    class Directory(Protocol):
        """Who answers what: the wrapper's own paths, and the gates of the services behind the others."""

        prefixes: tuple[str, ...]

        def answer(self, request: Request) -> Response | None:
            """The response to a request below one of `prefixes`; None: relay it. May raise a Refusal."""

        def is_quick(self, path: str) -> bool:
            """True where the response to a path of the wrapper's own waits for nothing, not even the disk."""

        def gate(self, path: str) -> Gate: ...

        def ended(self, ended: Ended) -> None: ...

        def note_failure(self, status: int, reason: str, what: str) -> None:
            """A relayed request, `what`, was answered with `status`, 502 mostly, because of `reason`."""

        def note_shortage(self, what: str, is_short: bool) -> None:
            """`what` runs short, or does so no longer."""

ACCEPTS = 32  # connections taken in one go, twice a turn; their first requests have mostly come with them
ACCEPT_PAUSE = 0.5  # seconds without taking connections when there are no descriptors left
SURPLUS_MAX = 100  # connections there is no room for; with more, those that came first are closed at once
# Descriptors that no new client gets: those who are there need some to the service, and `sockets.RESERVE` are for us.
# 1,024 is all there are where nothing else is said (INR_OPEN_CUR of the kernel), fewer than --max-connections.
RESERVE = 64
THREADS_MAX = 512  # for own paths: sidecars have their own bounds, of 100 calls and 100 streams each
THREADS_KEPT = 2  # for own paths, whatever limit on processes is reached meanwhile
ROOM = 8  # idle connections that are closed at a time where descriptors run short
PEERS_MAX = 1024  # hosts of which is remembered what the service is told of them
SHORTAGE_PAUSE = 0.5  # seconds until the next try where no thread can be had to tell of a shortage
CALM = 30.0  # seconds without a new sign of it after which a shortage counts as over
KEEPALIVE_INTERVAL = 15  # seconds of silence before the first probe, and between two; Go's


class Server(http.server.ThreadingHTTPServer):
    """Serves `listener`, which must be listening already. `trusted`: it is the control socket."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, site: Directory, settings: Any, *, trusted: bool = False) -> None:
        super().__init__(listener.getsockname(), Connection, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.setblocking(False)
        self.is_unix = listener.family == socket.AF_UNIX
        if not self.is_unix:
            _tune(listener)
        self.site = site
        self.settings = settings
        self.trusted = trusted
        self.is_closing = False  # responses say Connection: close
        self.is_stopped = False  # and no connection waits for a further request
        self._is_shutting = False  # what waits in the listen queue is to be taken
        self.accepted = 0
        self.latest_head: RequestHead | None = None  # of the newest request that another may be judged like
        name = "control" if trusted else "exposed"
        self.workers = Workers(f"{name} path", share(THREADS_MAX), THREADS_KEPT)
        self._loops = [Loop(f"{name} port", self.workers) for _ in range(1 if trusted else loops())]
        self.loop = self._loops[0]  # the acceptor's
        self.shortage = Shortage(site.note_shortage)
        self.open_connections: set[Connection] = set()
        self.idle: dict[Connection, None] = {}  # those that carry nothing, the longest idle first
        self.surplus: dict[Connection, None] = {}  # those there is no room for, until they have been told
        self._certificate = _certificate(settings) if settings.tls_cert and not trusted else None
        self.error_page = ErrorPage(settings.error_page) if settings.error_page and not trusted else None
        self.trusted_proxies = TrustedProxies(tuple(settings.trusted_proxies))
        # Many connections come from few hosts: what is sent on of one is sent on of all.
        self.peer_at = functools.lru_cache(PEERS_MAX)(self._peer_at)

    @property
    def connections(self) -> int:
        return len(self.open_connections)

    @property
    def threads(self) -> int:
        return len(self._loops) + self.workers.count

    # Start and end

    def start(self) -> None:
        """Raises: NoThread."""
        self.workers.start()
        for loop in self._loops:
            loop.start()
        self._acceptor = self._loops[0].spawn(self._accept(self._loops[0]), "the acceptor")

    def leave(self) -> None:
        """Give kept connections back with their next response: cut later, one may have a request on its way."""
        self.is_closing = True

    def stop(self) -> None:
        """Close the connections that carry nothing, and the others behind their response.

        Newcomers are still taken: a request that is on its way gets a response, if only the gate's 503.
        """
        self.is_closing = self.is_stopped = True
        for loop in self._loops:
            loop.spawn(self._part_all(loop), "the port's end")

    def _part_all(self, loop: Loop) -> Steps:
        """Close what is idle and does not ask once more within a moment."""
        yield (loop.now + BUSY_SECONDS,)
        for connection in list(self.idle):
            if connection.has_served and connection.loop is loop:
                self._part_idle(connection)

    def _part_idle(self, connection: Connection) -> None:
        if connection in self.idle or connection in self.surplus:
            connection.task.interrupt(Closing())

    def shut(self) -> None:
        """Take what waits in the listen queue and close the port: from then on a client is refused, and never reset."""
        self._is_shutting = True
        self.loop.post(self._shut)

    def _shut(self) -> None:
        waiting = []
        try:
            while True:
                waiting.append(self.get_request())
        except OSError:
            pass  # that were all, or there is no descriptor for the rest
        self._acceptor.interrupt(Closing())
        self.socket.close()
        for request, client_address in waiting:  # not before: who is answered comes again at once
            self.process_request(request, client_address)
        self._is_shutting = False

    @property
    def is_answering(self) -> bool:
        """True while a client has a response to come, held ones too, or has asked a moment ago and may ask once more;
        what is tunnelled has had its own."""
        busy_since = time.monotonic() - BUSY_SECONDS
        return self._is_shutting or any(
            connection.began > busy_since if connection in self.idle else
            connection.is_answering and not (connection.exchange and connection.exchange.status == 101)
            for connection in list(self.open_connections))

    def close_connections(self) -> None:
        """Cut whatever is left, and end the threads."""
        for loop in self._loops:
            loop.stop()
        self.socket.close()
        self.workers.stop()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.error("a connection failed")

    # The hooks of socketserver, in the order of their calls

    def _accept(self, loop: Loop) -> Steps:
        """Take connections as they come, so many in a turn that a crowd is in soon and the others have theirs."""
        link = Link(loop, self.socket.fileno(), is_urgent=True)
        try:
            while True:
                yield NEVER, link.readable
                try:
                    if self._take_share():
                        yield NEXT_TURN
                        self._take_share()
                except OSError as error:
                    self.shortage.note("descriptors", loop)
                    self._make_room()
                    # EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection stays in the queue, so trying at once would spin.
                    log.warning("cannot take a connection", cause=error)
                    yield (loop.now + ACCEPT_PAUSE,)
        finally:
            link.close()

    def _take_share(self) -> bool:
        """Take up to ACCEPTS connections; True where more may wait. Raises: OSError where there is no room."""
        try:
            for _ in range(ACCEPTS):
                if sockets.is_reserved(self._take(), RESERVE):
                    return False  # those that are closed for it are so in the next turn
        except BlockingIOError:
            return False
        return True

    def _take(self) -> int:
        """Take one connection; returns its descriptor. Raises: OSError where there is none, or no room for it."""
        request, client_address = self.get_request()
        fd = request.fileno()
        if self.verify_request(request, client_address):
            self.process_request(request, client_address)
        else:
            self.shutdown_request(request)
        return fd

    def get_request(self) -> tuple[socket.socket, Any]:
        return self.socket.accept()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a connection on the next loop; its first request has mostly come with it."""
        self.accepted += 1
        loop = self._loops[self.accepted % len(self._loops)]
        if loop is self.loop:
            self.finish_request(request, client_address)
        else:
            loop.post(self.finish_request, request, client_address, loop)

    def finish_request(self, request: Any, client_address: Any, loop: Loop | None = None) -> None:
        """Runs in the loop that the connection stays with, the acceptor's where none is named."""
        try:
            Connection(request, client_address, self, loop)
        except (OSError, ValueError) as error:
            log.warning("cannot serve a connection", cause=error)
            request.close()

    # For connections

    def stream(self, connection: socket.socket, loop: Loop) -> Stream:
        """The server's end of a connection. Raises: OSError where the loop cannot watch it."""
        if self._certificate is None:
            return Stream(connection, loop, ClientGone)
        return self._certificate.stream(connection, loop)

    def admit(self, connection: Connection) -> str:
        """Why there is no room for `connection`, which then tells its client; empty where there is."""
        self.open_connections.add(connection)
        if self.trusted:
            return ""
        if sockets.is_reserved(connection.stream.link.fd, RESERVE):
            self.shortage.note("descriptors", connection.loop)
            if not self._make_room():
                return "there are no descriptors left"
        most = self.settings.max_connections
        if len(self.open_connections) <= most:
            return ""
        if len(self.surplus) >= SURPLUS_MAX:
            self._close_first(self.surplus)
        return f"there are {most} connections already"

    def _make_room(self) -> bool:
        """Close the connections that have been idle for longest, as nginx does; False where none is."""
        is_any_idle = bool(self.idle)
        self._close_first(self.surplus)
        self._close_first(self.idle)
        return is_any_idle

    def _close_first(self, connections: dict[Connection, None]) -> None:
        for connection in list(connections)[:ROOM]:  # in one step: other loops change it meanwhile
            connection.loop.post(self._part_idle, connection)

    def forget(self, connection: Connection) -> None:
        self.idle.pop(connection, None)
        self.surplus.pop(connection, None)
        self.open_connections.discard(connection)

    def _peer_at(self, host: str | None) -> Peer:
        return Peer(host, self._certificate is not None, self.trusted_proxies.trust(host), self.settings.via)


def loops() -> int:
    """How many loops there are: as many as can run at a time where no lock makes them take turns."""
    return os.cpu_count() or 1 if is_free_threaded() else 1


def is_free_threaded() -> bool:
    """True where threads of Python run at the same time (PEP 703)."""
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


def _certificate(settings: Any) -> Certificate:
    from wrapper.front.secure import Certificate  # start-up: a Python without OpenSSL serves without TLS

    return Certificate(settings.tls_cert, settings.tls_key)


def _tune(listener: socket.socket) -> None:
    """Set options for the connections that `listener` takes: Linux hands them on (tcp_create_openreq_child)."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A client that vanished without a word would keep its tunnel or its silent stream for ever.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_INTERVAL)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)


class Shortage:
    """What runs short at a port, descriptors or threads: a problem on the board for as long as it does.

    `tell(what, is_short)` is called, in a thread, when that begins and when it is over.
    """

    def __init__(self, tell: Callable[[str, bool], None]) -> None:
        self._tell = tell
        self._workers = Workers("shortage", 1)  # all others may be busy
        # Guards whether something is new: only one loop follows it.
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}

    def note(self, what: str, loop: Loop) -> None:
        """Hear a sign that `what` runs short, in the thread of `loop`; returns at once."""
        with self._lock:
            is_new = what not in self._until
            self._until[what] = loop.now + CALM
        if is_new:
            loop.begin(loop.task(self._follow(what, loop), "a shortage"))

    def _follow(self, what: str, loop: Loop) -> Steps:
        try:
            yield from self._say(what, True, loop)
            while loop.now < self._until[what]:
                yield (self._until[what],)
        finally:
            del self._until[what]  # first: a sign that comes from here on is a new one
        yield from self._say(what, False, loop)

    def _say(self, what: str, is_short: bool, loop: Loop) -> Steps:
        while True:
            try:
                yield from loop.in_thread(lambda: self._tell(what, is_short), self._workers)
                return
            except NoThread:  # it may be threads that run short
                yield (loop.now + SHORTAGE_PAUSE,)
