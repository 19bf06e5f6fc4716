"""HTTP connections on which every single wait counts against one deadline."""

from __future__ import annotations

import http.client
import io

from wrapper import sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from wrapper.address import Address
    from wrapper.deadline import Deadline


class Connection(http.client.HTTPConnection):
    """One request to an internal address, TCP or unix."""

    def __init__(self, address: Address, deadline: Deadline) -> None:
        super().__init__(address.host or "localhost", address.port or None)
        self._address = address
        self._deadline = deadline

    def connect(self) -> None:
        connected = sockets.connect(self._address, self._deadline.remaining())
        self.sock: Any = Timed(connected, self._deadline)


class Timed:
    """As much of a socket as http.client uses. A server that drips a byte a second meets the deadline all the same."""

    def __init__(self, raw: socket.socket, deadline: Deadline) -> None:
        self._raw = raw
        self._deadline = deadline
        self._users = 1  # http.client closes the connection while its reader reads on, as with a socket's own files

    def sendall(self, data: bytes) -> None:
        self._raw.settimeout(self._left())
        self._raw.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        self._users += 1
        return io.BufferedReader(_Reader(self))

    def recv_into(self, buffer: Any) -> int:
        self._raw.settimeout(self._left())
        return self._raw.recv_into(buffer)

    def close(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._raw.close()

    def _left(self) -> float:
        if self._deadline.has_passed():
            raise TimeoutError("timed out")
        return self._deadline.remaining() or 0.001


class _Reader(io.RawIOBase):
    def __init__(self, timed: Timed) -> None:
        self._timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._timed.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._timed.close()
