"""client.py: the caller's end of the control socket, whatever is at the other one."""

from __future__ import annotations

import socket

import pytest

from tests.ctl.speaking import answer, answering
from wrapper.ctl.client import Client, Refused
from wrapper.ctl.paths import NoWrapper, connect


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "c.sock")


def test_the_first_place_where_somebody_listens_is_asked(path):
    with answering(path, answer(200, '{"a": 1}')):
        assert Client(["/nowhere/at.all", path]).ask("api/status") == {"a": 1}


def test_nobody_anywhere_is_one_sentence_with_the_way_out(path):
    with pytest.raises(NoWrapper, match="no wrapper runs here: .*--control"):
        Client([path]).ask("api/status")


def test_a_socket_left_behind_is_nobody(path):
    socket.socket(socket.AF_UNIX).bind(path)
    with pytest.raises(NoWrapper, match="no wrapper runs here"):
        Client([path]).ask("api/status")


def test_a_refusal_carries_its_sentence(path):
    with answering(path, answer(409, '{"error": "busy", "status": 409}')):
        with pytest.raises(Refused, match="^busy$") as caught:
            Client([path]).ask("api/start", method="POST")
    assert caught.value.status == 409


@pytest.mark.parametrize("noise", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"])
def test_whoever_is_no_wrapper_is_one_sentence_too(path, noise):
    with answering(path, noise), pytest.raises(NoWrapper, match="went away"):
        Client([path]).ask("api/status")


def test_silence_ends_with_the_timeout(path):
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(path)
        deaf.listen()
        with pytest.raises(NoWrapper, match="does not answer in time"):
            Client([path], timeout=0.05).ask("api/status")


def test_events_are_the_json_of_their_data_lines(path):
    stream = 'retry: 1000\n\nid: a-1\nevent: state\ndata: {"id": 1}\n\n: \n\nid: a-2\ndata: {"id": 2}\n\n'
    with answering(path, answer(200, stream, "text/event-stream")):
        assert list(Client([path]).events()) == [{"id": 1}, {"id": 2}]


def test_only_the_beginning_of_a_stream_is_bounded(path, monkeypatch):
    opened = []
    monkeypatch.setattr("wrapper.ctl.paths.connect", lambda *words: opened.append(connect(*words)) or opened[-1])
    with answering(path, answer(200, "", "text/event-stream")):
        Client([path], timeout=10).events()
        Client([path], timeout=10).ask("api/logs", str)
    assert [peer.connection.gettimeout() for peer in opened] == [None, 10]


@pytest.mark.parametrize("body", ["[]", '"text"', "3", "all is well"])
def test_an_answer_of_another_kind_is_one_sentence(path, body):
    with answering(path, answer(200, body)), pytest.raises(NoWrapper, match="does not answer as a wrapper"):
        Client([path]).ask("api/status")
    with pytest.raises(NoWrapper):
        Client([path]).ask("api/problems", list)
