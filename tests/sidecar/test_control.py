"""control.py: the control socket."""

from __future__ import annotations

import http.client
import os
import socket
import stat

import pytest

from tests.running import UnixConnection
from tests.sidecar.parts import make_site
from wrapper.sidecar import control
from wrapper.sidecar.control import ControlServer


@pytest.fixture
def place(tmp_path):
    return str(tmp_path / "control.sock")


@pytest.fixture
def server(place):
    site = make_site()
    server = ControlServer(place, site)
    server.start()
    yield server
    server.stop()


def ask(place, method, path):
    connection = UnixConnection(place)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_actions_need_no_token(server, place):
    assert ask(place, "POST", "/sidecar/api/stop")[0] == 202


def test_what_is_not_ours_is_404_and_never_relayed(server, place):
    assert ask(place, "GET", "/")[0] == 404
    assert ask(place, "GET", "/sidecar/nothing")[0] == 404


def test_only_its_owner_may_open_it(server, place):
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process is needed, and only root can make one")
def test_a_stranger_is_turned_away(server, place, monkeypatch):
    """Where the mode is not heeded, the peer's user is."""
    monkeypatch.setattr(control, "ROOT", -1)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(place, "GET", "/sidecar/healthz")
    monkeypatch.undo()
    assert ask(place, "GET", "/sidecar/healthz")[0] == 200


def test_the_file_of_a_wrapper_that_is_gone_is_replaced_and_a_living_one_is_kept(place):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(place)
    site = make_site()
    server = ControlServer(place, site)
    server.start()
    with pytest.raises(OSError, match="in use"):
        ControlServer(place, site)
    server.stop()
    assert not os.path.exists(place)


def test_the_file_of_another_wrapper_is_not_removed(server, place):
    os.unlink(place)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(place)
        server.stop()
        assert os.path.exists(place)


def test_the_file_of_a_relative_path_is_removed_from_wherever_the_folder_is(tmp_path, monkeypatch):
    """A sidecar's code may change the working folder."""
    monkeypatch.chdir(tmp_path)
    server = ControlServer("control.sock", make_site())
    server.start()
    monkeypatch.chdir("/")
    server.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_is_an_os_error(tmp_path):
    site = make_site()
    for path in ("/x" * 100, str(tmp_path / "no" / "folder")):
        with pytest.raises(OSError, match="."):
            ControlServer(path, site)
