"""Servers that misbehave, and a board to read."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from wrapper.events import Feed
from wrapper.problems import Board


class Server:
    """Gives every connection to `serve(connection, head)`; whatever it raises ends that connection only."""

    def __init__(self, serve):
        self.serve = serve
        self.heads = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/configuration"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with connection:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = connection.recv(65536)
                    if not piece:
                        return  # the client left before it asked
                    head += piece
                self.heads.append(head.decode())
                self.serve(connection, head.decode())
            except OSError:
                pass

    def close(self):
        # A close alone leaves the thread in accept, and a restarted accept is for the next owner of the number.
        with contextlib.suppress(OSError):  # a test closed it itself
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


def answer(body, status="200 OK", *fields):
    body = body.encode() if isinstance(body, str) else body
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@pytest.fixture
def serve():
    servers = []

    def start(how):
        """`how`: bytes to answer with, or a function of the connection and the request head."""
        servers.append(Server(how if callable(how) else lambda connection, head: connection.sendall(how)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def feed():
    return Feed()


@pytest.fixture
def board(feed):
    return Board(feed)
