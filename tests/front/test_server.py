"""The exposed port over raw sockets: strictness, connections, own paths, holding, TLS, limits. RFC 9112, 9110."""

import collections
import contextlib
import json
import os
import re
import resource
import select
import socket
import ssl
import subprocess
import threading
import time
import types

import pytest

from tests.proxy.road import GET, GET_CLOSE, OK, PATIENCE, Line, Road, Service, answering, echoing, field
from tests.running import free_port
from wrapper import address, sockets
from wrapper.front import connection as front_connection
from wrapper.front import server as front_server
from wrapper.front.certificate import Certificate
from wrapper.deadline import Deadline
from wrapper.errors import CannotStart
from wrapper.message import Response


@pytest.fixture
def road():
    roads = []

    def build(script=echoing, **settings):
        roads.append(Road(script, **settings))
        return roads[-1]

    yield build
    for made in roads:
        made.close()


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)  # between two looks at a state that nobody announces


# Strictness: RFC 9112 sections 2 to 6. Each is refused, and the connection closed.


@pytest.mark.parametrize(("request_bytes", "status"), [
    (b"GET / HTTP/1.1\r\n\r\n", 400),                                              # 3.2: no Host
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),                        # 3.2: two
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),                                  # 5.1: space before the colon
    (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),                        # 5.2: obs-fold
    (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: a\n\n", 400),                                         # 2.2: bare LF
    (b"GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\rB: c\r\n\r\n", 400),                             # 2.2: bare CR
    (b"GET / HTTP/1.1\r\nHost: a\r\nB: \0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nB: \x7f\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nB(): c\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),                                  # 3: single spaces
    (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),                                   # 3.2: no form of a target
    (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET http://u@h/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),                         # RFC 9110 4.2.4
    (b"G{T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /\r\n", 400),                                                           # HTTP/0.9
    (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
    (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),                                    # RFC 9113 3.4, without --h2c
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),  # 6.1
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 400),  # 6.3
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xb2\r\n\r\na", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\na", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),       # 6.1
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n", 400),  # 7.1
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1_0\r\na\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\na\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 20 + b"\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 5000 + b"\r\na\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"x" * 999 + b"\r\na\r\n") * 20,
     400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: more\r\n\r\na", 417),    # RFC 9110 10.1.1
    (b"GET http://:80/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),                          # RFC 9110 4.2.1: no host
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),             # RFC 9110 15.5.15
    (b"GET /" + b"a" * 70_000, 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"B: c\r\n" * 20_000 + b"\r\n", 431),
])
def test_what_is_not_http_is_refused_and_the_connection_closed(road, request_bytes, status):
    answer = road().ask(request_bytes + GET)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:100]
    assert len(re.findall(rb"HTTP/1\.1 \d", answer)) == 1
    assert b"Connection: close\r\n" in answer


@pytest.mark.parametrize("request_bytes", [
    b"\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",                 # 2.2: an empty line before it
    b"GET / HTTP/1.5\r\nHost: a\r\nConnection: close\r\n\r\n",                     # RFC 9110 2.5: a later minor version
    b"GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nhOsT:a\t \r\nConnection: close\r\n\r\n",                   # 5.1: white space around values
    b"GET / HTTP/1.0\r\n\r\n",
    b"M-SEARCH / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
])
def test_what_is_odd_but_allowed_goes_through(road, request_bytes):
    assert road().ask(request_bytes).startswith(b"HTTP/1.1 200 ")


# Connections


def test_a_request_may_come_byte_by_byte(road):
    line = road().connect()
    for at in range(len(GET)):
        line.send(GET[at:at + 1])
    assert line.message()[0].startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_is_closed_after_its_time(road):
    line = road(idle_timeout=0.2).connect().send(GET)
    line.message()
    assert line.is_at_end()


def test_a_head_that_does_not_come_whole_in_time_is_a_408(road):
    line = road(header_timeout=0.2).connect().send(b"GET / HT")
    assert line.all().startswith(b"HTTP/1.1 408 ")


def test_a_body_that_stalls_is_a_408(road):
    line = road(lambda line: line.all(), idle_timeout=0.3).connect()
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")
    assert line.all().startswith(b"HTTP/1.1 408 ")


