"""connection.py: one client's connection, request after request. RFC 9112, 9110."""

import re
import select
import socket
import threading
import time

import pytest

from tests.proxy.road import GET, OK, GatedRun, Line, answering, field
from tests.running import drain, free_port, wait_until
from wrapper.deadline import Deadline
from wrapper.settings import address

HEALTHZ = b"GET /sidecar/healthz HTTP/1.1\r\nHost: h\r\n\r\n"


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


def test_a_request_may_come_byte_by_byte(road):
    line = road().connect()
    for at in range(len(GET)):
        line.send(GET[at:at + 1])
    assert line.message()[0].startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_is_closed_after_its_time(road):
    line = road(idle_timeout=0.2).connect_with(GET)
    line.message()
    assert line.is_at_end()


def test_a_head_that_does_not_come_whole_in_time_is_a_408(road):
    line = road(header_timeout=0.2).connect().send(b"GET / HT")
    assert line.all().startswith(b"HTTP/1.1 408 ")


def test_a_body_that_stalls_is_a_408(road):
    made = road(lambda line: line.all(), idle_timeout=0.3)
    line = made.connect_with(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")
    assert line.all().startswith(b"HTTP/1.1 408 ")


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


def test_facts_of_every_exchange_are_told(road):
    made, began = road(answering(OK)), time.monotonic()
    made.connect().send(GET).message()
    ended = made.site.wait_ended()
    assert (ended.method, ended.target, ended.status, ended.own) == ("GET", "/", 200, False)
    assert ended.sent > 2 and 0 < ended.seconds <= time.monotonic() - began


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
    run = GatedRun()
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
    assert not drain(made.gate, lane, Deadline(0.05), "restart")
    assert line.message()[0].startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(("request_bytes", "field_lines"), [
    (GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"),
     b"Content-Type: text/event-stream\r\n"),
    (GET, b'Content-Type: text/plain\r\nLink: </events>; type="text/event-stream"\r\n')])
def test_a_stream_that_its_client_does_not_open_anew_is_finished_when_warned(road, request_bytes, field_lines):
    """The tokens of a language model, a tool's result over MCP: cut between two events they would look whole."""
    go_on = threading.Event()

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 200 OK\r\n" + field_lines + b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        go_on.wait(20)
        line.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    made = road(script)
    line = made.connect().send(request_bytes)
    line.until(b"data: 1\n\n\r\n")
    lane = made.gate.hold("the service is restarting")
    made.gate.warn(lane, "restart")
    assert not made.gate.await_empty(lane, Deadline(0.1))
    go_on.set()
    assert line.until(b"0\r\n\r\n") == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
    assert made.gate.await_empty(lane, Deadline(20))


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
    assert drain(made.gate, lane, Deadline(5), "restart")
    assert line.until(b"0\r\n\r\n") == b"0\r\n\r\n"


def test_what_only_begins_like_http2_is_not_passed_through(road):
    """All 24 bytes of RFC 9113 section 3.4: behind the first 16, any HTTP/1 request would get past the header rules."""
    made = road(h2c=True)
    request = b"PRI * HTTP/2.0\r\nX-Forwarded-For: evil\r\nHost: h\r\n\r\n"
    assert made.ask(request).startswith(b"HTTP/1.1 505 ")
    assert not made.service.lines
