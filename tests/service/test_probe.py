"""probe.py: is the service ready? Against listeners that answer as they are told."""

from __future__ import annotations

import socket

import pytest

from wrapper import sockets
from wrapper.address import tcp, unix
from wrapper.service import probe
from wrapper.service.probe import Probe

ANY = ((200, 399),)


def test_a_connection_is_enough_without_a_path(answering):
    assert Probe(None, ANY).fault(tcp(*answering(None))) is None


def test_nothing_there_is_a_fault():
    assert "nothing listens" in Probe(None, ANY).fault(tcp("127.0.0.1", sockets.free_port()))


@pytest.mark.parametrize(("answer", "fault"), [
    (b"HTTP/1.1 200 OK\r\n\r\n", None), (b"HTTP/1.0 302 Found\r\n\r\n", None), (b"HTTP/1.1 503 No\r\n\r\n", "503"),
    (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", None),
    (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 No\r\n\r\n", "503"), (b"HTTP/1.1 100 a\r\n\r\n", "not HTTP"),
    (b"SSH-2.0-x\r\n", "not HTTP"), (b"", "not HTTP"), (b"HTTP/1.1 2x0\r\n", "not HTTP"), (b"x" * 5000, "not HTTP")])
def test_a_path_must_answer_with_the_right_status(answering, answer, fault):
    found = Probe("/ready", ANY).fault(tcp(*answering(answer)))
    assert found is None if fault is None else fault in found


def test_unix_sockets_are_probed_too(answering, tmp_path):
    place = str(tmp_path / "s")
    answering(b"HTTP/1.1 204 x\r\n\r\n", socket.AF_UNIX, place)
    assert Probe("/", ANY).fault(unix(place)) is None


def test_a_port_that_answers_is_taken(answering):
    assert probe.is_taken(tcp(*answering(None)))
    assert not probe.is_taken(tcp("127.0.0.1", sockets.free_port()))