def test_too_many_connections_are_told_so(road):
    made = road(max_connections=2)
    kept = [made.connect().send(GET) for _ in range(2)]
    assert all(line.message() for line in kept)
    surplus = made.connect()
    assert surplus.all().startswith(b"HTTP/1.1 503 ")
    kept[0].close()
    wait_until(lambda: made.server.connections < 2)
    assert made.ask(GET_CLOSE).startswith(b"HTTP/1.1 200 ")


HEALTHZ = b"GET /sidecar/healthz HTTP/1.1\r\nHost: h\r\n\r\n"


def test_with_several_loops_each_connection_stays_with_its_own(road, monkeypatch):
    """Free-threaded CPython: one a core. Many are accepted before the other loop has begun the first."""
    monkeypatch.setattr(front_server, "loops", lambda: 2)
    made, go_on = road(), threading.Event()
    made.server.loop.post(go_on.wait, PATIENCE)
    lines = [made.connect().send(GET) for _ in range(8)]
    go_on.set()
    assert [line.message()[0][:12] for line in lines] == [b"HTTP/1.1 200"] * 8
    by_loop = collections.Counter(connection.loop for connection in made.server.open_connections)
    assert sorted(by_loop.values()) == [4, 4]
    assert all(connection.stream.link.poller is connection.loop for connection in made.server.open_connections)


def test_a_probe_is_answered_though_there_are_too_many_connections(road):
    """A kubelet would kill the container for its crowd."""
    made = road(max_connections=1)
    kept = made.connect().send(GET)
    kept.message()
    probe = made.connect().send(HEALTHZ)
    head, body = probe.message()
    assert head.startswith(b"HTTP/1.1 200 ") and field(head, b"Connection") == b"close" and body == b"own"
    assert made.connect().send(GET).head().startswith(b"HTTP/1.1 503 ")
    assert made.connect().send(HEALTHZ.replace(b"GET /", b"rubbish")).head().startswith(b"HTTP/1.1 503 ")
    assert kept.send(GET).message()[0].startswith(b"HTTP/1.1 200 ")


def test_of_a_surplus_that_waits_the_first_is_closed_for_the_newest(road, monkeypatch):
    monkeypatch.setattr(front_server, "SURPLUS_MAX", 2)
    monkeypatch.setattr(front_connection, "SURPLUS_TIMEOUT", PATIENCE)
    made = road(max_connections=1)
    kept = made.connect().send(GET)
    kept.message()
    silent = []
    for count in range(2):
        silent.append(made.connect())
        wait_until(lambda count=count: len(made.server.surplus) == count + 1)
    assert made.connect().send(HEALTHZ).message()[1] == b"own"
    assert silent[0].is_at_end()


def test_connections_are_probed_and_send_at_once(road):
    """A client that vanished without a word must not keep a tunnel for ever; Go's server probes every 15 s."""
    made = road()
    line = made.connect().send(GET)
    line.message()
    connection, = made.server.open_connections
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
               (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), (socket.IPPROTO_TCP, socket.TCP_NODELAY)]
    assert [connection.stream.socket.getsockopt(*option) for option in options] == [1, 15, 15, 1]


def test_a_client_may_read_as_slowly_as_ever_whatever_timeout_sidecar_code_wants(road):
    """`socket.setdefaulttimeout` is for the sockets its author makes; they are in one process with ours."""
    made = road()
    socket.setdefaulttimeout(PATIENCE)
    try:
        line = made.connect().send(GET)
        line.message()
    finally:
        socket.setdefaulttimeout(None)
    connection, = made.server.open_connections
    assert connection.stream.socket.gettimeout() == 0, "the loop never waits in a call"


def test_hundreds_of_idle_connections_cost_no_threads(road):
    made = road(answering(*[OK] * 2000))
    lines = [made.connect() for _ in range(300)]
    for line in lines:
        assert line.send(GET).message()[1] == b"ok"
    assert made.server.threads < 16


def test_many_slow_answers_at_a_time_cost_few_threads(road):
    everybody = threading.Barrier(101)

    def script(line):
        line.head()
        everybody.wait(10)
        line.send(OK)
        line.is_at_end()

    made = road(script)
    lines = [made.connect().send(GET) for _ in range(100)]
    everybody.wait(10)
    assert all(line.message()[1] == b"ok" for line in lines)


