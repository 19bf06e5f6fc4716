"""The exposed port: takes connections and hands them to the workers; stops when it is told to."""

from __future__ import annotations

import errno
import http.server
import os
import select
import socket
import threading

from wrapper import sockets
from wrapper.certificate import Certificate
from wrapper.handler import Handler
from wrapper.log import log
from wrapper.poll import ENDED
from wrapper.pool import Lot, Pool, seats
from wrapper.proxy.headers import Peer, TrustedProxies
from wrapper.proxy.relay import AWAIT_TIMEOUT
from wrapper.proxy.watch import LEAVE_TIMEOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any

    from wrapper.pool import Worker
    from wrapper.port import Site


LINGER_TIMEOUT = 2.0  # seconds a client whose body we do not read gets to see our answer; nginx waits 5
ACCEPT_PAUSE = 0.5  # seconds without taking connections when there are no descriptors left
SURPLUS_MAX = 100  # connections over --max-connections that are told so; any more are just closed
# Descriptors that no new client gets: those who are there need some to the service, and `sockets.RESERVE` are for us.
# 1,024 is all there are where nobody said more (INR_OPEN_CUR of the kernel), fewer than --max-connections.
RESERVE = 64
KEEPALIVE_INTERVAL = 15  # seconds of silence before the first probe, and between two; Go's
_NEVER = float("inf")


class Door:
    """The listening socket, as something that waits for events; parked where it is shut for a moment."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.deadline = _NEVER
        self.is_registered = False
        self.is_tight = False  # the last connection took one of the last descriptors

    def fileno(self) -> int:
        return self.server.socket.fileno()

    def open(self) -> None:
        if not self.server.is_closing:
            self.server.pool.park(self, self.server.knocking)

    def answer(self, worker: Worker, event: int) -> None:
        """Take one connection; the door is open again before it is served."""
        server = self.server
        try:
            self._leave_some()
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
        self.is_tight = sockets.is_reserved(connection.fileno(), RESERVE)
        self.open()
        server.welcome(connection, address, worker)

    def _leave_some(self) -> None:
        """Take none of the last descriptors for clients.

        Raises: OSError where the next would be one of those.
        """
        if not self.is_tight or self.server.trusted:
            return
        number = os.dup(self.fileno())
        os.close(number)
        if sockets.is_reserved(number, RESERVE):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Server(http.server.ThreadingHTTPServer):
    """Serves `listener`, which must be listening already. `trusted`: it is the control socket."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, site: Site, settings: Any, *, trusted: bool = False) -> None:
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        listener.setblocking(False)
        self.is_unix = listener.family == socket.AF_UNIX
        if not self.is_unix:
            _tune(listener)
        self.site = site
        self.settings = settings
        self.trusted = trusted
        self.max_header: int = settings.max_header
        self.is_closing = False
        self.accepted = 0
        is_secure = bool(settings.tls_cert) and not trusted
        self._certificate = Certificate(settings.tls_cert, settings.tls_key) if is_secure else None
        self.trusted_proxies = TrustedProxies(tuple(settings.trusted_proxies))
        # Guards each handler's `held_exchange` and `verdict`, and where it is parked meanwhile.
        self.held_lock = threading.Lock()
        self._open: set[Handler] = set()
        self.pool = Pool(2 * settings.max_connections + 64, 1 if trusted else seats())
        self._add_lots(self.pool, settings)
        self.door = Door(self)

    def _add_lots(self, pool: Pool, settings: Any) -> None:
        readable = select.EPOLLIN | ENDED
        self.idle = pool.add(Lot(readable, settings.idle_timeout, Handler.read, Handler.expire_idle))
        self.heading = pool.add(Lot(readable, settings.header_timeout, Handler.read, Handler.expire_head))
        self.awaiting = pool.add(Lot(select.EPOLLIN, AWAIT_TIMEOUT, Handler.answer_came, Handler.expire_awaited))
        self.greeting = pool.add(Lot(readable, settings.header_timeout, Handler.shake_hands, Handler.expire_idle))
        self.knocking = pool.add(Lot(select.EPOLLIN, _NEVER, Door.answer, Door.open))
        self.shut = pool.add(Lot(0, ACCEPT_PAUSE, Door.answer, Door.open))
        self.holding = pool.add(Lot(ENDED, _NEVER, Handler.leave_held, Handler.forget_held))
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
        self.is_closing = self.pool.is_closing = True
        for lot in (self.knocking, self.shut):
            self.pool.take_out(self.door, lot)
        self.socket.close()
        for handler in self.pool.take_all(self.idle):
            handler.part()  # type: ignore[attr-defined]

    @property
    def is_answering(self) -> bool:
        """True while a client has an answer to come, held ones too."""
        waiting = sum(len(lot.waiting) for lot in (self.idle, self.heading, self.greeting, self.lingering))
        return len(self._open) > waiting

    def close_connections(self) -> None:
        """Cut whatever is left, and end the threads."""
        for handler in list(self._open):
            handler.stream.cut()
        self.pool.stop()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = self.socket.accept()
        if connection.gettimeout() is not None:  # sidecar code called socket.setdefaulttimeout, and meant its own
            connection.settimeout(None)
        return connection, address

    def welcome(self, connection: socket.socket, address: Any, worker: Worker) -> None:
        """Serve a new connection at once: its first request has mostly come with it."""
        self.accepted += 1
        try:
            handler = Handler(connection, address, self)
        except (OSError, ValueError) as error:
            log.warning("cannot serve a connection", cause=error)
            connection.close()
            return
        self._open.add(handler)
        surplus = len(self._open) - self.settings.max_connections
        # There is no answer to give before a TLS handshake, and a handshake is not for the surplus.
        if surplus > SURPLUS_MAX or (surplus > 0 and self._certificate is not None):
            handler.close()
        elif surplus > 0:
            handler.expire_surplus()
        else:
            handler.greet(worker)

    def tls_context(self) -> ssl.SSLContext | None:
        return None if self._certificate is None else self._certificate.context()

    def left(self, handler: object) -> None:
        self._open.discard(handler)
        if self.shut.waiting and self.pool.take_out(self.door, self.shut):
            self.door.open()

    def peer_of(self, connection: socket.socket, address: Any) -> Peer:
        host = None if self.is_unix else str(address[0])
        if host is not None and host.startswith("::ffff:"):
            host = host[7:]  # an IPv4 client of a socket for both
        return Peer(host, self._certificate is not None, self.trusted_proxies.trust(host), self.settings.via)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.error("a connection failed")


def _tune(listener: socket.socket) -> None:
    """For the connections it will take: Linux hands these options on to them (tcp_create_openreq_child)."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A client that vanished without a word would keep its tunnel or its silent stream for ever.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_INTERVAL)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
