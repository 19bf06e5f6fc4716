"""Many clients, hostile clients, large bodies, TLS: nobody makes the others wait, and nothing grows.

RFC 9112 section 11; RFC 8446 section 6.1 for the end of TLS.
"""

import contextlib
import os
import pathlib
import resource
import socket
import ssl
import subprocess
import threading
import time

import pytest

from tests.loop.driving import settle
from tests.proxy.road import GET, GET_CLOSE, OK, PATIENCE, Line, answering, echoing
from tests.running import wait_until
from wrapper.front.server import is_free_threaded

PROMPT = 1.0  # seconds of processor; what is held up by others takes several, what is not takes milliseconds
# Bytes that may be in hand while any number flows. The allocator of Python without its lock keeps more: 51 MiB after
# 128 MiB of chunks, and after 1 GiB.
IN_HAND = 64 << 20 if is_free_threaded() else 30 << 20
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def resident():
    """Bytes of memory this process has."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Crowd:
    """Threads that do the same until the test ends; what their connections fail with does not matter."""

    def __init__(self, count, act):
        self.over = threading.Event()
        self.begun = threading.Semaphore(0)
        self._act = act
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()
        for _ in range(count):
            assert self.begun.acquire(timeout=10)

    def _run(self):
        try:
            for _ in self._act():
                self.begun.release()
                if self.over.is_set():
                    return
        except OSError:
            self.begun.release()

    def end(self):
        self.over.set()
        for thread in self._threads:
            thread.join(10)


def assert_others_are_served(made, act, count=8):
    """While `count` clients `act`, an ordinary one is answered promptly, again and again.

    Measured by what this process computes meanwhile, the crowd and its service too: other processes take time as well.
    """
    crowd = Crowd(count, act)
    try:
        slowest = 0.0
        for _ in range(20):
            began = time.process_time()
            line = made.connect().send(GET)
            assert line.message()[1] == b"ok"
            line.close()
            slowest = max(slowest, time.process_time() - began)
        assert slowest < PROMPT
    finally:
        crowd.end()


def polite(line):
    """A script: `ok` for every request, read whole; a stream that never ends for /drip."""
    with contextlib.suppress(AssertionError, OSError):  # clients of crowds leave in the middle
        while True:
            head, _ = line.message()
            if b"/drip" in head:
                drip(line)
            line.send(OK)


def drip(line):
    line.send(CHUNKED)
    while True:
        line.send(b"1\r\nx\r\n")
        time.sleep(0.001)  # the pace itself


def pump(made, start, piece, pause):
    def act():
        line = made.connect().send(start)
        for _ in range(20_000):
            yield line.send(piece)
            time.sleep(pause)  # the pace itself
    return act


@pytest.mark.parametrize(("start", "piece"), [
    (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
    (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n", b"x"),
    (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    (b"POST /sidecar/x HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n", b"x"),
])
def test_clients_that_send_bit_by_bit_hold_nobody_up(road, start, piece):
    """Slowloris, in heads, bodies and trailers."""
    made = road(polite)
    assert_others_are_served(made, pump(made, start, piece, 0.001))


def test_clients_that_go_on_sending_after_a_refusal_hold_nobody_up(road):
    """RFC 9112 section 9.6: we read on for a while, but not all the time."""
    made = road(polite)
    assert_others_are_served(made, pump(made, b"nonsense\r\n\r\n", b"x" * 65536, 0))


def test_clients_that_pipeline_without_end_hold_nobody_up(road):
    made = road(polite)

    def act():
        line = made.connect()
        line.sock.settimeout(0.05)
        for _ in range(20_000):
            try:
                line.sock.send(GET * 500)
                while line.sock.recv(65536):
                    yield
            except socket.timeout:
                yield

    assert_others_are_served(made, act, 6)


def test_streams_that_drip_hold_nobody_up(road):
    made = road(polite)

    def act():
        line = made.connect().send(b"GET /drip HTTP/1.1\r\nHost: h\r\n\r\n")
        while line.sock.recv(65536):
            yield

    assert_others_are_served(made, act)


def test_clients_that_do_not_read_hold_nobody_up(road):
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n"

    def script(line):
        with contextlib.suppress(AssertionError, OSError):
            while True:
                line.send(big + bytes(50_000_000) if b"/big" in line.head() else OK)

    made = road(script)

    def act():
        line = made.connect().send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        while True:
            yield line.head() if not line.rest else time.sleep(0.05)

    assert_others_are_served(made, act)


def test_too_many_connections_are_refused_and_places_come_back(road):
    """RFC 9110 section 15.6.4."""
    made = road(polite, max_connections=5)
    lines = [made.connect() for _ in range(5)]
    for line in lines:
        assert line.send(GET).message()[1] == b"ok"
    assert made.ask(GET).startswith(b"HTTP/1.1 503 ")
    lines.pop().close()
    wait_until(lambda: made.ask(GET_CLOSE).startswith(b"HTTP/1.1 200 "))


# Large bodies


@pytest.mark.parametrize("framing", ["length", "chunked", "end"])
def test_a_gigabyte_flows_down_in_constant_memory(road, framing):
    """An eighth of one with each framing that is not the usual."""
    count = 1024 if framing == "length" else 128
    piece = bytes(1 << 20)

    def script(line):
        line.head()
        if framing == "length":
            line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count << 20))
        else:
            line.send(CHUNKED if framing == "chunked" else b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(count):
            line.send(b"100000\r\n" + piece + b"\r\n" if framing == "chunked" else piece)
        if framing == "chunked":
            line.send(b"0\r\n\r\n")

    line = road(script).connect().send(GET_CLOSE.replace(b"1.1", b"1.0"))
    line.head()
    before, got, view = resident(), len(line.rest), memoryview(bytearray(1 << 20))
    while size := line.sock.recv_into(view):
        got += size
    assert got == count << 20
    assert resident() - before < IN_HAND


@pytest.mark.parametrize("framing", [b"Content-Length: %d", b"Transfer-Encoding: chunked"])
def test_a_large_upload_flows_up_in_constant_memory(road, framing):
    count, piece, got = 128, bytes(1 << 20), []

    def script(line):
        line.head()
        view, size = memoryview(bytearray(1 << 20)), len(line.rest)
        tail = b""
        while size < count << 20 or (b"chunked" in framing and not tail.endswith(b"0\r\n\r\n")):
            more = line.sock.recv_into(view)
            tail = (tail + bytes(view[max(0, more - 8):more]))[-8:]
            size += more
        got.append(size)
        line.send(OK)
        line.is_at_end()

    line = road(script).connect()
    framing = framing % (count << 20) if b"%" in framing else framing
    line.send(b"PUT / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n")
    before = resident()
    for _ in range(count):
        line.send(b"100000\r\n" + piece + b"\r\n" if b"chunked" in framing else piece)
    if b"chunked" in framing:
        line.send(b"0\r\n\r\n")
    assert line.message()[1] == b"ok" and got[0] >= count << 20
    assert resident() - before < IN_HAND


def test_a_slow_reader_presses_back_on_the_service(road):
    """Nothing is buffered whole: the service cannot write what nobody reads."""
    sent = [0]
    full = threading.Event()

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
        line.sock.settimeout(0.3)
        try:
            while sent[0] < 1 << 30:
                sent[0] += line.sock.send(bytes(1 << 18))
        except OSError:
            full.set()

    line = road(script).connect().send(GET)
    line.head()
    assert full.wait(10) and sent[0] < 100 << 20


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", cert], check=True,
                   capture_output=True)
    return {"tls_cert": str(cert), "tls_key": str(key)}


def secure(made):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    plain = made.connect().sock
    return Line(context.wrap_socket(plain, suppress_ragged_eofs=False))


def test_handshakes_that_do_not_come_hold_nobody_up_and_end_in_time(road, certificate):
    made = road(answering(OK, OK), header_timeout=0.5, **certificate)
    idle = [made.connect() for _ in range(60)]
    slow = [made.connect().send(b"\x16\x03\x01") for _ in range(60)]
    wait_until(lambda: made.server.accepted == 120)  # the first of them may have been turned out by then
    for loop in made.server._loops:
        settle(loop)
    made.server.settings.header_timeout = 30.0  # for those that come from here on
    threads = made.server.threads
    began = time.process_time()
    assert secure(made).send(GET).message()[1] == b"ok"
    assert time.process_time() - began < PROMPT and threads < 30
    assert all(line.is_at_end() for line in (*slow, *idle))


def test_handshakes_byte_by_byte_end_in_time_too(road, certificate):
    made = road(answering(OK), header_timeout=0.5, **certificate)
    line = made.connect()

    def creep():
        for byte in b"\x16\x03\x01\x02\x00" + bytes(500):
            line.send(bytes([byte]))
            time.sleep(0.02)  # the pace itself

    with pytest.raises(OSError):
        creep()


def test_nonsense_instead_of_a_handshake_ends_the_connection(road, certificate):
    made = road(answering(OK), **certificate)
    line = made.connect().send(GET)
    line.is_reset()
    assert secure(made).send(GET).message()[1] == b"ok"


@pytest.mark.parametrize("size", [0, 1, 20_000, 5_000_000])
def test_bodies_over_tls_arrive_whole_both_ways(road, certificate, size):
    body = os.urandom(size)

    def script(line):
        got = line.message()[1]
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + got)
        line.is_at_end()

    line = secure(road(script, **certificate))
    line.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + body)
    assert line.message()[1] == body


def test_the_end_of_an_answer_over_tls_is_no_truncation(road, certificate):
    """RFC 9112 section 9.8: close_notify, where the end is what frames the answer; none where it broke."""
    def script(line):
        head = line.head()
        line.send(CHUNKED + b"3\r\nabc\r\n" + (b"" if b"/broken" in head else b"0\r\n\r\n"))

    made = road(script, **certificate)
    assert secure(made).send(b"GET / HTTP/1.0\r\n\r\n").all().endswith(b"abc")
    with pytest.raises(OSError):
        secure(made).send(b"GET /broken HTTP/1.0\r\n\r\n").all()


def test_a_tunnel_over_tls_carries_a_half_close_and_stays_secret(road, certificate):
    """RFC 9110 section 7.8: what comes after the service has ended is still what the client said."""
    got, done = [], threading.Event()

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nbye")
        line.sock.shutdown(socket.SHUT_WR)
        got.append(line.exactly(5))
        done.set()

    made = road(script, **certificate)
    line = secure(made)
    line.send(b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    line.head()
    assert line.all() == b"bye"
    settle(made.server.loop)  # OpenSSL drops what comes within the very call that says goodbye
    line.send(b"hello")
    assert done.wait(PATIENCE) and got == [b"hello"]


def test_forwarded_proto_is_https_over_tls(road, certificate):
    text = secure(road(echoing, **certificate)).send(GET).message()[1]
    assert b"\r\nX-Forwarded-Proto: https\r\n" in text