def test_no_descriptors_left_is_survived(road, capfd):
    made = road()
    line = made.connect().send(GET)
    line.message()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = [socket.socket() for _ in range(3)]
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for sock in waiting:
            sock.connect(made.place)  # the kernel takes it; we cannot
        wait_until(lambda: "cannot take a connection" in capfd.readouterr().err)
        turn = made.server.loop.turn
        threading.Event().wait(0.2)  # the time itself: a loop that spins takes thousands of turns in it
        assert made.server.loop.turn - turn < 100
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for sock in waiting:
        assert Line(sock).send(GET).message()[0].startswith(b"HTTP/1.1 200 ")
        sock.close()


@pytest.fixture
def few_left(monkeypatch):
    """An event: while it is set, every descriptor is one of the last."""
    is_set = threading.Event()
    monkeypatch.setattr(sockets, "is_reserved", lambda *_: is_set.is_set())
    return is_set


def test_clients_leave_a_few_descriptors_to_the_wrapper(road, few_left):
    """Without one, ctl and health are not answered, and no run of the service is started."""
    has_come, go_on = threading.Event(), threading.Event()

    def script(line):
        while True:
            line.head()
            has_come.set()
            assert go_on.wait(10)
            line.send(OK)

    made = road(script)
    made.service.closed = True  # its scripts end with the test
    line = made.connect().send(GET)
    assert has_come.wait(10)  # in flight it is before it has its descriptor to the service
    few_left.set()
    newcomer = made.connect().send(GET)
    head = newcomer.head()
    assert head.startswith(b"HTTP/1.1 503 ") and field(head, b"Retry-After")
    wait_until(lambda: made.site.short == {"descriptors": True})
    go_on.set()
    assert line.message()[1] == b"ok", "what is there already goes on"
    few_left.clear()
    assert made.connect().send(GET).message()[1] == b"ok"


def test_the_longest_idle_make_room_for_newcomers_where_descriptors_run_short(road, few_left):
    """As nginx does: a connection that carries nothing loses nothing."""
    made = road()
    idle = []
    for count in range(12):
        idle.append(made.connect().send(GET))
        idle[-1].message()
        wait_until(lambda count=count: len(made.server.idle) == count + 1)
    wait_until(lambda: len(made.server.idle) == 12)
    few_left.set()
    made.service.closed = True
    newcomer = made.connect()
    wait_until(lambda: made.server.connections == 5)
    assert [line.is_at_end() for line in idle[:8]] == [True] * 8
    few_left.clear()
    assert newcomer.send(GET).message()[0].startswith(b"HTTP/1.1 200 ")
    assert idle[8].send(GET).message()[0].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("most", "fd", "is_reserved"), [
    (1024, 1015, False), (1024, 1016, True), (10, 4, False), (10, 5, True), (resource.RLIM_INFINITY, 5000, False),
])
def test_the_last_descriptors_are_reserved(monkeypatch, most, fd, is_reserved):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (most, most))
    assert sockets.is_reserved(fd) is is_reserved


def test_stop_closes_what_is_idle_and_finishes_what_is_not(road):
    go_on = threading.Event()

    def script(line):
        if line.head().startswith(b"HEAD"):
            line.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            line.head()
        assert go_on.wait(10)
        line.send(OK)
        line.is_at_end()

    made = road(script)
    made.service.closed = True  # its scripts end with the test
    idle = made.connect().send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
    idle.head()
    busy, silent = made.connect().send(GET), made.connect()
    wait_until(lambda: made.gate.in_flight == 1 and len(made.server.idle) == 2)
    made.server.stop()
    assert idle.is_at_end()
    go_on.set()
    for line in (busy, silent.send(GET)):  # a first request may have been on its way
        head, body = line.message()
        assert body == b"ok" and field(head, b"Connection") == b"close"
        assert line.is_at_end()


def test_a_connection_that_becomes_idle_while_the_port_stops_is_closed(road):
    made = road()
    ended = made.site.ended

    def stop_first(facts):
        made.server.stop()  # behind the answer, before the connection waits for the next request
        ended(facts)

    made.site.ended = stop_first
    line = made.connect().send(GET)
    assert line.message()[0].startswith(b"HTTP/1.1 200 ")
    assert line.is_at_end()


def test_a_newcomer_is_answered_while_the_port_stops(road):
    """A connection in the listen queue at TERM is not reset: it hears what there is to say."""
    made = road()
    made.server.stop()
    made.gate.refuse("the service is being stopped")
    assert made.ask(GET).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(("request_bytes", "stops"), [
    (GET, True), (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False)])
