"""What services answer, right and wrong, and what clients of each kind see of it. RFC 9110, RFC 9112."""

import select
import socket
import threading

import pytest

from tests.loop.driving import settle
from tests.proxy.road import GET, GET_CLOSE, OK, PATIENCE, answering, field, in_turn
from tests.running import wait_until

DATED = b"Date: d\r\n"


def sending(*pieces):
    """A script: one request, then the pieces, then the end."""
    def script(line):
        line.message()
        for piece in pieces:
            line.send(piece)
    return script


def heard(line):
    """All that comes until the end, and whether the end was a reset."""
    try:
        return line.all(), False
    except ConnectionResetError:
        return line.rest, True


# Heads: RFC 9112 sections 2.2, 4, 5, 6.3


@pytest.mark.parametrize("head", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2",
    b"HTTP/1.1 200 OK\r\nContent-Length: -2",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0x2",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2_0",
    b"HTTP/1.1 200 OK\r\nContent-Length:",
    b"HTTP/1.1 200 OK\r\nContent-Length: \xd9\xa2",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
    b"HTTP/1.1 200 OK\r\nA: b\r\n\tfolded",
    b"HTTP/1.1 200 OK\r\nA: b\rSet-Cookie: x",
    b"HTTP/1.1 200 OK\r\nA: b\nSet-Cookie: x",
    b"HTTP/1.1 200 OK\r\nA: b\x00c",
    b"HTTP/1.1 200 OK\r\nA(): b",
    b"HTTP/1.1 200 OK\r\n: b",
    b"HTTP/1.1 200 OK\r\nno colon",
    b"HTTP/1.1 2000 OK",
    b"HTTP/1.1 099 OK",
    b"HTTP/1.1 2x0 OK",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1\t200 OK",
    b"HTTP/2 200 OK",
    b"HTTP/0.9 200 OK",
    b"ICY 200 OK",
    b" HTTP/1.1 200 OK",
    b"\r\nHTTP/1.1 200 OK",
    b"HTTP/1.1 200 O\x07K",
    b"SSH-2.0-OpenSSH_9.9",
])
def test_a_broken_head_is_a_502_and_never_an_answer(road, head):
    answer, _ = heard(road(sending(head + b"\r\n\r\nok")).connect().send(GET_CLOSE))
    assert answer.startswith(b"HTTP/1.1 502 ") and answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(("head", "body"), [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2", b"ok"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2", b"ok"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked", b"2\r\nok\r\n0\r\n\r\n"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"2\r\nok\r\n0\r\n\r\n"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2", b"ok"),
    (b"http/1.1 200 OK\r\nContent-Length: 2", b"ok"),
])
def test_a_sloppy_head_whose_framing_is_beyond_doubt_is_passed_on_mended(road, head, body):
    """RFC 9110 section 8.6, RFC 9112 sections 2.3 and 6.3: one length or none, one coding, and its connection's end."""
    answer, was_reset = heard(road(sending(head + b"\r\n\r\n" + body)).connect().send(GET_CLOSE))
    assert answer.startswith(b"HTTP/1.1 200 ") and b"ok" in answer.partition(b"\r\n\r\n")[2] and not was_reset
    named = answer.partition(b"\r\n\r\n")[0].lower()
    assert named.count(b"content-length") + named.count(b"transfer-encoding") == 1


@pytest.mark.parametrize("interim", [
    b"HTTP/1.1 103 Early Hints\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 103 Early\nHints\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
])
def test_broken_interim_answers_are_a_502(road, interim):
    """RFC 9110 section 15.2, section 7.8 for a 101 nobody asked for."""
    answer, _ = heard(road(sending(interim, OK)).connect().send(GET_CLOSE))
    assert b"HTTP/1.1 502 " in answer and not answer.endswith(b"ok")


# Bodies that break: RFC 9112 section 8


