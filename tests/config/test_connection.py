"""connection.py: all waits of one request count against one deadline."""

from __future__ import annotations

import threading

import pytest

from tests.config.conftest import answer
from wrapper.config.connection import TimedConnection
from wrapper.deadline import Deadline
from wrapper.settings.address import tcp


def test_a_request_is_answered(serve):
    server = serve(answer("hello"))
    connection = TimedConnection(tcp("127.0.0.1", server.port), Deadline(20))
    connection.request("GET", "/x")
    assert connection.getresponse().read() == b"hello"
    connection.close()
    assert server.heads[0].startswith("GET /x HTTP/1.1\r\n")


def test_a_server_that_drips_meets_the_deadline(serve):
    over, deadline = threading.Event(), Deadline(60)

    def drip(connection, head):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not over.wait(0.02):
            connection.sendall(b"x")

    server = serve(drip)
    connection = TimedConnection(tcp("127.0.0.1", server.port), deadline)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.read(1) == b"x"
    deadline._end = 0.0  # while it drips on
    with pytest.raises(OSError, match="timed out"):
        response.read()
    over.set()
    connection.close()


def test_what_is_too_late_is_not_begun(serve):
    deadline = Deadline(60)
    connection = TimedConnection(tcp("127.0.0.1", serve(answer("x")).port), deadline)
    connection.connect()
    deadline._end = 0.0
    with pytest.raises(TimeoutError):
        connection.request("GET", "/")
    connection.close()