def test_an_answer_is_whole_though_the_client_has_asked_the_next_thing_already(road, request_bytes, stops):
    """RFC 9112 section 9.6: a close with bytes unread is a reset, which takes what is still on its way along."""
    go_on, body = threading.Event(), b"x" * 150_000

    def script(line):
        line.head()
        assert go_on.wait(10)
        line.send(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: %d\r\n" % len(body) if stops else b"") + b"\r\n" + body)

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(body))  # takes all of it while the client looks on
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    made = road(script, listener=listener)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(made.place)
    line = Line(sock).send(request_bytes)
    wait_until(lambda: made.gate.in_flight)
    (connection,) = made.server.open_connections
    line.send(request_bytes)
    assert select.select([connection.request], [], [], 10)[0]
    if stops:
        made.server.stop()
    go_on.set()
    made.site.wait_ended()
    wait_until(lambda: not any(each.is_answering for each in set(made.server.open_connections)))
    assert field(line.head(), b"Connection") == b"close" and line.all() == body


def test_unix_sockets_on_both_sides(road, tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "in"))
    listener.listen(10)
    service = Service(echoing, str(tmp_path / "out"), socket.AF_UNIX)
    made = road(None, listener=listener, service=service)
    seen = made.ask(GET_CLOSE).partition(b"\r\n\r\n")[2]
    assert field(seen, b"X-Forwarded-For") == b"unknown" and field(seen, b"Host") == b"h"


# Own paths


@pytest.mark.parametrize("target", [
    b"/sidecar/x", b"//sidecar/x", b"/%73idecar/x", b"/a/../sidecar/x", b"/./sidecar//x", b"http://h/sidecar/x",
    b"/sidecar/x?a=/../b", b"/sidecar%2Fx", b"/a/%2e%2e/sidecar/x"])
def test_every_spelling_of_an_own_path_is_our_own(road, target):
    made = road()
    made.site.answers["/sidecar/x"] = lambda request: Response(b"mine " + request.path.encode())
    answer = made.ask(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"mine /sidecar/x")


