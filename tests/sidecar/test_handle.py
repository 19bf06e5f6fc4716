"""handle.py: a service as sidecar code sees it."""

from __future__ import annotations

import socket
import threading

import pytest

from wrapper.errors import Busy
from wrapper.service.controller import Controller
from wrapper.settings import address
from wrapper.sidecar.handle import ActionFailed
from wrapper.testing import FakeProcess, FakeService, running


def test_it_can_be_looked_at():
    with running() as wrapper:
        service = wrapper.service
        assert (service.name, service.state, service.is_ready) == ("service", "running", True)
        assert service.status()["generation"] == 1
        assert service.address.port != wrapper.port


def test_it_can_be_steered():
    fake = FakeService()
    with running(service=fake) as wrapper:
        service = wrapper.service
        service.stop("test")
        assert service.state == "stopped"
        service.start()
        assert service.state == "running"
        service.restart("test")
        service.reload("test")
        assert fake.starts == 4
        service.signal("HUP")
        service.signal(10)
        assert fake.signals[-2:] == ["HUP", "USR1"]


def test_the_reason_is_recorded():
    with running() as wrapper:
        wrapper.service.restart("because I can")
        assert "because I can" in [event["reason"] for event in wrapper.events("state")]


def test_a_restart_that_fails_says_why():
    fake = FakeService()
    with running(service=fake) as wrapper:
        fake.fails_to_start = True
        with pytest.raises(ActionFailed, match="ended with status 1"):
            wrapper.service.restart("test")


def test_a_contradiction_is_said_at_once(monkeypatch):
    go_on, begin_stop = threading.Event(), FakeProcess.begin_stop

    def begin_stop_later(*arguments):
        assert go_on.wait(10)
        begin_stop(*arguments)

    monkeypatch.setattr(FakeProcess, "begin_stop", begin_stop_later)
    with running() as wrapper:
        wrapper.service.stop(wait=False)
        with pytest.raises(Busy):
            wrapper.service.restart("test")
        go_on.set()


def test_a_signal_that_is_none_is_a_value_error_and_one_to_nobody_is_busy():
    with running() as wrapper:
        with pytest.raises(ValueError, match="signal"):
            wrapper.service.signal("NOPE")
        wrapper.service.stop()
        with pytest.raises(Busy):
            wrapper.service.signal("HUP")


def test_waiting_for_it_ends_as_soon_as_it_is_ready_or_the_time_is_over():
    with running() as wrapper:
        wrapper.service.stop()
        assert not wrapper.service.wait_ready(0.01)
        waiting = threading.Thread(target=wrapper.service.wait_ready, daemon=True)
        waiting.start()
        wrapper.service.start()
        waiting.join(5)
        assert not waiting.is_alive()


def test_it_can_be_asked_behind_the_gate():
    asked = []

    def answer(request):
        asked.append(request)
        return 201, {"got": request.body.decode()}

    with running(service=FakeService(answer)) as wrapper:
        found = wrapper.service.request("POST", "/x?y=1", json={"a": 1}, headers={"X-A": "1"})
        assert (found.status, found.ok, found.json()) == (201, True, {"got": '{"a": 1}'})
        assert (asked[0].path, asked[0].headers["X-A"]) == ("/x?y=1", "1")
        assert asked[0].headers["Content-Type"] == "application/json"
        assert wrapper.service.request("PUT", "/", body="text").text == '{"got": "text"}'


def test_one_that_is_not_there_is_an_os_error():
    with running() as wrapper:
        wrapper.service.stop()
        with pytest.raises(OSError, match="."):
            wrapper.service.request("GET", "/")


class Stub:
    """A listener that says what it was told to, drop by drop, and keeps the connection."""

    def __init__(self, *drops):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.over = threading.Event()
        threading.Thread(target=self._answer, args=(drops,), daemon=True).start()

    def _answer(self, drops):
        connection, _ = self.listener.accept()
        for drop in drops:
            connection.sendall(drop)
        while not self.over.wait(0.02):
            try:
                connection.sendall(b"x")
            except OSError:
                return


@pytest.mark.parametrize("drops", [(), (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",)])
def test_the_timeout_is_for_all_of_the_answer(drops, monkeypatch):
    stub = Stub(*drops)
    with running() as wrapper:
        monkeypatch.setattr(Controller, "address", address.tcp(*stub.listener.getsockname()))
        with pytest.raises((OSError, ValueError)):
            wrapper.service.request("GET", "/", timeout=0.2)
        stub.over.set()
        monkeypatch.undo()


def test_what_is_not_http_is_a_value_error(monkeypatch):
    stub = Stub(b"SSH-2.0-nothing\r\n\r\n")
    with running() as wrapper:
        monkeypatch.setattr(Controller, "address", address.tcp(*stub.listener.getsockname()))
        with pytest.raises(ValueError, match="HTTP"):
            wrapper.service.request("GET", "/", timeout=10)
        stub.over.set()
        monkeypatch.undo()


def test_a_change_of_configuration_is_one_transaction(tmp_path):
    file, fake = tmp_path / "rules.yml", FakeService()
    file.write_text("old")
    with running(service=fake) as wrapper:
        assert wrapper.service.apply({str(file): "new"}, action="restart") == []
        assert (file.read_text(), fake.starts) == ("new", 2)
        fake.fails_to_start = True
        problems = wrapper.service.apply({str(file): "bad"}, action=lambda: "no, thanks")
        assert problems
        assert file.read_text() == "new"
