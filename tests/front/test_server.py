"""server.py: the exposed port over raw sockets, who is let in, and the end; own paths behind it. RFC 9112, 9110."""

import collections
import contextlib
import json
import os
import resource
import socket
import threading
import tracemalloc

import pytest

from tests.proxy.road import GET, GET_CLOSE, OK, PATIENCE, Line, Service, answering, echoing, field
from tests.running import wait_until
from wrapper import sockets
from wrapper.front import connection as front_connection, server as front_server
from wrapper.http1.message import Response

# Connections


def test_too_many_connections_are_told_so(road):
    made = road(max_connections=2)
    kept = [made.connect().send(GET) for _ in range(2)]
    assert all(line.message() for line in kept)
    surplus = made.connect()
    assert surplus.all().startswith(b"HTTP/1.1 503 ")
    surplus.close()
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


@pytest.mark.parametrize(("where", "times"), [("gate", 1.6), ("service", 2.6), ("sidecar", 2.6)])
def test_a_request_that_waits_keeps_little_more_than_what_came(road, where, times):
    """On every road; 60 kB were kept three times and more."""
    may_end, arrived = threading.Event(), threading.Semaphore(0)

    def script(line):
        line.head()
        line.rest = b""
        arrived.release()
        may_end.wait(10)

    def answer(request):
        arrived.release()
        may_end.wait(10)
        return Response(b"")

    made = road(script, is_open=where != "gate")
    made.service.closed = True
    made.site.answers["/sidecar/slow"] = answer
    lines = [made.connect() for _ in range(10)]
    path = b"/sidecar/slow" if where == "sidecar" else b"/"
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for line in lines:
            line.send(b"GET %b HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (path, b"y" * 60_000))
        if where == "gate":
            wait_until(lambda: made.gate.held == len(lines))
        for _ in lines if where != "gate" else ():
            assert arrived.acquire(timeout=10)
        wait_until(lambda: (tracemalloc.get_traced_memory()[0] - before) / len(lines) < times * 60_000)
    finally:
        tracemalloc.stop()
        may_end.set()
        for line in lines:
            line.close()


def test_an_idle_connection_keeps_nothing_of_a_large_head(road):
    made = road(answering(*[OK] * 100))
    lines = [made.connect() for _ in range(10)]
    for line in lines:
        assert line.send(GET).message()[1] == b"ok"
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for line in lines:
            line.send(b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 60_000 + b"\r\n\r\n").message()
        made.site.wait_ended(2 * len(lines))
        made.site.seen.clear()  # the test's own
        wait_until(lambda: (tracemalloc.get_traced_memory()[0] - before) / len(lines) < 20_000)
    finally:
        tracemalloc.stop()


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
    unused, waiting, taken = [socket.socket() for _ in range(30)], [], []

    def is_short():
        """Again and again: threads of the tests before may be giving descriptors back."""
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        if unused:
            waiting.append(unused.pop())
            waiting[-1].connect(made.place)  # the kernel takes it; we cannot
        return "cannot take a connection" in capfd.readouterr().err

    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
    try:
        wait_until(is_short)
        turn = made.server.loop.turn
        threading.Event().wait(0.2)  # the time itself: a loop that spins takes thousands of turns in it
        assert made.server.loop.turn - turn < 100
        kept_waiting = waiting[made.server.accepted - 1:]
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert kept_waiting
    for sock in kept_waiting:
        assert Line(sock).send(GET).message()[0].startswith(b"HTTP/1.1 200 ")
    for sock in (*waiting, *unused):
        sock.close()


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


def test_what_is_in_the_listen_queue_when_the_port_shuts_is_answered_and_later_comers_are_refused(road):
    """What is closed with connections in its queue resets them."""
    made = road()
    made.gate.refuse("the service is being stopped")
    go_on = threading.Event()
    made.server.loop.post(go_on.wait, PATIENCE)
    lines = [made.connect().send(GET) for _ in range(40)]
    made.server.stop()
    made.server.shut()
    go_on.set()
    assert [line.message()[0].split()[1] for line in lines] == [b"503"] * 40
    wait_until(lambda: not made.server.is_answering)
    with pytest.raises(ConnectionRefusedError):
        made.connect()


def test_a_client_that_asks_without_a_pause_is_not_reset_when_the_port_stops(road, monkeypatch):
    """Its next request may be on its way to a connection that looks idle."""
    for module in (front_server, front_connection):
        monkeypatch.setattr(module, "BUSY_SECONDS", 600.0)
    made = road()
    line = made.connect().send(GET)
    assert line.message()[0].startswith(b"HTTP/1.1 200 ")
    made.server.stop()
    assert made.server.is_answering
    head = line.send(GET).message()[0]
    assert head.startswith(b"HTTP/1.1 200 ") and b"Connection: close" in head
    line.close()
    wait_until(lambda: not made.server.is_answering)


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
