"""paths.py: where the control socket is, and whether it is a wrapper of ours that listens there."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from wrapper.ctl import paths
from wrapper.ctl.paths import ControlSocket, NoWrapper, candidates, connect


@contextlib.contextmanager
def listening(*places):
    with contextlib.ExitStack() as stack:
        for place in places:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(place)
            listener.listen()
        yield


@pytest.fixture
def two(tmp_path):
    return [str(tmp_path / "one.sock"), str(tmp_path / "two.sock")]


def test_the_last_place_is_one_that_a_read_only_container_has(monkeypatch):
    """Docker's --read-only leaves /dev/shm to be written."""
    monkeypatch.setenv("TMPDIR", "/scratch")
    assert candidates() == ["/run/wrapper.sock", "/scratch/wrapper.sock", "/dev/shm/wrapper.sock"]
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    assert candidates() == ["/run/wrapper.sock", "/dev/shm/wrapper.sock"]


def test_the_peer_is_known_by_its_process(two):
    with listening(two[1]):
        peer = connect(two, 1.0)
        peer.connection.close()
    assert str(peer) == f"pid {os.getpid()} at {two[1]}"


def test_of_two_that_live_none_is_guessed(two):
    with listening(*two), pytest.raises(NoWrapper, match=f"two wrappers.*{two[0]}.*{two[1]}.*--control"):
        connect(two, 1.0)


@pytest.mark.parametrize("order", [(0, 7), (7, 0)])
def test_a_wrapper_of_another_container_does_not_count_beside_ours(monkeypatch, order):
    """unix(7): a process in a namespace that cannot be seen has no number; /run may be a volume for both."""
    found = iter(ControlSocket(f"/{pid}", pid, socket.socket()) for pid in order)
    monkeypatch.setattr(paths, "_open", lambda path, timeout: next(found))
    peer = connect(["/a", "/b"], 1.0)
    peer.connection.close()
    assert peer.path == "/7"


def test_a_process_of_another_user_is_not_believed(monkeypatch, two):
    """Every user may put a socket into the temporary folder before the wrapper does."""
    monkeypatch.setattr(paths, "ROOT", -1)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with listening(two[0]):
        with pytest.raises(NoWrapper, match=f"at {two[0]} listens a process of user .*neither root"):
            connect(two, 1.0)
        owner = os.stat(two[0]).st_uid  # the file may be ours where the process that listens is not
        monkeypatch.setattr(os, "stat", lambda path: os.stat_result([0] * 4 + [12345, 0, 0, 0, 0, 0]))
        with pytest.raises(NoWrapper, match=f"user {owner}, which is neither root"):
            connect(two[:1], 1.0)


def test_what_is_not_believed_stands_in_no_ones_way(monkeypatch, two):
    with listening(*two):
        ours = paths._open(two[1], 1.0)

        def judged(path, timeout):
            if path == two[0]:
                raise NoWrapper("a stranger")
            return ours

        monkeypatch.setattr(paths, "_open", judged)
        assert connect(two, 1.0) is ours
        ours.connection.close()


def test_the_socket_that_was_named_beats_the_environment(monkeypatch):
    monkeypatch.setenv("WRAPPER_CONTROL", "/from/environment")
    assert paths.places("/given") == ["/given"]
    assert paths.places(None) == ["/from/environment"]
    monkeypatch.delenv("WRAPPER_CONTROL")
    assert paths.places(None)[0] == "/run/wrapper.sock"
