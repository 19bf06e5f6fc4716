"""A client down at the bytes: it may send half a request, leave, or wait for nothing."""

from __future__ import annotations

import socket

from tests.running import PATIENCE


class Raw:
    """One connection to a wrapper."""

    def __init__(self, port: int, data: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.data = b""
        self.send(data)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def close(self) -> None:
        self.socket.close()

    def read_until(self, mark: bytes) -> bytes:
        """What came up to and with `mark`."""
        while mark not in self.data:
            piece = self.socket.recv(65536)
            assert piece, f"the connection ended before {mark!r}: {self.data!r}"
            self.data += piece
        found, _, self.data = self.data.partition(mark)
        return found + mark

    def read_response(self) -> tuple[int, dict[str, str], bytes]:
        """Status, fields by name in lower case, body; the body must have a length."""
        first, *lines = self.read_until(b"\r\n\r\n").decode().splitlines()
        fields = dict(line.lower().split(": ", 1) for line in lines if line)
        length = int(fields["content-length"])
        while len(self.data) < length:
            piece = self.socket.recv(65536)
            assert piece, f"the connection ended in the body: {self.data!r}"
            self.data += piece
        body, self.data = self.data[:length], self.data[length:]
        return int(first.split()[1]), fields, body

    def read_end(self) -> bytes:
        """All that comes up to a clean end of the connection. Raises: ConnectionResetError."""
        while piece := self.socket.recv(65536):
            self.data += piece
        found, self.data = self.data, b""
        return found


def get(path: str = "/", *fields: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n{''.join(field + chr(13) + chr(10) for field in fields)}\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)
