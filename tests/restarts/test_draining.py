"""What is under way when a planned stop comes: finished in time, told to go, or visibly broken; never repeated."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import queue
import re
import signal
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.restarts.load import NUMBERS, Noted, counting
from tests.restarts.raw import Raw, get, post
from tests.running import PATIENCE, Wrapper, service, wait_until

# A client that upgrades and then neither reads nor answers.
UPGRADE = get("/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
              "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
MODES = pytest.mark.parametrize("mode", ["replace", "overlap"])


@pytest.fixture
def run(tmp_path):
    started = []

    def start(*options, command=None):
        wrapper = Wrapper(*options, command=command or counting(tmp_path / "log"))
        wrapper.noted = lambda: Noted(tmp_path / "log")
        started.append(wrapper)
        return wrapper

    yield start
    for wrapper in started:
        wrapper.__exit__(None, None, None)


def restart(wrapper):
    """Begin a restart; returns once it is under way."""
    before = wrapper.status()["restarts"]
    assert wrapper.command("POST", "/sidecar/api/restart")[0] == 202
    wait_until(lambda: wrapper.status()["restarts"] > before)


def is_done(wrapper, generation=2):
    status = wrapper.status()
    return status["generation"] == generation and status["state"] == "running"


@MODES
def test_an_upload_in_flight_gets_its_time(run, mode):
    wrapper = run("--restart-mode", mode, "--drain-timeout", "60s")
    number, body = next(NUMBERS), os.urandom(200_000)
    with Raw(wrapper.port, post(f"/?{number}", body)[:100_000]) as client:
        wait_until(lambda: wrapper.noted().of("began"))
        restart(wrapper)
        client.send(post(f"/?{number}", body)[100_000:])
        assert client.read_response()[0] == 200
    assert len(wrapper.noted().of("whole")) == len(wrapper.noted().of("began")) == 1
    wait_until(lambda: is_done(wrapper))


@MODES
def test_an_upload_that_does_not_end_in_time_is_visibly_broken_and_never_repeated(run, mode):
    wrapper = run("--drain-timeout", "300ms", "--overlap-drain-timeout", "300ms", "--restart-mode", mode)
    with Raw(wrapper.port, post(f"/?{next(NUMBERS)}", bytes(200_000))[:100_000]) as client:
        wait_until(lambda: wrapper.noted().of("began"))
        restart(wrapper)
        status, fields, _ = client.read_response()
        assert (status, fields["connection"]) == (503, "close")  # the service ends at the signal
    wait_until(lambda: is_done(wrapper))
    noted = wrapper.noted()
    assert len(noted.of("began")) == 1
    assert not noted.of("whole")


def test_a_request_that_takes_long_is_finished_and_newcomers_wait(run, tmp_path):
    wrapper = run("--drain-timeout", "60s")
    with Raw(wrapper.port, get(f"/kept?{next(NUMBERS)}")) as slow, Raw(wrapper.port) as newcomer:
        wait_until(lambda: wrapper.noted().of("began"))
        restart(wrapper)
        wrapper.wait_line("running -> draining")
        newcomer.send(get())
        wait_until(lambda: wrapper.status()["held"] == 1)
        (tmp_path / "log.go").touch()
        assert slow.read_response()[0] == 200
        status, fields, _ = newcomer.read_response()
        assert (status, "wrapper-held" in fields) == (200, True)
    assert not wrapper.noted().repeated


def test_an_answer_that_does_not_end_in_time_is_visibly_broken(run):
    wrapper = run("--drain-timeout", "300ms")
    with Raw(wrapper.port, get("/answer")) as client:
        client.read_until(b"56789")
        restart(wrapper)
        with pytest.raises((ConnectionResetError, AssertionError)):
            client.read_until(b"never")


@pytest.mark.parametrize(("request_of", "answers"), [(get, 200), (lambda path: post(path, b""), 503)])
def test_a_request_that_the_service_leaves_unanswered_travels_once_more_or_is_told(run, tmp_path, request_of, answers):
    """Only what may be repeated; the service ends at the signal."""
    wrapper = run("--drain-timeout", "200ms")
    with Raw(wrapper.port, request_of(f"/kept?{next(NUMBERS)}")) as client:
        wait_until(lambda: wrapper.noted().of("began"))
        restart(wrapper)
        wait_until(lambda: is_done(wrapper))
        (tmp_path / "log.go").touch()
        status, fields, _ = client.read_response()
        assert status == answers
        assert ("retry-after" in fields) == (status == 503)
    wait_until(lambda: is_done(wrapper))


# Server-sent events

def ended_stream(data):
    """The events of a stream that ended cleanly, as the client saw them."""
    body = data.partition(b"\r\n\r\n")[2]
    assert body.endswith(b"\r\n0\r\n\r\n"), body[-60:]
    text = b"".join(re.findall(rb"[0-9a-f]+\r\n(.+?)\r\n(?=[0-9a-f]+\r\n)", body, re.DOTALL))
    assert text.endswith(b"\n\n"), text[-60:]
    return text


@MODES
def test_an_event_stream_ends_cleanly_between_two_events(run, mode):
    wrapper = run("--restart-mode", mode, "--drain-timeout", "600s", "--overlap-drain-timeout", "6s")
    clients = [Raw(wrapper.port, get("/events")) for _ in range(8)]
    begun = [client.read_until(b"data: 3\n") for client in clients]
    restart(wrapper)
    for client, beginning in zip(clients, begun):
        assert ended_stream(beginning + client.read_until(b"\r\n0\r\n\r\n")).count(b"data: more\n\n") >= 3
        client.send(get("/"))  # the connection was not to be closed
        assert client.read_response()[0] == 200
        client.close()


def test_a_silent_event_stream_ends_cleanly_too(run, tmp_path):
    script = tmp_path / "silent.py"
    script.write_text(
        "import socket, sys\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "kept = []\n"
        "while True:\n"
        "    c = s.accept()[0]; kept.append(c)\n"
        "    if c.recv(9999): c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\n'\n"
        "                               b'Transfer-Encoding: chunked\\r\\n\\r\\n9\\r\\ndata: 1\\n\\n\\r\\n')\n")
    wrapper = run("--drain-timeout", "600s", command=["python3", str(script), "{port}"])
    with Raw(wrapper.port, get("/")) as client:
        client.read_until(b"data: 1\n\n\r\n")
        restart(wrapper)
        assert client.read_until(b"0\r\n\r\n") == b"0\r\n\r\n"


# WebSockets

@pytest.fixture
def sockets(run):
    return lambda *options: run(*options, command=service("websocket"))


@MODES
def test_a_websocket_client_sees_1012_at_a_restart_and_connects_again_at_once(sockets, mode):
    wrapper = sockets("--restart-mode", mode, "--drain-timeout", "600s", "--overlap-drain-timeout", "600s")
    with connect(f"ws://127.0.0.1:{wrapper.port}/") as client:
        first = client.recv()
        client.send("hello")
        assert client.recv() == "hello"
        restart(wrapper)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE)  # long before it would be cut
        assert closed.value.rcvd.code == 1012
        with connect(f"ws://127.0.0.1:{wrapper.port}/") as again:
            assert again.recv() != first
            again.send("hello again")
            assert again.recv() == "hello again"


def test_in_an_overlap_websocket_clients_are_told_one_after_the_other(sockets):
    """The second of two is told after a quarter of the time, or at the end; until then it goes on."""
    wrapper = sockets("--restart-mode", "overlap", "--overlap-drain-timeout", "120s")
    heard = queue.SimpleQueue()

    def read(client):
        client.recv()
        try:
            while True:
                heard.put(client.recv())
        except ConnectionClosed as closed:
            heard.put(closed.rcvd and closed.rcvd.code)

    with connect(f"ws://127.0.0.1:{wrapper.port}/") as one, connect(f"ws://127.0.0.1:{wrapper.port}/") as two:
        threads = [threading.Thread(target=read, args=(client,)) for client in (one, two)]
        for thread in threads:
            thread.start()
        restart(wrapper)
        assert heard.get(timeout=20) == 1012
        for client in (one, two):
            with contextlib.suppress(ConnectionClosed):
                client.send("still here")
        assert heard.get(timeout=20) == "still here"
        wrapper.process.terminate()
        assert heard.get(timeout=20) == 1001
        for thread in threads:
            thread.join()


def test_a_websocket_client_sees_1001_at_the_end(sockets):
    wrapper = sockets()
    with connect(f"ws://127.0.0.1:{wrapper.port}/") as client:
        client.recv()
        wrapper.process.terminate()
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=PATIENCE)
        assert closed.value.rcvd.code == 1001
    assert wrapper.end() == 0


def test_a_close_comes_at_a_frame_boundary_in_the_middle_of_a_flood(sockets):
    wrapper = sockets("--drain-timeout", "600s")
    under_way, codes = threading.Semaphore(0), []

    def read():
        with connect(f"ws://127.0.0.1:{wrapper.port}/") as client:
            client.recv()
            client.send("flood")
            try:
                for count in range(1_000_000):
                    assert client.recv(timeout=PATIENCE) == b"%08d" % count * 2000
                    if count == 20:
                        under_way.release()
            except ConnectionClosed as closed:
                codes.append(closed.rcvd and closed.rcvd.code)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert under_way.acquire(timeout=20)
    restart(wrapper)
    for thread in threads:
        thread.join(3 * PATIENCE)
    assert codes == [1012] * len(threads)


def test_a_client_that_does_not_read_still_finds_the_close(sockets):
    """The close waits behind what the client has not taken yet, and is not forgotten there."""
    wrapper = sockets("--drain-timeout", "600s")
    with connect(f"ws://127.0.0.1:{wrapper.port}/", max_queue=1) as client:
        client.recv()
        client.send("flood")
        client.recv()
        wait_until(lambda: wrapper.status()["in_flight"] == 1)
        restart(wrapper)
        # The kernel's buffers are full now; only from here on the client reads.
        with pytest.raises(ConnectionClosed) as closed:
            all(client.recv(timeout=PATIENCE) for _ in range(1_000_000))
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


def test_a_tunnel_that_is_no_websocket_is_cut_after_its_time(run, tmp_path):
    script = tmp_path / "upgrade.py"
    script.write_text(
        "import socket, sys\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "kept = []\n"
        "while True:\n"
        "    c = s.accept()[0]; kept.append(c)\n"
        "    if c.recv(9999): c.sendall(b'HTTP/1.1 101 OK\\r\\nConnection: upgrade\\r\\nUpgrade: own\\r\\n\\r\\nhi')\n")
    wrapper = run("--drain-timeout", "200ms", command=["python3", str(script), "{port}"])
    with Raw(wrapper.port, get("/", "Connection: upgrade", "Upgrade: own")) as client:
        client.read_until(b"hi")
        restart(wrapper)
        try:
            assert client.read_end() == b""
        except ConnectionResetError:
            pass
    wait_until(lambda: is_done(wrapper))


# The end

def end_of(client):
    """The moment when its connection ended."""
    with contextlib.suppress(ConnectionResetError):
        client.read_end()
    return time.monotonic()


def test_the_end_in_the_middle_of_an_overlap_ends_both_runs_in_one_span(sockets):
    """`docker stop` kills after 10 s: the old run that drains and the new one that serves have their time together."""
    wrapper = sockets("--restart-mode", "overlap", "--drain-timeout", "3s")
    clients = [Raw(wrapper.port, UPGRADE) for _ in range(2)]
    clients[0].read_until(b"\r\n\r\n")
    restart(wrapper)
    wait_until(lambda: wrapper.status()["generation"] == 2)
    clients.append(Raw(wrapper.port, UPGRADE))
    clients[2].read_until(b"\r\n\r\n")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ends = [pool.submit(end_of, client) for client in (clients[0], clients[2])]
        assert wrapper.end(signal.SIGTERM) == 0
        assert abs(ends[0].result() - ends[1].result()) < 3, "one after the other the second one has 3 s more"
    for client in clients:
        client.close()


def test_a_second_signal_in_the_middle_of_an_overlap_ends_it_at_once(sockets):
    wrapper = sockets("--restart-mode", "overlap", "--drain-timeout", "600s")
    with Raw(wrapper.port, UPGRADE) as client:
        client.read_until(b"\r\n\r\n")
        restart(wrapper)
        wait_until(lambda: wrapper.status()["generation"] == 2)
        wrapper.process.send_signal(signal.SIGTERM)
        wrapper.wait_line("shutting down")
        assert wrapper.end(signal.SIGTERM) == 0
