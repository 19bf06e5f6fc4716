"""sockets.py: listening and connecting, over TCP and unix sockets."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import resource
import socket
import threading

import pytest

from tests import inner_ports
from wrapper import sockets
from wrapper.settings import address


@pytest.fixture
def place(tmp_path):
    return str(tmp_path / "x.sock")


def listen(place, mode=None):
    return sockets.listen(address.unix(place), mode)


def test_whoever_finds_the_file_can_connect(place):
    """bind(2) makes the file, and until listen(2) a connect is refused, as by one that was left behind."""
    refused, removed, over = [], [], threading.Event()

    def look():
        while not over.is_set():
            known = len(removed)
            if os.path.exists(place):
                with socket.socket(socket.AF_UNIX) as client:
                    try:
                        client.connect(place)
                    except ConnectionRefusedError:
                        refused.append(len(removed) == known)
                    except FileNotFoundError:
                        pass

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            listener = listen(place)
            removed.append(place)
            os.unlink(place)
            listener.close()
    finally:
        over.set()
        thread.join()
    # One that is found just before it is unlinked and closed is refused, whatever stands in its place by then.
    assert not any(refused)


def test_nothing_but_the_socket_is_left(place):
    with listen(place, 0o600):
        assert os.listdir(os.path.dirname(place)) == ["x.sock"]
        assert os.stat(place).st_mode & 0o777 == 0o600


def test_a_live_one_is_not_replaced(place):
    with listen(place):
        with pytest.raises(OSError, match="in use") as caught:
            listen(place)
        assert caught.value.errno == errno.EADDRINUSE
        sockets.connect(address.unix(place), 1.0).close()


@pytest.fixture
def full(place):
    """A listener whose backlog is full, and the connections in it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen(0)
        listener.settimeout(10.0)
        with sockets.connect(address.unix(place), 1.0):
            yield listener


def test_a_connect_waits_for_room_in_a_full_backlog(place, full):
    """As it does over TCP; connect(2) of a unix socket that does not block says EAGAIN at once."""
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(sockets.connect, address.unix(place), 10.0) for _ in range(4)]
        for _ in range(5):
            full.accept()[0].close()
        for one in waiting:
            with one.result() as connected:
                assert connected.gettimeout() == 10.0
                assert not any(connected.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16))


@pytest.mark.parametrize("timeout", [0.02, 0.0])
def test_a_full_backlog_is_a_timeout_after_its_time(place, full, timeout):
    with pytest.raises(socket.timeout, match="timed out"):  # TimeoutError since CPython 3.10
        sockets.connect(address.unix(place), timeout)


def test_one_that_was_left_behind_is_replaced(place):
    listen(place).close()
    with listen(place):
        sockets.connect(address.unix(place), 1.0).close()


def test_a_peer_is_known_by_its_process_and_its_user(place):
    with listen(place), sockets.connect(address.unix(place), 1.0) as connected:
        assert sockets.peer(connected) == (os.getpid(), os.geteuid())


def test_a_file_that_is_no_socket_is_kept(place):
    with open(place, "w") as file:
        file.write("mine")
    with pytest.raises(OSError, match="in use"):
        listen(place)
    with open(place) as file:
        assert file.read() == "mine"


def test_a_path_as_long_as_can_be(tmp_path):
    """sun_path leaves no room for a longer name beside it."""
    place = str(tmp_path / "f") + "/"
    place += "d" * (address.UNIX_PATH_BYTES - len(place) - 2)
    os.makedirs(place)
    place += "/s"
    assert len(place) == address.UNIX_PATH_BYTES
    with listen(place):
        sockets.connect(address.unix(place), 1.0).close()
        assert os.listdir(os.path.dirname(place)) == ["s"]


def listen_at_six(stack):
    """A listener at ::1 whose port has none at 127.0.0.1."""
    while True:
        taken = stack.enter_context(socket.socket())
        taken.bind(("127.0.0.1", 0))
        with contextlib.suppress(OSError):
            return stack.enter_context(sockets.listen(address.tcp("::1", taken.getsockname()[1])))


@pytest.mark.parametrize("host", ["localhost", ""])
def test_localhost_is_both_loopbacks_whatever_the_hosts_file_says(host, monkeypatch):
    """RFC 6761, section 6.3; podman's /etc/hosts has it at 127.0.0.1 alone, and Node listens at ::1 alone."""
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *rest, **more: real(
        "127.0.0.1" if name in ("localhost", b"localhost") else name, *rest, **more))
    with contextlib.ExitStack() as stack:
        own = listen_at_six(stack).getsockname()
        connection = stack.enter_context(sockets.connect(address.tcp(host, own[1]), 5.0))
        assert connection.getpeername() == own


@pytest.mark.parametrize(("most", "fd", "is_reserved"), [
    (1024, 1015, False), (1024, 1016, True), (10, 4, False), (10, 5, True), (resource.RLIM_INFINITY, 5000, False),
])
def test_the_last_descriptors_are_reserved(monkeypatch, most, fd, is_reserved):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (most, most))
    assert sockets.is_reserved(fd) is is_reserved


def test_a_port_that_another_suite_has_drawn_is_left_to_it():
    """Between the draw and the moment when the service binds it both would find it free."""
    claims = inner_ports.Claims(iter([1, 2]).__next__)
    with inner_ports.claim("inner-1"):
        assert claims.free_port() == 2