@pytest.mark.parametrize("target", [b"/sidecarx", b"/x/sidecar", b"/sidecar/../x", b"/?/sidecar/x", b"/SIDECAR/x"])
def test_what_only_looks_like_an_own_path_is_relayed_as_it_is(road, target):
    answer = road().ask(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"\r\n\r\nGET " + target + b" HTTP/1.1\r\n" in answer


def test_own_answers_with_bodies_queries_and_errors(road):
    made = road()
    made.site.answers.update({
        "/sidecar/json": lambda request: Response(json.dumps([request.json(), request.query, request.query_all("a")])),
        "/sidecar/small": lambda request: Response(request.body(limit=3)),
        "/sidecar/fails": lambda request: 1 / 0,
        "/sidecar/split": lambda request: Response(b"", headers=[("X", "a\r\nB: c")]),
    })
    line = made.connect()
    head, body = line.send(b"POST /sidecar/json?a=1&a=%32 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                           b"2\r\n{}\r\n0\r\n\r\n").message()
    assert json.loads(body) == [{}, {"a": "2"}, ["1", "2"]]
    head, body = line.send(b"POST /sidecar/small HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc").message()
    assert body == b"abc"
    head, body = line.send(b"GET /sidecar/fails HTTP/1.1\r\nHost: h\r\n\r\n").message()
    assert head.startswith(b"HTTP/1.1 500 ") and json.loads(body)["status"] == 500
    head, body = line.send(b"GET /sidecar/split HTTP/1.1\r\nHost: h\r\n\r\n").message()
    assert head.startswith(b"HTTP/1.1 500 ")
    head, body = line.send(b"POST /sidecar/small HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde").message()
    assert head.startswith(b"HTTP/1.1 413 ")


def test_an_own_path_says_continue_when_it_wants_the_body(road):
    made = road()
    made.site.answers["/sidecar/x"] = lambda request: Response(request.body())
    line = made.connect()
    line.send(b"PUT /sidecar/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert line.head().startswith(b"HTTP/1.1 100 ")
    assert line.send(b"hi").message()[1] == b"hi"


LONG, SHORT = [("Content-Length", "10")], [("content-length", "2")]


@pytest.mark.parametrize(("method", "response", "framing", "body"), [
    (b"GET", Response(b"abc", headers=LONG), b"3", b"abc"),
    (b"GET", Response(b"abc", headers=SHORT), b"3", b"abc"),
    (b"GET", Response(b"abc", headers=[*SHORT, *LONG]), b"3", b"abc"),
    (b"GET", Response(b"abc", headers=[("Transfer-Encoding", "chunked")]), b"3", b"abc"),
    (b"HEAD", Response(b"", headers=LONG), b"10", b""),
    (b"HEAD", Response(b"abc"), b"3", b""),
    (b"GET", Response(b"", 304, headers=LONG), b"10", b""),
    (b"GET", Response(b"abc", 204, headers=LONG), None, b""),
    (b"GET", Response([b"abc", b"def"], headers=SHORT), b"2", b"ab"),
    (b"GET", Response([b"a", b""], 204), None, b""),
    (b"GET", Response([b""], 304), None, b""),
])
def test_the_framing_of_an_own_answer_is_ours(road, method, response, framing, body):
    """RFC 9112 section 6: an author's wrong Content-Length must not shift the answers that follow."""
    made = road()
    made.site.answers["/sidecar/x"] = lambda request: response
    line = made.connect().send(method + b" /sidecar/x HTTP/1.1\r\nHost: h\r\n\r\n")
    head = line.head()
    assert field(head, b"Content-Length") == framing and field(head, b"Transfer-Encoding") is None
    assert line.exactly(len(body)) == body
    assert line.send(GET).head().startswith(b"HTTP/1.1 200 ")


def failing():
    yield b"part"
    raise RuntimeError


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("body", [lambda: Response(failing()), lambda: Response(iter([b"part"]), headers=LONG)])
def test_an_own_answer_that_breaks_off_does_not_look_whole(road, version, body):
    """RFC 9112 section 8."""
    made = road()
    made.site.answers["/sidecar/x"] = lambda request: body()
    line = made.connect().send(b"GET /sidecar/x HTTP/" + version + b"\r\nHost: h\r\n\r\n")
    line.until(b"part")
    assert line.is_reset()


def test_nothing_is_said_of_continuing_once_an_own_answer_has_begun(road):
    """RFC 9110 section 10.1.1."""
    made = road()

    def pieces(request):
        yield b"begun"
        yield request.body()

    made.site.answers["/sidecar/x"] = lambda request: Response(pieces(request))
    line = made.connect()
    line.send(b"PUT /sidecar/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert line.head().startswith(b"HTTP/1.1 200 ")
    assert line.until(b"begun\r\n") == b"5\r\nbegun\r\n"
    assert line.send(b"hi").until(b"0\r\n\r\n") == b"2\r\nhi\r\n0\r\n\r\n"


def test_a_client_that_leaves_an_own_path_counts_as_499(road):
    """nginx's status for it; 0 would be no status at all."""
    made = road()
    made.site.answers["/sidecar/x"] = lambda request: Response(request.body())
    line = made.connect().send(b"PUT /sidecar/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n")
    line.close()
    assert made.site.wait_ended().status == 499


def test_a_streamed_answer_is_closed_when_the_client_leaves(road):
    made = road()
    closed = threading.Event()

    def endless(request):
        def pieces():
            try:
                while True:
                    yield "data: x\n\n" * 1000
            finally:
                closed.set()
        return Response(pieces(), content_type="text/event-stream")

    made.site.answers["/sidecar/x"] = endless
    line = made.connect().send(b"GET /sidecar/x HTTP/1.1\r\nHost: h\r\n\r\n")
    line.until(b"data: x")
    line.close()
    assert closed.wait(10)


def test_facts_of_every_exchange_are_told(road):
    made = road(answering(OK))
    made.connect().send(GET).message()
    ended = made.site.wait_ended()
    assert (ended.method, ended.target, ended.status, ended.own) == ("GET", "/", 200, False)
    assert ended.sent > 2 and 0 < ended.seconds < 5


# Held requests


def test_a_held_request_waits_without_a_thread_and_is_told_how_long(road):
    made = road(is_open=False)
    lines = [made.connect().send(GET) for _ in range(50)]
    wait_until(lambda: made.gate.held == 50)
    assert made.server.threads < 16
    made.gate.open(made.service.address)
    for line in lines:
        assert float(field(line.message()[0], b"Wrapper-Held")) >= 0


def test_a_held_body_arrives_whole_and_once(road):
    made = road(is_open=False)
    line = made.connect().send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
    wait_until(lambda: made.gate.held == 1)
    made.gate.open(made.service.address)
    assert line.message()[1].endswith(b"\r\n\r\nhello")


def test_a_held_client_that_leaves_frees_its_place(road):
    made = road(is_open=False)
    line = made.connect().send(GET)
    wait_until(lambda: made.gate.held == 1)
    line.close()
    wait_until(lambda: made.gate.held == 0)


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_request_that_reached_nobody_waits_for_the_next_run(road, is_noticed):
    """Between a crash and its notice the gate is still open; nothing was sent, so nothing can be done twice."""
    made = road(is_open=False, hold=30.0 if is_noticed else 0.1)
    run = types.SimpleNamespace(ended=threading.Event())
    made.gate.open(address.tcp("127.0.0.1", free_port()), run)
    line = made.connect().send(GET)
    if is_noticed:
        run.ended.set()
        wait_until(lambda: made.gate.held == 1)
        assert made.gate.in_flight == 0
        made.gate.open(made.service.address)
    assert line.message()[0].startswith(b"HTTP/1.1 200 " if is_noticed else b"HTTP/1.1 502 ")
    wait_until(lambda: made.gate.in_flight == 0)


def test_refused_and_expired_requests_get_their_status_and_keep_the_connection(road):
    made = road(is_open=False, hold=0.1)
    line = made.connect().send(GET)
    made.gate.hold("the service is starting")
    head, _ = line.message()
    assert head.startswith((b"HTTP/1.1 504 ", b"HTTP/1.1 503 "))
    made.gate.refuse("the service is stopped")
    head, _ = line.send(GET).message()
    assert head.startswith(b"HTTP/1.1 503 ") and field(head, b"Retry-After")


def test_exchanges_that_are_cut_before_their_answer_get_one(road):
    made = road(lambda line: line.all())
    line = made.connect().send(GET)
    wait_until(lambda: made.gate.in_flight == 1)
    lane = made.gate.hold("the service is restarting")
    assert not made.gate.drain(lane, Deadline(0.05), "restart")
    assert line.message()[0].startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(("framing", "event"), [
    (b"", b"data: x\n\n"), (b"Transfer-Encoding: chunked\r\n", b"9\r\ndata: x\n\n\r\n")])
def test_an_event_stream_ends_cleanly_between_events_when_warned(road, framing, event):
    def script(line):
        line.head()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n" + event)
        line.is_at_end()

    made = road(script)
    line = made.connect().send(GET)
    line.until(b"data: x\n\n\r\n")
    lane = made.gate.hold("the service is restarting")
    assert made.gate.drain(lane, Deadline(5), "restart")
    assert line.until(b"0\r\n\r\n") == b"0\r\n\r\n"


# HTTP/2 and TLS


def test_http2_with_prior_knowledge_is_a_tunnel_when_asked_for(road):
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

    def script(line):
        assert line.exactly(len(preface) + 3) == preface + b"abc"
        line.send(b"frames")

    assert road(script, h2c=True).ask(preface + b"abc") == b"frames"


def test_http2_is_held_and_never_counted_for_ever(road):
    made = road(lambda line: line.send(line.exactly(24)), is_open=False, h2c=True)
    line = made.connect().send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    wait_until(lambda: made.gate.held == 1)
    made.gate.open(made.service.address)
    assert line.exactly(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    line.close()
    wait_until(lambda: not made.gate.in_flight)


def test_what_only_begins_like_http2_is_not_passed_through(road):
    """All 24 bytes of RFC 9113 section 3.4: behind the first 16, any HTTP/1 request would get past the header rules."""
    made = road(h2c=True)
    request = b"PRI * HTTP/2.0\r\nX-Forwarded-For: evil\r\nHost: h\r\n\r\n"
    assert made.ask(request).startswith(b"HTTP/1.1 505 ")
    assert not made.service.lines


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    return folder


def make_certificate(folder):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "key", "-out",
                    folder / "cert", "-days", "1", "-subj", "/CN=localhost"], check=True, capture_output=True)


@pytest.mark.parametrize("key", ["cert", "missing"])
def test_a_certificate_that_cannot_be_read_is_a_bad_setting(certificate, key):
    with pytest.raises(CannotStart) as caught:
        Certificate(str(certificate / "cert"), str(certificate / key))
    assert caught.value.exit_status == 2


def test_a_certificate_is_read_again_when_it_has_changed(certificate, tmp_path):
    for name in ("cert", "key"):
        (tmp_path / name).write_bytes((certificate / name).read_bytes())
    ours = Certificate(str(tmp_path / "cert"), str(tmp_path / "key"))
    first = ours.context
    ours.renew()
    assert ours.context is first
    os.utime(tmp_path / "cert", (1, 1))
    ours.renew()
    second = ours.context
    assert second is not first
    (tmp_path / "cert").write_bytes(b"half of it")
    ours.renew()
    assert ours.context is second


def test_a_new_certificate_is_served_without_a_restart(road, certificate, tmp_path, monkeypatch):
    monkeypatch.setattr("wrapper.front.certificate.READ_INTERVAL", 0.0)
    for name in ("cert", "key"):
        (tmp_path / name).write_bytes((certificate / name).read_bytes())
    made = road(tls_cert=str(tmp_path / "cert"), tls_key=str(tmp_path / "key"))

    def shown():
        line = secure(made)
        try:
            return line.sock.getpeercert(binary_form=True)
        finally:
            line.close()

    before = shown()
    make_certificate(tmp_path)
    wait_until(lambda: shown() != before)


def secure(made):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return Line(context.wrap_socket(made.connect().sock))


def test_tls_on_the_listener(road, certificate):
    made = road(tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"))
    silent = made.connect()  # a handshake that never comes blocks nobody
    line = secure(made)
    for _ in range(3):
        seen = line.send(GET).message()[1]
        assert field(seen, b"X-Forwarded-Proto") == b"https"
    body = os.urandom(3_000_000)
    line = secure(made)
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert line.message()[1].endswith(body)
    silent.close()


def test_the_surplus_of_a_tls_port_is_closed_without_a_word(road, certificate):
    """Plain text would be no answer to a client that begins a handshake."""
    made = road(tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"), max_connections=1)
    kept = secure(made)
    kept.send(GET).message()
    assert made.connect().all() == b""


def test_a_service_that_half_closes_a_tunnel_gets_all_over_tls(road, certificate):
    size, got = 2_000_000, []

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: odd/1\r\n\r\n")
        line.exactly(1000)
        line.sock.shutdown(socket.SHUT_WR)
        got.append(len(line.exactly(size - 1000)))

    made = road(script, tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"))
    line = secure(made)
    line.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: odd/1\r\n\r\n").head()
    for _ in range(100):
        line.send(b"x" * (size // 100))
    wait_until(lambda: got == [size - 1000])


def test_pipelined_requests_over_tls(road, certificate):
    made = road(tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"))
    line = secure(made)
    line.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\nX: %s\r\n\r\n" % (n, b"y" * 9000) for n in range(5)))
    assert [line.message()[1].split()[1] for _ in range(5)] == [b"/0", b"/1", b"/2", b"/3", b"/4"]




# --error-page


@pytest.fixture
def paged(road, tmp_path):
    (tmp_path / "page.html").write_text("<h1>{status} {reason}</h1> again in {retry_after} s")
    made = road(error_page=str(tmp_path / "page.html"))
    made.gate.refuse("the service is stopped")
    return made


def test_a_browser_gets_the_error_page(paged):
    head, body = paged.connect().send(
        b"GET / HTTP/1.1\r\nHost: h\r\nAccept: text/html,*/*;q=0.8\r\n\r\n").message()
    assert head.startswith(b"HTTP/1.1 503 ") and field(head, b"Content-Type") == b"text/html; charset=utf-8"
    assert field(head, b"Retry-After") == b"1"
    assert body == b"<h1>503 Service Unavailable</h1> again in 1 s"


def test_what_does_not_ask_for_html_gets_the_short_text(paged):
    assert b"text/plain" in paged.connect().send(GET.replace(b"\r\n\r\n", b"\r\nAccept: */*\r\n\r\n")).message()[0]


def test_an_error_of_the_clients_own_has_no_page(paged):
    assert b"text/plain" in paged.ask(b"GET / HTTP/1.1\r\nAccept: text/html\r\n\r\n")


def test_an_error_page_that_cannot_be_read_is_a_bad_setting(road, tmp_path):
    with pytest.raises(CannotStart, match="cannot read --error-page .*missing: No such file") as caught:
        road(error_page=str(tmp_path / "missing"))
    assert caught.value.exit_status == 2
