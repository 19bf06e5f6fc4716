"""Connections to the service: made, kept, checked, closed; and the reading of what the service answers.

`http.client` connects and sends; what is replaced is its reading of heads and bodies, which is lenient where a proxy
must not be (RFC 9112 section 11.2).
"""

from __future__ import annotations

import errno
import http.client
import os
import select
import socket
import threading
import time

from wrapper import sockets
from wrapper.chunked import Chunked
from wrapper.errors import BadGateway
from wrapper.answer import read_answer
from wrapper.http1 import MAX_REMEMBERED, Malformed
from wrapper.stream import READ_SIZE, cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.address import Address
    from wrapper.answer import AnswerHead

CONNECT_TIMEOUT = 5.0  # seconds; a listener on this machine answers at once unless its backlog is full
PATIENCE = 0.004  # seconds a read of a body may block before the client is looked at; the kernel rounds up to a tick
KEPT_MAX = 256  # idle connections kept to one service
KEPT_TIMEOUT = 60.0  # seconds an idle connection is kept
ANSWER_HEAD_MAX = 256 * 1024  # bytes of an answer's head
INTERIM_MAX = 32  # 1xx answers before the final one; CVE-2021-3737 was a client that took them without end


class Unreached(BadGateway):
    """Nobody listens where the service should."""


class Answer(http.client.HTTPResponse):
    """Reads one answer after the other from its connection; `data` is what was read and not used yet.

    `wait` is called when nothing has arrived; it returns when something may have, or raises.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.fp = None  # type: ignore[assignment]  # what http.client looks at to see whether an answer is closed
        self.data = b""
        self.head: AnswerHead | None = None
        self._last = (b"", b"")  # method and bytes of the head that `head` was read from
        self.is_done = False
        self.has_begun = False  # something of the present answer has come, if only an interim one
        self.trailers = b""
        self._chunked: Chunked | None = None
        self._left: int | None = 0

    def read_head(self, method: bytes, wait: Callable[[], None]) -> AnswerHead:
        """The next head, interim or final.

        Raises: Malformed, ConnectionError at a premature end, OSError, what `wait` raises.
        """
        data = self.data or self._receive(wait)
        last_method, last = self._last
        if method == last_method and data.startswith(last) and self.head is not None:
            head = self.head  # the same to the byte, up to and with the empty line: known already
        else:
            head = self._judge_head(data, method, wait)
            data = self.data
        self.data = data[head.end:]
        self.has_begun = True
        if not head.is_interim:
            self._chunked = Chunked(ANSWER_HEAD_MAX) if head.is_chunked else None
            self._left = head.length
            self.is_done = not head.is_chunked and head.length == 0
            self.trailers = b""
        return head

    def _judge_head(self, data: bytes, method: bytes, wait: Callable[[], None]) -> AnswerHead:
        while (head := read_answer(data, ANSWER_HEAD_MAX)) is None:
            self.data = data
            data += self._receive(wait)
        head.frame_for(method)
        self.data = data
        self.head = head
        self._last = (method, data[:head.end]) if head.end <= MAX_REMEMBERED else (b"", b"")
        return head

    def _receive(self, wait: Callable[[], None]) -> bytes:
        while True:
            try:
                piece = self._socket.recv(READ_SIZE, socket.MSG_DONTWAIT)
                break
            except BlockingIOError:
                wait()
        if not piece:
            raise ConnectionError("the service closed the connection")
        return piece

    def take_arrived(self) -> bytes:
        """The payload that was read along with the head. Raises: Malformed."""
        data, self.data = self.data, b""
        return b"".join(self._payload(data)) if data else b""

    def read_piece(self, buffer: memoryview, wait: Callable[[], None], flags: int) -> list[bytes | memoryview]:
        """More payload as it comes, as views of `buffer`; `is_done` says when that was the last.

        `flags` 0: the read itself may wait for `PATIENCE`, which spares calls in a long body.

        Raises: Malformed, ConnectionError when the body is cut short, OSError, what `wait` raises.
        """
        while True:
            try:
                count = self._socket.recv_into(buffer, 0, flags)
                break
            except BlockingIOError:
                wait()
        if count:
            return self._payload(buffer[:count])
        if self._left is not None or self._chunked is not None:
            raise ConnectionError("the service closed the connection in the middle of its answer")
        self.is_done = True
        return []

    def _payload(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        if self._chunked is not None:
            pieces = self._chunked.feed(data)
            if self._chunked.is_done:
                self.is_done = True
                self.trailers = self._chunked.trailers
                self.data = self._chunked.surplus
            return pieces
        if self._left is None:
            return [data]
        payload = data[:self._left]
        if len(payload) < len(data):
            self.data = bytes(data[self._left:])
        self._left -= len(payload)
        self.is_done = not self._left
        return [payload] if payload else []

    def can_be_followed(self) -> bool:
        """True where the next answer on this connection can be trusted to be the next request's."""
        return self.is_done and not self.data and self.head is not None and self.head.keep \
            and not (self.head.length is None and not self.head.is_chunked)

    def close(self) -> None:
        """Nothing to do: the connection owns the socket."""


