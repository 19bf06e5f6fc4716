"""probe.py: is the service ready, does it read its configuration? Against listeners that answer as they are told."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from wrapper import sockets
from wrapper.service import probe
from wrapper.service.probe import Probe, reload_action
from wrapper.settings.address import tcp, unix

ANY = ((200, 399),)


def test_a_connection_is_enough_without_a_path(answering):
    assert Probe(None, ANY).fault(tcp(*answering(None))) is None


def test_nothing_there_is_a_fault():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert "nothing listens" in Probe(None, ANY).fault(tcp(*bound.getsockname()))


@pytest.mark.parametrize(("answer", "fault"), [
    (b"HTTP/1.1 200 OK\r\n\r\n", None), (b"HTTP/1.0 302 Found\r\n\r\n", None), (b"HTTP/1.1 503 No\r\n\r\n", "503"),
    (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", None),
    (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 No\r\n\r\n", "503"), (b"HTTP/1.1 100 a\r\n\r\n", "not HTTP"),
    (b"SSH-2.0-x\r\n", "not HTTP"), (b"", "not HTTP"), (b"HTTP/1.1 2x0\r\n", "not HTTP"), (b"x" * 5000, "not HTTP")])
def test_a_path_must_answer_with_the_right_status(answering, answer, fault):
    found = Probe("/ready", ANY).fault(tcp(*answering(answer)))
    assert found is None if fault is None else fault in found


@pytest.mark.parametrize(("answer", "longest"), [
    (None, probe.REFUSED_INTERVAL), (b"HTTP/1.1 503 No\r\n\r\n", probe.LONGEST_INTERVAL)])
def test_a_run_that_is_not_there_yet_is_asked_often_and_one_that_is_busy_seldom(answering, answer, longest):
    """The crowd that waits for a restart waits for the next probe too."""
    address = tcp("127.0.0.1", sockets.free_port()) if answer is None else tcp(*answering(answer))
    pauses = []
    ended = SimpleNamespace(wait=pauses.append, is_set=lambda: False)
    run = SimpleNamespace(address=address, other_addresses=(), ended=ended)
    assert Probe("/", ANY).await_ready(run, 60, lambda: len(pauses) == 12)
    assert max(pauses) == pauses[-1] == longest


def test_unix_sockets_are_probed_too(answering, tmp_path):
    place = str(tmp_path / "s")
    answering(b"HTTP/1.1 204 x\r\n\r\n", socket.AF_UNIX, place)
    assert Probe("/", ANY).fault(unix(place)) is None


@pytest.mark.parametrize("listens", ["127.0.0.1", "::1"])
def test_the_address_of_a_run_is_the_one_that_answers(answering, listens):
    port = answering(None, socket.AF_INET6 if ":" in listens else socket.AF_INET, (listens, 0))[1]
    run = SimpleNamespace(address=tcp("127.0.0.1", port), other_addresses=(tcp("::1", port),))
    assert Probe(None, ANY).fault_of(run) is None
    assert run.address == tcp(listens, port)
    assert run.other_addresses == ()


def test_a_call_wants_a_2xx(answering):
    call = reload_action("PUT /-/reload?key=secret")
    assert call(None, tcp(*answering(b"HTTP/1.1 200 OK\r\n\r\n"))) is None
    assert call(None, tcp(*answering(b"HTTP/1.1 500 no\r\n\r\n"))) == "PUT /-/reload answers 500"


def test_a_service_that_looks_by_itself_is_told_nothing():
    assert reload_action("none")(None, None) is None


def test_without_another_way_a_reload_is_a_restart():
    assert reload_action("restart") is None
