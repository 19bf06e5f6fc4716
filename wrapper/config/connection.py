"""HTTP connections on which every single wait counts against one deadline: one that drips a byte a second meets it."""

from __future__ import annotations

import http.client
import io
import socket

from wrapper import sockets
from wrapper.settings.address import tcp
from wrapper.threads import BoundedCall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ssl import SSLContext
    from typing import Any

    from wrapper.deadline import Deadline
    from wrapper.settings.address import Address


class TimedConnection(http.client.HTTPConnection):
    """One request to an internal address, TCP or unix."""

    def __init__(self, address: Address, deadline: Deadline) -> None:
        super().__init__(address.host or "localhost", address.port or None)
        self._address = address
        self._deadline = deadline

    def connect(self) -> None:
        self.sock: Any = Timed(self._dial(), self._deadline)

    def _dial(self) -> socket.socket:
        return sockets.connect(self._address, self._deadline.remaining())


class UrlConnection(TimedConnection):
    """One request to a URL's host, over TLS with a `context`."""

    def __init__(self, host: str, port: int, context: SSLContext | None, deadline: Deadline) -> None:
        super().__init__(tcp(host, port), deadline)
        self._context = context

    def _dial(self) -> socket.socket:
        raw = _dial(self.host, self.port, self._deadline)
        if self._context is None:
            return raw
        raw.settimeout(self._deadline.remaining() or 0.001)
        return self._context.wrap_socket(raw, server_hostname=self.host)


class Timed:
    """As much of a socket as http.client uses."""

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


def _dial(host: str, port: int, deadline: Deadline) -> socket.socket:
    """A connection to the first address of a host that answers; they share the time, so that the last has some too.

    Raises: OSError.
    """
    error = OSError(f"no address for {host}")
    found = _resolve(host, port, deadline)
    for left, (family, kind, protocol, _, sockaddr) in zip(range(len(found), 0, -1), found):
        connected = socket.socket(family, kind, protocol)
        connected.settimeout((deadline.remaining() or 0.001) / left)
        try:
            connected.connect(sockaddr)
            return connected
        except OSError as failure:
            connected.close()
            error = failure
    raise error


def _resolve(host: str, port: int, deadline: Deadline) -> list[Any]:
    """What getaddrinfo(3) says by the deadline; its own time is for each server and each try (resolv.conf(5)).

    Raises: OSError.
    """
    what = (host, port, 0, socket.SOCK_STREAM)
    call = BoundedCall(f"resolve-{host}", socket.getaddrinfo, what, deadline.remaining() or 0)
    if not call.is_over:
        raise TimeoutError(f"no address for {host} in time")
    if call.error is not None:
        raise call.error
    found: list[Any] = call.value
    return found