class Connection(http.client.HTTPConnection):
    """One connection to the service, over TCP or a unix socket."""

    response_class = Answer

    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__(address.host or "localhost", address.port or None, timeout)
        self._address = address
        self._poll = select.poll()
        self.answer: Answer
        self.is_used = False  # True once it has carried an exchange, so that it may have gone stale
        self.kept_at = 0.0
        # For the pool, where an exchange waits for its answer without a thread.
        self.deadline = 0.0
        self.is_registered = False
        self.awaited_by: Any = None  # the connection of the client and its exchange

    def fileno(self) -> int:
        return self.sock.fileno() if self.sock is not None else -1

    def connect(self) -> None:
        """Raises: OSError."""
        self.sock = sockets.connect(self._address, self.timeout)
        self.sock.settimeout(None)
        sockets.set_timeout(self.sock, socket.SO_RCVTIMEO, PATIENCE)
        self._poll.register(self.sock, select.POLLIN)
        self.answer = self.response_class(self.sock)

    def getresponse(self) -> Answer:
        """The reader of this connection's answers."""
        return self.answer

    def is_stale(self) -> bool:
        """True where the service closed it, or sent what nobody asked for: it must not become an answer."""
        return bool(self._poll.poll(0))

    def cut(self) -> None:
        """Wake and fail whoever uses it, from any thread."""
        cut(self.sock)

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()


class Upstream:
    """The connections to one address of the service."""

    def __init__(self, address: Address) -> None:
        self.address = address
        named = address if address.host else address._replace(host="localhost")
        self.host = b"localhost" if address.is_unix else str(named).encode()
        # Guards `_kept` and `_is_closed`. The latest is used first, so that surplus ones grow old.
        self._lock = threading.Lock()
        self._kept: list[Connection] = []
        self._is_closed = False

    @property
    def idle(self) -> int:
        return len(self._kept)

    def take_kept(self) -> Connection | None:
        """A kept connection that is good as far as anybody can tell, or None."""
        while True:
            with self._lock:
                if not self._kept:
                    return None
                connection = self._kept.pop()
            if not connection.is_stale():
                return connection
            connection.close()

    def connect(self, timeout: float = CONNECT_TIMEOUT) -> Connection:
        """A fresh connection.

        Raises: Unreached; BadGateway.
        """
        connection = Connection(self.address, timeout)
        try:
            connection.connect()
            if sockets.is_reserved(connection.fileno()):
                connection.close()
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        except OSError as error:
            kind = Unreached if isinstance(error, (ConnectionRefusedError, FileNotFoundError)) else BadGateway
            raise kind(f"cannot connect to the service at {self.address}: {error.strerror or error}") from None
        return connection

    def put_back(self, connection: Connection) -> None:
        """Keep `connection` for another exchange, or close it where enough are kept."""
        connection.is_used = True
        connection.answer.has_begun = False
        connection.kept_at = now = time.monotonic()
        old = None
        with self._lock:
            if self._is_closed or len(self._kept) >= KEPT_MAX:
                old = connection
            else:
                self._kept.append(connection)
                if now - self._kept[0].kept_at > KEPT_TIMEOUT:
                    old = self._kept.pop(0)
        if old is not None:
            old.close()

    def close(self) -> None:
        """Close what is kept now and what comes back later."""
        with self._lock:
            self._is_closed = True
            kept, self._kept = self._kept, []
        for connection in kept:
            connection.close()


__all__ = ["Answer", "Connection", "INTERIM_MAX", "Malformed", "Unreached", "Upstream"]
