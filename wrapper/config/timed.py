"""HTTP connections on which every single wait counts against one deadline."""

from __future__ import annotations

import http.client
import io

from wrapper import sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from wrapper.settings.address import Address
    from wrapper.deadline import Deadline


class TimedConnection(http.client.HTTPConnection):
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

    def sendall(self, data: bytes) -> None:
        self.set_timeout()
        self._raw.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self, self._raw.makefile("rb", buffering=0)))

    def close(self) -> None:
        self._raw.close()

    def set_timeout(self) -> None:
        """Give the next wait what is left. Raises: TimeoutError where nothing is."""
        if self._deadline.has_passed():
            raise TimeoutError("timed out")
        self._raw.settimeout(self._deadline.remaining() or 0.001)


class _Reader(io.RawIOBase):
    def __init__(self, timed: Timed, raw: Any) -> None:
        self._timed = timed
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        self._timed.set_timeout()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