BROKEN_BODIES = [
    (b"Content-Length: 10\r\n\r\n", b"abc"),
    (b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n"),
    (b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n0\r\n"),
    (b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n0\r\nX: y\r\n"),
    (b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nabc"),
    (b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\nxyz\r\n"),
    (b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n+0\r\n\r\n"),
    (b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n0\r\nbad trailer\r\n\r\n"),
]


@pytest.mark.parametrize(("framing", "body"), BROKEN_BODIES)
@pytest.mark.parametrize("request_bytes", [GET, GET + b"\r\n", GET_CLOSE + GET])
def test_a_body_that_breaks_never_looks_whole(road, framing, body, request_bytes):
    """RFC 9112 section 8: neither the promised length nor a last chunk."""
    go_on = threading.Event()

    def script(line):
        line.message()
        line.send(b"HTTP/1.1 200 OK\r\n" + framing + body[:6 if b"chunked" in framing else 3])
        go_on.wait(5)
        line.send(body[6 if b"chunked" in framing else 3:])

    line = road(script).connect().send(request_bytes)
    head = line.head()
    go_on.set()
    rest, _ = heard(line)
    assert b"0\r\n\r\n" not in rest
    assert b"chunked" in head or len(rest) < 10


@pytest.mark.parametrize("request_bytes", [
    b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n" + GET,
    b"POST / HTTP/1.0\r\nContent-Length: 9\r\n\r\nabc",
])
def test_a_body_that_breaks_resets_a_client_that_goes_by_the_end(road, request_bytes):
    """RFC 9112 section 8: to an HTTP/1.0 client an ordinary end would be success, whatever else it has sent."""
    go_on = threading.Event()

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        go_on.wait(5)

    line = road(script).connect().send(request_bytes)
    line.until(b"abc")
    go_on.set()
    assert heard(line) == (b"", True)


# Bodies that are not there: RFC 9112 section 6.3


@pytest.mark.parametrize(("method", "status", "framing"), [
    (b"HEAD", b"200 OK", b"Content-Length: 5\r\n"),
    (b"HEAD", b"200 OK", b"Transfer-Encoding: chunked\r\n"),
    (b"HEAD", b"200 OK", b""),
    (b"HEAD", b"404 No", b"Content-Length: 99999999999\r\n"),
    (b"GET", b"304 Not Modified", b"Content-Length: 5\r\n"),
    (b"GET", b"304 Not Modified", b"Transfer-Encoding: chunked\r\n"),
    (b"GET", b"304 Not Modified", b""),
    (b"GET", b"204 No Content", b""),
    (b"GET", b"204 No Content", b"Content-Length: 0\r\n"),
    (b"GET", b"204 No Content", b"Transfer-Encoding: chunked\r\n"),
])
def test_answers_that_have_no_body(road, method, status, framing):
    """RFC 9110 sections 8.6, 9.3.2, 15.3.5, 15.4.5: 204 has no length, and nobody waits for a body."""
    answer = b"HTTP/1.1 " + status + b"\r\nETag: e\r\n" + framing + b"\r\n"
    line = road(in_turn(answer, OK)).connect().send(method + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
    head = line.head()
    assert head.startswith(b"HTTP/1.1 " + status + b"\r\nETag: e\r\n")
    assert field(head, b"Transfer-Encoding") is None
    if status.startswith(b"204"):
        assert field(head, b"Content-Length") is None
    elif b"Length" in framing:
        assert framing in head
    assert line.send(GET).message()[1] == b"ok"


@pytest.mark.parametrize("first", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",  # to HEAD
    b"HTTP/1.1 204 No Content\r\n\r\nhello",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
    OK + OK.replace(b"ok", b"no"),
])
def test_surplus_bytes_are_never_another_clients_answer(road, first):
    """RFC 9112 section 9.2: the service's connection is not used again."""
    turns = []

    def script(line):
        turns.append(line)
        line.head()
        line.send(first if len(turns) == 1 else OK)
        line.is_at_end()

    made = road(script)
    made.connect().send(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").head()
    assert made.connect().send(GET).message()[1] == b"ok"
    assert len(turns) == 2


# Fields: RFC 9110 sections 6.6.1, 7.6.1, 7.6.3


def test_fields_keep_order_case_repeats_and_bytes(road):
    """RFC 9110 sections 5.2, 5.3, 5.5."""
    lines = b"set-COOKIE: a=1\r\nX: \xe9\xff\r\nSet-Cookie: b=2\r\nEmpty:\r\nX:  two  spaces \r\nServer: s\r\n"
    line = road(answering(b"HTTP/1.1 200 Gr\xfc\xdf\r\n" + lines + DATED + b"Content-Length: 0\r\n\r\n")).connect()
    head = line.send(GET).head()
    assert head == (b"HTTP/1.1 200 Gr\xfc\xdf\r\n" + lines + DATED + b"Content-Length: 0\r\nVia: 1.1 wrapper\r\n\r\n")


def test_a_date_is_added_only_where_there_is_none(road):
    """RFC 9110 section 6.6.1: whoever forwards an answer without a Date MUST add one."""
    line = road(answering(OK, OK.replace(b"OK\r\n", b"OK\r\ndate: x\r\n"), OK)).connect()
    assert field(line.send(GET).message()[0], b"Date").endswith(b" GMT")
    assert field(line.send(GET).message()[0], b"Date") == b"x"
    assert field(line.send(GET).message()[0], b"Date").endswith(b" GMT")


def test_via_names_the_version_that_was_received(road):
    """RFC 9110 section 7.6.3."""
    head, _ = road(sending(OK.replace(b"1.1", b"1.0"))).connect().send(GET).message()
    assert head.startswith(b"HTTP/1.1 200 ") and field(head, b"Via") == b"1.0 wrapper"


@pytest.mark.parametrize("interim", [False, True])
def test_hop_by_hop_fields_stay_behind_in_answers_and_interim_answers(road, interim):
    """RFC 9110 section 7.6.1."""
    status = b"103 Early Hints" if interim else b"200 OK"
    answer = (b"HTTP/1.1 " + status + b"\r\nConnection: X-A, keep-alive\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\n"
              b"Proxy-Authenticate: x\r\nUpgrade: h2c\r\nTE: x\r\nLink: </a>\r\nContent-Length: 0\r\n\r\n")
    head = road(answering(answer + OK if interim else answer)).connect().send(GET).head().lower()
    for name in (b"x-a", b"keep-alive", b"proxy-authenticate", b"upgrade", b"te", b"connection"):
        assert b"\r\n" + name + b":" not in head
    assert b"\r\nlink: </a>\r\n" in head and (b"content-length" not in head) == interim


@pytest.mark.parametrize("announced", [b"", b"Trailer: X-Sum\r\n"])
def test_trailers_announced_or_not_are_passed_on(road, announced):
    """RFC 9110 sections 6.5.1, 7.6.1: without framing fields and what Connection names."""
    line = road(answering(
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nTransfer-Encoding: chunked\r\n" + announced + b"\r\n1\r\na\r\n0\r\n"
        b"X-Sum: 1\r\nX-Hop: 2\r\nContent-Length: 5\r\nX-Empty:\r\nTransfer-Encoding: x\r\n\r\n", OK)).connect()
    head = line.send(GET).head()
    assert (b"Trailer: X-Sum\r\n" in head) == bool(announced)
    assert line.until(b"\r\n\r\n") == b"1\r\na\r\n0\r\nX-Sum: 1\r\nX-Empty: \r\n\r\n"
    assert line.send(GET).message()[1] == b"ok"


def test_trailers_are_not_for_http_1_0(road):
    """RFC 9112 section 7.1.2."""
    answer = road(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\na\r\n0\r\n"
                            b"X-Sum: 1\r\n\r\n")).ask(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\na") and b"Trailer" not in answer


# Expect: RFC 9110 section 10.1.1


def test_a_client_that_expects_gets_the_services_word_before_it_sends(road):
    seen = []

    def script(line):
        head = line.head()
        seen.append(line.rest)
        line.send(b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\n")
        line.exactly(5)
        seen.append(field(head, b"Expect"))
        line.send(OK)
        line.is_at_end()

    line = road(script).connect()
    line.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n")
    assert line.head() == b"HTTP/1.1 100 Continue\r\nX: 1\r\nVia: 1.1 wrapper\r\n\r\n"
    assert line.send(b"hello").message()[1] == b"ok"
    assert seen == [b"", b"100-Continue"]


@pytest.mark.parametrize("expectation", [b"x", b"100-continue, x", b"100-continue\r\nExpect: 100-continue"])
def test_other_expectations_fail(road, expectation):
    line = road(answering(OK)).connect()
    line.send(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: " + expectation + b"\r\nContent-Length: 5\r\n\r\n")
    assert line.head().startswith(b"HTTP/1.1 417 ")


# Time and the client: RFC 9110 section 15.6.5


def test_a_service_that_answers_late_is_waited_for(road):
    """No default cut; more than one way of waiting is taken on this road."""
    def script(line):
        line.head()
        assert not threading.Event().wait(0.7)  # what this is about is time itself
        line.send(OK)
        line.is_at_end()

    assert road(script).connect().send(GET).message()[1] == b"ok"


@pytest.mark.parametrize("timeout", [0.1, 40.0])
def test_upstream_timeout_is_a_504_at_its_time(road, clock, timeout):
    asked = threading.Event()

    def script(line):
        line.head()
        asked.set()
        line.is_at_end()

    made = road(script, upstream_timeout=timeout)
    line = made.connect().send(GET)
    assert asked.wait(PATIENCE)
    settle(made.server.loop)
    clock.now += timeout * 0.9
    settle(made.server.loop)
    assert made.gate.in_flight == 1
    clock.now += timeout * 0.2
    settle(made.server.loop)
    assert line.message()[0].startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize(("how", "begun"), [
    ("close", b""), ("reset", b""), ("half", b""), ("close", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ("close", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), ("close", b"HTTP/1.1 200 OK\r\n\r\nabc"),
    ("reset", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
])
def test_the_service_is_let_go_within_a_second_of_its_client(road, clock, how, begun):
    """Also where nothing flows; a client that ended its side and stays is given up too."""
    left = threading.Event()

    def script(line):
        line.head()
        line.send(begun)
        if line.is_at_end():
            left.set()

    made = road(script)
    line = made.connect().send(GET)
    if begun:
        line.until(b"\r\n\r\n")
    wait_until(lambda: made.gate.in_flight)
    (connection,) = made.server.open_connections
    if how == "reset":
        line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if how == "half":
        line.sock.shutdown(socket.SHUT_WR)
    else:
        line.close()
    wait_until(lambda: connection.stream.link.last_event & select.EPOLLRDHUP)
    settle(connection.loop)
    for _ in range(25):  # not in one leap: a request that waits for its answer looks around meanwhile
        clock.now += 0.04
        settle(connection.loop)
    assert left.wait(PATIENCE)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_the_service_is_let_go_where_its_client_leaves_an_upload_behind_a_silent_answer(road, how):
    left = threading.Event()

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        if line.is_at_end():
            left.set()

    line = road(script).connect().send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n")
    line.head()
    if how == "reset":
        line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line.close()
    assert left.wait(PATIENCE)


# Kept connections: RFC 9112 section 9.3.1, RFC 9110 section 9.2.2


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"POST", b"PATCH", b"X"])
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 2", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_a_kept_connection_that_breaks_is_retried_once_and_only_where_it_is_safe(road, method, begun):
    seen = []

    def script(line):
        while True:
            try:
                seen.append(line.message()[0])
            except AssertionError:
                return
            if len(seen) == 2:
                line.send(begun)
                return
            line.send(OK if not seen[-1].startswith(b"HEAD") else OK[:-2])

    line = road(script).connect()
    assert line.send(GET).message()[1] == b"ok"
    answer = line.send(method + b" / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").head()
    if answer.startswith(b"HTTP/1.1 103"):
        answer = b"HTTP/1.1 502 "
    is_safe = method in (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE") and not begun
    assert answer.startswith(b"HTTP/1.1 200 " if is_safe else b"HTTP/1.1 502 ")
    assert len(seen) == (3 if is_safe else 2)


def test_a_fresh_connection_that_breaks_is_not_retried(road):
    seen = []

    def script(line):
        seen.append(line.head())

    assert road(script).connect().send(GET).message()[0].startswith(b"HTTP/1.1 502 ")
    assert len(seen) == 1


def test_a_retry_happens_once(road):
    seen = []

    def script(line):
        seen.append(line.head())
        if len(seen) == 1:
            line.send(OK)
            seen.append(line.head())

    line = road(script).connect()
    assert line.send(GET).message()[1] == b"ok"
    assert line.send(GET).message()[0].startswith(b"HTTP/1.1 502 ")
    assert len(seen) == 3
