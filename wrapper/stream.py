"""The client's end of one connection: bytes in, bytes out, and the body of a request as it comes.

Reads never block (`BlockingIOError` says that nothing is there); whoever wants to wait calls `wait_readable`, so that
the wait can watch the service's end too. Writes come in two kinds: `write_now` takes what fits, `write` waits.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

from wrapper.errors import BadRequest, RequestTimeout
from wrapper.chunked import Chunked
from wrapper.http1 import Malformed
from wrapper.poll import ENDED, READABLE, WRITABLE, ready
from wrapper.sockets import set_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.http1 import RequestHead

READ_SIZE = 64 * 1024  # bytes: a whole head of the default --max-header in one call


class ClientGone(Exception):
    """The client left, or stopped taking what we send for too long; there is nobody to answer."""


class Stream:
    """One plain client connection. `rest` is what was read and not used yet; `patience` how long a stall may last."""

    __slots__ = ("_has_timeout", "patience", "rest", "socket")

    is_secure = False

    def __init__(self, connection: socket.socket, patience: float) -> None:
        self.socket = connection
        self.rest = b""
        self.patience = patience
        self._has_timeout = False

    def fileno(self) -> int:
        return self.socket.fileno()

    def read_now(self, size: int) -> bytes:
        """Up to `size` bytes that have arrived; b"" at the end. Raises: BlockingIOError, OSError."""
        return self.socket.recv(size, socket.MSG_DONTWAIT)

    def read_into_now(self, buffer: memoryview) -> int:
        return self.socket.recv_into(buffer, 0, socket.MSG_DONTWAIT)

    def write_now(self, data: bytes | memoryview) -> int:
        """Send what fits without waiting and say how much that was. Raises: ClientGone."""
        try:
            return self.socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone(str(error)) from None

    def write(self, data: bytes | memoryview) -> None:
        """Send all of `data`, waiting for a slow reader as long as it takes something now and then.

        Raises: ClientGone.
        """
        if not self._has_timeout:
            # The kernel keeps the time of each send; a Python timeout would make the socket non-blocking.
            set_timeout(self.socket, socket.SO_SNDTIMEO, self.patience)
            self._has_timeout = True
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise ClientGone(str(error)) from None

    def wait_readable(self, seconds: float | None, other: int | None = None) -> bool:
        """False when `seconds` passed before anything arrived.

        Raises: BrokenPipeError when the connection of descriptor `other` broke meanwhile.
        """
        if other is None:
            return bool(ready(seconds, (self.socket, READABLE)))
        events = ready(seconds, (self.socket, READABLE), (other, 0))
        if other in events:
            raise BrokenPipeError("the other side broke")
        return bool(events)

    def has_ended(self) -> bool:
        """True where the client has closed its side, or the connection is broken; does not wait."""
        return bool(ready(0, (self.socket, ENDED)))

    def has_unseen(self) -> bool:
        """True where bytes have come that the kernel does not know of any more, nor `rest` yet."""
        return False

    def finish_writing(self) -> None:
        """Tell the client that nothing more comes."""
        _shut(self.socket, socket.SHUT_WR)

    def cut(self) -> None:
        """Wake and fail everybody who uses this connection, from any thread."""
        cut(self.socket)

    def cut_writer(self) -> None:
        """Fail whoever waits for a slow reader; one without arrears is not told of any end, which might look whole."""
        try:
            is_free = ready(0, (self.socket, WRITABLE))
        except ValueError:
            return  # closed by its owner meanwhile
        if not is_free:
            self.cut()

    def reset(self) -> None:
        """Make the coming close a visible break (RST), for a client to whom an end looks like success."""
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass

    def close(self) -> None:
        self.socket.close()


class Body:
    """The body of one request, read once, as it comes. `is_done` when it has been read to its end.

    `other` is the descriptor of the service's connection: an upload ends when that breaks.
    """

    __slots__ = ("_chunked", "_left", "_stream", "before_wait", "end", "is_awaited", "is_done", "other", "received",
                 "trailers")

    def __init__(self, stream: Stream, head: RequestHead, max_trailers: int) -> None:
        self._stream = stream
        self._chunked = Chunked(max_trailers) if head.is_chunked else None
        self._left = head.length
        self.is_done = not head.has_body
        self.received = 0
        self.trailers = b""
        self.other: int | None = None
        self.end = float("inf")  # when all of it must be there, on the monotonic clock
        self.is_awaited = False  # somebody waits for more of it now, or has waited in vain
        self.before_wait = do_nothing  # called before the first wait: where 100 Continue goes out

    def take_arrived(self) -> bytes:
        """What of the payload has been read already, behind the head.

        Raises: BadRequest.
        """
        if self.is_done:
            return b""
        rest, self._stream.rest = self._stream.rest, b""
        self.received += len(rest)
        return b"".join(self._payload(rest)) if rest else b""

    def arrive(self, seconds: float, most: int) -> bytes:
        """What of the payload comes within `seconds` in all, up to about `most` bytes: somebody sits and waits here.

        Raises: BadRequest, ClientGone.
        """
        payload = self.take_arrived()
        end = time.monotonic() + seconds
        while not self.is_done and len(payload) < most:
            try:
                data = self._stream.read_now(READ_SIZE)
            except BlockingIOError:
                left = end - time.monotonic()
                if left <= 0 or not self._stream.wait_readable(left):
                    break
                continue
            except OSError as error:
                raise ClientGone(str(error)) from None
            payload += b"".join(self._payload(self._counted(data)))
        return payload

    def _counted(self, data: bytes) -> bytes:
        if not data:
            raise ClientGone("the client ended before its request")
        self.received += len(data)
        return data

    def pieces(self, buffer: memoryview | None = None) -> Iterator[bytes]:
        """The payload as it arrives; pieces are views of `buffer` where one is given.

        Raises: BadRequest, RequestTimeout, ClientGone; BrokenPipeError when `other` broke.
        """
        arrived = self.take_arrived()
        if arrived:
            yield arrived
        view = buffer if buffer is not None else memoryview(bytearray(READ_SIZE))
        while not self.is_done:
            most = len(view) if self._chunked else min(self._left, len(view))
            count = self._read_into(view[:most])
            yield from self._payload(view[:count] if buffer is not None else bytes(view[:count]))

    def _read_into(self, view: memoryview) -> int:
        while True:
            try:
                count = self._stream.read_into_now(view)
                break
            except BlockingIOError:
                self._wait()
            except OSError as error:
                raise ClientGone(str(error)) from None
        if not count:
            raise ClientGone("the client ended before its request")
        self.received += count
        return count

    def _wait(self) -> None:
        self.before_wait()
        self.before_wait = do_nothing
        self.is_awaited = True
        seconds = min(self._stream.patience, self.end - time.monotonic())
        if seconds <= 0 or not self._stream.wait_readable(seconds, self.other):
            raise RequestTimeout("the request's body did not come in time")
        self.is_awaited = False

    def _payload(self, data: bytes | memoryview) -> list[bytes]:
        if self._chunked is None:
            payload, surplus = data[:self._left], data[self._left:]
            self._left -= len(payload)
            self.is_done = not self._left
            if surplus:
                self._stream.rest = bytes(surplus)
            return [payload] if payload else []  # type: ignore[list-item]
        try:
            pieces = self._chunked.feed(data)
        except Malformed as error:
            raise BadRequest(str(error)) from None
        if self._chunked.is_done:
            self.is_done = True
            self.trailers = self._chunked.trailers
            self._stream.rest = self._chunked.surplus
        return pieces  # type: ignore[return-value]


def do_nothing() -> None:
    return None


def cut(connection: socket.socket) -> None:
    """Wake and fail everybody who uses `connection`."""
    _shut(connection, socket.SHUT_RDWR)


def _shut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        pass
