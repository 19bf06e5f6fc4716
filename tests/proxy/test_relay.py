"""The relay over raw sockets: what goes to the service, and what comes back. RFC 9110, 9112."""

import contextlib
import fcntl
import gc
import os
import select
import socket
import struct
import termios
import threading

import pytest

from tests.loop.driving import held
from tests.proxy.road import GET, GET_CLOSE, OK, PATIENCE, Line, Service, answering, echoing, field, fields, in_turn
from tests.running import drain, wait_until
from wrapper.deadline import Deadline
from wrapper.front.server import loops
from wrapper.http1.message import Response
from wrapper.loop import stream
from wrapper.loop.poller import BATCH
from wrapper.proxy import upstream
from wrapper.proxy.relay import Exchange
from wrapper.proxy.upstream import Upstream
from wrapper.settings import address

CLOSE = b"Connection: close\r\n"


def seen_by_service(road, request):
    """The request as the service got it."""
    answer = road(echoing).ask(request)
    return answer.partition(b"\r\n\r\n")[2]


# Requests on their way to the service


def test_path_and_query_go_byte_for_byte(road):
    target = b"/a//b/../%2F%2f/;x?q=a+b%20c&&=?#\xc3\xa9"
    seen = seen_by_service(road, b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n")
    assert seen.startswith(b"GET " + target + b" HTTP/1.1\r\n")


def test_fields_keep_their_order_case_bytes_and_repeats(road):
    """RFC 9110 section 5.3: order of same-named fields matters; section 5.5: obs-text is kept."""
    lines = b"X-B: 1\r\nx-a: \xe9\xff\r\nX-Empty:\r\nX-B: 2\r\n"
    seen = seen_by_service(road, b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE + lines + b"\r\n")
    assert lines in seen


def test_host_is_kept_and_forwarded_fields_are_set(road):
    seen = seen_by_service(road, b"GET / HTTP/1.1\r\nHost: example.org:81\r\nX-Forwarded-For: 6.6.6.6\r\n"
                                 b"X_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n" + CLOSE + b"\r\n")
    assert field(seen, b"Host") == b"example.org:81"
    assert field(seen, b"X-Forwarded-For") == b"127.0.0.1"
    assert field(seen, b"X-Forwarded-Host") == b"example.org:81"
    assert field(seen, b"X-Forwarded-Proto") == b"http"
    assert b"6.6.6.6" not in seen


def test_what_a_client_sends_like_the_one_before_is_forwarded_as_its_own(road):
    """Fields that are the same to the byte are judged once for all connections; who sent them is not among them."""
    there = road(echoing)
    for host in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
        with contextlib.closing(socket.create_connection(there.place, PATIENCE, (host, 0))) as sock:
            request = b"GET /%b HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\n" % host.encode()
            seen = Line(sock).send(request + CLOSE + b"\r\n").all().partition(b"\r\n\r\n")[2]
        assert seen.startswith(b"GET /%b HTTP/1.1\r\n" % host.encode())
        assert field(seen, b"X-Forwarded-For") == host.encode()


def test_the_service_is_told_of_us_only_where_that_is_asked(road):
    """RFC 9110 section 7.6.3 wants Via; nginx compresses nothing for a request that has one."""
    assert field(seen_by_service(road, GET_CLOSE), b"Via") is None
    assert field(road(echoing, via=True).ask(GET_CLOSE).partition(b"\r\n\r\n")[2], b"Via") == b"1.1 wrapper"
    theirs = GET_CLOSE[:-2] + b"Via: 1.1 front\r\n\r\n"
    assert field(seen_by_service(road, theirs), b"Via") == b"1.1 front"


@pytest.mark.parametrize(("place", "host"), [
    ("127.0.0.1:81", b"127.0.0.1:81"), ("[::1]:81", b"[::1]:81"), (":81", b"localhost:81"), ("unix:/x", b"localhost")])
def test_whoever_names_no_host_asks_for_the_services_own(place, host):
    """RFC 9112 section 3.2: an IPv6 address stands in brackets there."""
    assert Upstream(address.parse(place)).host == host


def test_forwarded_fields_of_a_trusted_proxy_are_appended_to(road):
    made = road(echoing, trusted_proxies=("127.0.0.0/8",))
    answer = made.ask(b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"
                      b"X-Forwarded-Host: outer\r\nForwarded: for=6.6.6.6\r\n" + CLOSE + b"\r\n")
    seen = answer.partition(b"\r\n\r\n")[2]
    assert field(seen, b"X-Forwarded-For") == b"6.6.6.6, 127.0.0.1"
    assert field(seen, b"X-Forwarded-Proto") == b"https"
    assert field(seen, b"X-Forwarded-Host") == b"outer"
    assert field(seen, b"Forwarded") == b'for=6.6.6.6, for=127.0.0.1;host="h";proto=http'


def test_hop_by_hop_fields_stay_behind(road):
    """RFC 9110 section 7.6.1: those it lists, and those that Connection names."""
    seen = seen_by_service(road, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close, X-Secret, Host\r\nX-Secret: 1\r\n"
                                 b"Keep-Alive: 5\r\nTE: trailers, deflate\r\nUpgrade: x\r\nProxy-Authorization: a\r\n"
                                 b"Proxy-Connection: keep-alive\r\nX-Kept: 1\r\n\r\n")
    names = {name.lower() for name, _ in fields(seen)}
    assert names == {b"host", b"x-kept", b"te", b"connection", b"x-forwarded-for", b"x-forwarded-host",
                     b"x-forwarded-proto"}
    assert field(seen, b"TE") == b"trailers" and field(seen, b"Connection") == b"TE"


EMPTY = [b"", b" ", b",", b" ,\t,", b"close,", b", close"]


@pytest.mark.parametrize("value", EMPTY)
def test_empty_members_of_connection_name_nothing(road, value):
    """RFC 9110 section 5.6.1.2: they are to be ignored; what follows the section stays where it is."""
    request = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection:" + value + b"\r\nX: y\r\n\r\n"
    line = road(echoing).connect().send(request + b"2\r\nhi\r\n0\r\n\r\n")
    seen = line.message()[1].partition(b"\r\n\r\n")[0] + b"\r\n"
    assert field(seen, b"X") == b"y" and field(seen, b"Transfer-Encoding") == b"chunked"
    assert field(seen, b"X-Forwarded-For") == b"127.0.0.1"


@pytest.mark.parametrize("value", EMPTY)
def test_empty_members_of_an_answers_connection_name_nothing(road, value):
    answer = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\nConnection:" + value + b"\r\nX: y\r\n\r\nok"
    head, body = road(answering(answer)).connect().send(GET).message()
    assert head == b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\nX: y\r\nVia: 1.1 wrapper\r\n\r\n"
    assert body == b"ok"


def test_a_target_in_absolute_form_replaces_host(road):
    """RFC 9112 section 3.2.2."""
    seen = seen_by_service(road, b"GET http://real/p?q HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n")
    assert seen.startswith(b"GET /p?q HTTP/1.1\r\nHost: real\r\n")
    assert field(seen, b"Host") == b"real"


@pytest.mark.parametrize("target", [b"*", b"http://h"])
def test_options_of_everything(road, target):
    """RFC 9112 section 3.2.4: also where an absolute target has no path."""
    seen = seen_by_service(road, b"OPTIONS " + target + b" HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n")
    assert seen.startswith(b"OPTIONS * HTTP/1.1\r\n")


def test_a_body_with_length_arrives(road):
    request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n" + CLOSE + b"\r\nhello"
    assert seen_by_service(road, request).endswith(b"\r\n\r\nhello")


def test_a_chunked_body_is_framed_again_and_keeps_its_trailers(road):
    """RFC 9112 section 7.1, RFC 9110 section 6.5.1: framing fields have no place in trailers."""
    request = (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + CLOSE
               + b"\r\n005;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\nContent-Length: 7\r\n\r\n")
    assert seen_by_service(road, request).endswith(b"\r\n\r\n6\r\nhello!\r\n0\r\nX-Sum: 1\r\n\r\n")


@pytest.mark.parametrize("size", [100, 70_000, 3_000_000])
def test_a_slow_upload_arrives_whole(road, size):
    body = os.urandom(size)
    seen = []

    def script(line):
        seen.append(line.message()[1])
        line.send(OK)
        line.sock.recv(1)

    line = road(script).connect()
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
    for at in range(0, size, size // 3 + 1):
        line.send(body[at:at + size // 3 + 1])
    assert line.message()[1] == b"ok"
    assert seen == [body]
    assert line.send(GET).head()


def test_pipelined_requests_are_answered_in_order(road):
    """RFC 9112 section 9.3.2."""
    line = road(echoing).connect()
    line.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(5)))
    assert [line.message()[1].split()[1] for _ in range(5)] == [b"/0", b"/1", b"/2", b"/3", b"/4"]


def test_a_pipelined_request_behind_a_body_is_not_lost(road):
    line = road(echoing).connect()
    line.send(b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nabGET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert line.message()[1].endswith(b"ab")
    assert line.message()[1].startswith(b"GET /2 ")


# Answers on their way to the client


def test_an_answer_keeps_fields_and_gets_via(road):
    line = road(answering(b"HTTP/1.1 404 Nope\r\nSet-Cookie: a\r\nDate: d\r\nSet-Cookie: b\r\n"
                          b"Server: s\r\nX-Empty: \r\nContent-Length: 0\r\n\r\n")).connect()
    head = line.send(GET).head()
    assert head == (b"HTTP/1.1 404 Nope\r\nSet-Cookie: a\r\nDate: d\r\nSet-Cookie: b\r\nServer: s\r\nX-Empty: \r\n"
                    b"Content-Length: 0\r\nVia: 1.1 wrapper\r\n\r\n")


def test_a_status_line_without_a_reason_gets_the_space_before_it(road):
    """RFC 9112 section 4: it is sent even where the reason is empty."""
    line = road(answering(b"HTTP/1.1 200\r\nDate: d\r\nContent-Length: 0\r\n\r\n")).connect()
    assert line.send(GET).head().startswith(b"HTTP/1.1 200 \r\nDate: d\r\n")


def test_hop_by_hop_fields_of_an_answer_stay_behind(road):
    line = road(answering(b"HTTP/1.1 200 OK\r\nDate: d\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n"
                          b"Proxy-Authenticate: a\r\nContent-Length: 0\r\n\r\n")).connect()
    assert line.send(GET).head() == b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 0\r\nVia: 1.1 wrapper\r\n\r\n"


def test_chunked_answers_and_their_trailers(road):
    """RFC 9112 section 7.1.2."""
    line = road(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
                          b"3\r\nabc\r\n0\r\nX-Sum: 9\r\nConnection: close\r\n\r\n", OK)).connect()
    head = line.send(GET).head()
    assert field(head, b"Transfer-Encoding") == b"chunked"
    assert field(head, b"Trailer") == b"X-Sum"
    assert line.until(b"\r\n\r\n") == b"3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n"
    assert line.send(GET).message()[1] == b"ok"


def test_an_answer_until_close_is_chunked_for_the_client(road):
    def script(line):
        line.head()
        line.send(b"HTTP/1.0 200 OK\r\n\r\nabc")

    line = road(script).connect()
    assert field(line.send(GET).head(), b"Transfer-Encoding") == b"chunked"
    assert line.until(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"
    assert field(line.send(GET).head(), b"Transfer-Encoding") == b"chunked"


def test_a_client_of_http_1_0_gets_no_chunks(road):
    answer = road(answering(b"HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n"
                            b"3\r\nabc\r\n0\r\n\r\n")).ask(
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert answer == b"HTTP/1.1 200 OK\r\nDate: d\r\nVia: 1.1 wrapper\r\nConnection: close\r\n\r\nabc"


def test_a_client_of_http_1_0_can_be_kept(road):
    """RFC 9112 section 9.3: when it asks for it and the length is known."""
    line = road(answering(OK, OK)).connect()
    for _ in range(2):
        head, body = line.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").message()
        assert field(head, b"Connection") == b"keep-alive" and body == b"ok"


@pytest.mark.parametrize(("method", "answer"), [
    (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
])
def test_answers_without_body(road, method, answer):
    """RFC 9112 section 6.3, first rule."""
    line = road(in_turn(answer, OK)).connect()
    line.send(method + b" / HTTP/1.1\r\nHost: h\r\n\r\n").head()
    assert line.send(GET).message()[1] == b"ok"


def test_interim_answers_are_passed_on(road):
    """RFC 9110 section 15.2, RFC 8297; what Connection names goes from them too."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-S\r\nX-S: 1\r\n\r\n"
    line = road(answering(early + early + OK)).connect().send(GET)
    for _ in range(2):
        assert line.head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nVia: 1.1 wrapper\r\n\r\n"
    assert line.message()[1] == b"ok"


def test_interim_answers_are_not_for_http_1_0(road):
    answer = road(answering(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)).ask(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_endless_interim_answers_are_refused(road):
    """CVE-2021-3737 was a client that took them for ever."""
    answer = road(answering(b"HTTP/1.1 102 Processing\r\n\r\n" * 50 + OK)).ask(GET_CLOSE)
    assert b"HTTP/1.1 502 " in answer


def test_expect_100_continue_is_the_services_to_answer(road):
    """RFC 9110 section 10.1.1."""
    def script(line):
        head = line.head()
        assert field(head, b"Expect") == b"100-continue"
        line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        line.exactly(5)
        line.send(OK)
        line.sock.recv(1)

    line = road(script).connect()
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert line.head().startswith(b"HTTP/1.1 100 Continue")
    assert line.send(b"hello").message()[1] == b"ok"


def test_a_head_that_the_service_does_not_take_at_once_does_not_wait_for_its_body(road, tmp_path):
    """The rest of it went out along with the body, for which the client waits until it is told to go on."""
    size = 512 * 1024  # more than the buffers of a unix socket take

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert line.exactly(5) == b"hello"
        line.send(OK)

    made = road(script, service=Service(script, str(tmp_path / "service"), socket.AF_UNIX), max_header=2 * size)
    line = made.connect().send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n")
    line.send(b"X: %b\r\n\r\n" % (b"x" * size))
    assert line.head().startswith(b"HTTP/1.1 100 ")
    assert line.send(b"hello").message()[1] == b"ok"


def test_a_refused_expectation_is_passed_on_and_the_connection_closed(road):
    """RFC 9112 section 9.3: a body that may or may not come cannot be followed by another request."""
    def script(line):
        line.head()
        line.send(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
        line.sock.recv(1)

    line = road(script).connect()
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    head = line.head()
    assert head.startswith(b"HTTP/1.1 413 ") and field(head, b"Connection") == b"close"
    assert line.is_at_end()


def test_an_answer_may_begin_before_its_request_has_ended(road):
    def script(line):
        line.head()
        line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            line.send(b"%s\r\n" % line.until(b"\r\n").strip() + line.until(b"\r\n"))
        line.send(b"0\r\n\r\n")

    line = road(script).connect()
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    line.head()
    for word in (b"one", b"two", b"six"):
        line.send(b"3\r\n" + word + b"\r\n")
        assert line.until(word + b"\r\n")
    assert line.until(b"0\r\n\r\n")


def test_pieces_of_a_stream_arrive_as_they_are_written(road):
    go_on = threading.Semaphore(0)

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            assert go_on.acquire(timeout=10)
            line.send(b"9\r\ndata: %d\n\n\r\n" % number)
        line.send(b"0\r\n\r\n")

    line = road(script).connect().send(GET)
    line.head()
    for number in range(3):
        go_on.release()
        assert line.until(b"data: %d\n\n\r\n" % number)
    assert line.until(b"0\r\n\r\n")


def test_a_large_answer_arrives_whole_though_the_client_is_slow(road):
    body = os.urandom(5_000_000)
    line = road(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body, OK)).connect()
    head = line.send(GET).head()
    assert line.exactly(len(body)) == body and head
    assert line.send(GET).message()[1] == b"ok"


def test_the_last_answer_and_the_end_of_its_connection_are_one_segment(road):
    """So the client is woken once. Both are told at once each time; apart, the end comes a moment later."""
    there = road(answering(OK))
    together = 0
    for _ in range(20):
        with contextlib.closing(there.connect().send(GET_CLOSE).sock) as sock:
            poll = select.epoll()
            poll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
            [(_, event)] = poll.poll(PATIENCE)
            poll.close()
            together += event == select.EPOLLIN | select.EPOLLRDHUP
    assert together > 15  # the kernel waits for the end for 0.2 s at most


def test_a_crowd_that_leaves_does_not_keep_a_request_from_a_fresh_connection(road, monkeypatch):
    """That the service has taken it is an event too, and would stand behind all that came before."""
    monkeypatch.setattr("wrapper.front.server.loops", lambda: 1)
    there = road(answering(OK))
    crowd = [there.connect() for _ in range(10 * BATCH)]
    wait_until(lambda: len(there.server.open_connections) == len(crowd))
    there_still, send = [], Exchange._send_request

    def send_request(*words):
        there_still.append(len(there.server.open_connections))
        send(*words)

    monkeypatch.setattr(Exchange, "_send_request", send_request)
    with held(there.server.loop):
        line = there.connect().send(GET)
        for one in crowd:
            one.close()
    assert line.message()[1] == b"ok"
    assert there_still[0] > len(crowd) / 2


@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
                                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"])
def test_what_has_ended_leaves_nothing_to_the_collector(road, answer):
    """After a crowd it would have to free all of it at once, and everybody would wait for that."""
    def script(line):
        line.head()
        line.send(answer)

    there = road(script)
    garbage = []
    gc.collect()
    gc.disable()
    held = list(filter(_is_ours, gc.get_objects()))  # so that what threads of earlier tests let go now is not garbage
    try:
        for _ in range(3):
            line = there.connect()
            line.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").head()
            line.close()
        wait_until(lambda: not there.server.open_connections and not there.gate.in_flight)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        garbage += [type(one).__qualname__ for one in gc.garbage if _is_ours(one)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert held
    assert garbage == []


def _is_ours(thing):
    return str(type(thing).__module__).startswith("wrapper.")


# What the service does wrong


@pytest.mark.parametrize("answer", [
    b"garbage\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 60_000 + b"\r\n",
    b"",
])
def test_nonsense_from_the_service_is_a_502(road, answer):
    def script(line):
        line.head()
        line.send(answer)

    made = road(script)
    made.service.closed = True  # its connection ends where an answer is too long
    got = made.ask(GET_CLOSE)
    assert got.startswith(b"HTTP/1.1 502 "), got


def test_space_before_the_colon_is_mended_in_an_answer(road):
    """RFC 9112 section 5.1."""
    line = road(answering(b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length : 2\r\n\r\nok")).connect().send(GET)
    head, body = line.message()
    assert field(head, b"A") == b"b" and body == b"ok"


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
])
def test_an_answer_cut_short_is_visibly_broken(road, answer):
    def script(line):
        line.head()
        line.send(answer)

    line = road(script).connect().send(GET)
    line.until(b"abc")
    rest = b""
    try:
        rest = line.all()
    except ConnectionResetError:
        pass
    assert not rest.endswith(b"0\r\n\r\n")


GET_1_0 = b"GET / HTTP/1.0\r\n\r\n"


def streaming(line):
    """A script: the beginning of an answer that only its end would frame."""
    line.head()
    line.send(b"HTTP/1.0 200 OK\r\n\r\npart")
    line.is_at_end()


@pytest.mark.parametrize("request_bytes", [GET, GET_1_0])
def test_an_answer_cut_by_a_drain_does_not_look_whole(road, request_bytes):
    """RFC 9112 section 8: what the end of the connection frames is incomplete when it was cut."""
    made = road(streaming)
    line = made.connect().send(request_bytes)
    line.until(b"part")
    lane = made.gate.hold("the service is restarting")
    assert not drain(made.gate, lane, Deadline(0.01), "restart")
    if request_bytes == GET:
        assert line.all() == b"\r\n", "the end of a chunk, and no last chunk"
    else:
        assert line.is_reset()


def sending_much(line):
    """A script: more than all buffers on the way take."""
    line.head()
    with contextlib.suppress(OSError):
        line.send(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 30_000_000)


def test_an_answer_cut_by_a_drain_does_not_wait_for_a_slow_reader(road):
    made = road(sending_much)
    line = made.connect().send(GET_1_0)
    line.until(b"x")
    wait_until(lambda: made.service.lines and is_stuck(line))
    lane = made.gate.hold("the service is restarting")
    assert not drain(made.gate, lane, Deadline(0.01), "restart")
    assert not lane.inside
    assert line.is_reset()


def is_stuck(line):
    """Nothing more arrives, because nobody reads."""
    before = arrived(line)
    threading.Event().wait(0.02)
    return before == arrived(line) > 0


def arrived(line):
    return struct.unpack("i", fcntl.ioctl(line.sock, termios.FIONREAD, b"\0" * 4))[0]


def test_an_answer_that_is_cut_behind_a_slow_reader_does_not_look_whole(road):
    made = road(sending_much)
    line = made.connect().send(GET_1_0)
    wait_until(lambda: arrived(line))
    drain(made.gate, made.gate.hold("restart"), Deadline(0.1), "restart")
    assert made.site.wait_ended().status == 200
    assert line.is_reset()


def test_a_client_may_take_its_answer_as_slowly_as_it_likes(road):
    """Not --idle-timeout: a reader that pauses is no silent client, and its download is not to be cut in the middle."""
    size = 8 << 20

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    line = road(script, idle_timeout=0.1).connect_with(GET)
    line.head()
    threading.Event().wait(0.5)  # the pause itself: five times as long as a client may be silent
    assert len(line.exactly(size)) == size


def test_the_answer_of_a_client_that_half_closed_does_not_look_whole_when_it_is_given_up(road):
    line = road(streaming).connect().send(GET_1_0)
    line.until(b"part")
    line.sock.shutdown(socket.SHUT_WR)
    assert line.is_reset()


def test_surplus_bytes_never_become_another_answer(road):
    made = road(answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
    line = made.connect()
    for _ in range(2):
        assert line.send(GET).message()[1] == b"ok"
    assert len(made.service.lines) == 2


def test_late_surplus_bytes_never_become_another_answer(road):
    sent = threading.Event()

    def script(line):
        line.head()
        line.send(OK)
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        sent.set()
        line.is_at_end()

    line = road(script).connect()
    assert line.send(GET).message()[1] == b"ok"
    assert sent.wait(10)
    assert line.send(GET).message()[1] == b"ok"


def test_a_stale_connection_is_replaced(road):
    """RFC 9112 section 9.3.1: a kept connection may close at any time; nothing of the answer came, so ask again."""
    def script(line):
        line.head()
        line.send(OK)

    line = road(script).connect()
    for _ in range(20):
        assert line.send(GET).message()[1] == b"ok"


@pytest.mark.parametrize(("method", "status"), [
    (b"GET", b"200"), (b"PUT", b"200"), (b"POST", b"502"), (b"PATCH", b"502")])
def test_what_is_asked_again_when_a_kept_connection_breaks(road, monkeypatch, method, status):
    """RFC 9110 section 9.2.2: only what is idempotent, once it has been sent."""
    monkeypatch.setattr(upstream, "HOLDS", 0.0)  # the service counts as one that holds its connections
    count = []

    def script(line):
        count.append(1)
        line.message()
        line.send(OK)
        if len(count) == 1:
            line.message()  # and hang up without an answer
        else:
            line.sock.recv(1)

    made = road(script)
    line = made.connect()
    assert line.send(GET).message()[1] == b"ok"
    head = line.send(method + b" / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi").head()
    assert head.split()[1] == status


def test_no_service_is_a_502(road):
    made = road(echoing)
    made.service.close()
    assert made.ask(GET_CLOSE).startswith(b"HTTP/1.1 502 ")


def test_a_service_that_takes_too_long_is_a_504(road):
    made = road(lambda line: line.all(), upstream_timeout=0.1)
    assert made.ask(GET_CLOSE).startswith(b"HTTP/1.1 504 ")


# Where no thread can be had (RLIMIT_NPROC, the pids controller): only own paths need one


@pytest.fixture
def crowded(road, monkeypatch):
    """`crowded(script)`: a road that can have two threads for own paths, both busy, and a service behind it."""
    made, go_on = [], threading.Event()
    monkeypatch.setattr("wrapper.front.server.THREADS_MAX", 2)

    def build(script, **settings):
        made.append(road(script, **settings))
        wait_until(lambda: len(made[0].server.workers._idle) == 2)  # they count as busy until they have begun
        blocked = threading.Semaphore(0)
        made[0].site.answers["/sidecar/block"] = lambda request: blocked.release() or (go_on.wait(10) and Response(b""))
        made[0].busy = [made[0].connect().send(b"GET /sidecar/block HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(2)]
        for _ in made[0].busy:
            assert blocked.acquire(timeout=10)
        made[0].let_go = go_on.set
        return made[0]

    yield build
    go_on.set()


def test_whatever_waits_for_the_service_needs_no_thread(crowded):
    go_on = threading.Event()

    def script(line):
        head = line.head()
        path = head.split()[1]
        if path == b"/upload":
            line.exactly(100_000)
        assert go_on.wait(10)
        if path == b"/ws":
            line.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: odd/1\r\n\r\nok")
        else:
            line.send(OK)
        line.is_at_end()

    made = crowded(script)
    asked = [made.connect().send(request) for request in (
        GET, b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000),
        b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: odd/1\r\n\r\n")]
    wait_until(lambda: made.gate.in_flight == 3)
    assert made.ask(b"GET /sidecar/healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").endswith(b"own")
    go_on.set()
    assert [line.until(b"ok")[-2:] for line in asked] == [b"ok"] * 3
    assert made.server.threads == 2 + loops()


def test_an_own_path_is_refused_where_no_thread_can_be_had(crowded):
    made = crowded(echoing)
    head = made.connect().send(b"GET /sidecar/slow HTTP/1.1\r\nHost: h\r\n\r\n").head()
    assert head.startswith(b"HTTP/1.1 503 ") and field(head, b"Retry-After"), head
    wait_until(lambda: made.site.short == {"threads": True})
    assert not made.server.workers._idle
    made.let_go()
    assert [line.head().startswith(b"HTTP/1.1 200 ") for line in made.busy] == [True, True]
    wait_until(lambda: made.server.workers._idle)  # a thread hands its response over before it is free
    assert made.connect().send(b"GET /sidecar/slow HTTP/1.1\r\nHost: h\r\n\r\n").message()[1] == b"own"


# What the client does wrong


def test_a_client_that_leaves_frees_the_service_at_once(road):
    left = threading.Event()

    def script(line):
        line.head()
        if line.is_at_end():
            left.set()

    road(script).connect().send(GET).close()
    assert left.wait(PATIENCE)


def test_a_client_that_leaves_a_silent_stream_frees_the_service(road):
    left = threading.Event()

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: x\n\n")
        if line.is_at_end():
            left.set()

    line = road(script).connect().send(GET)
    line.until(b"data: x\n\n")
    line.close()
    assert left.wait(PATIENCE)


def test_a_client_that_only_half_closes_is_answered(road, monkeypatch):
    monkeypatch.setattr(stream, "LEAVE_TIMEOUT", PATIENCE)  # the moment it gets is test_stream.py's
    line = road(answering(OK)).connect().send(GET)
    line.sock.shutdown(socket.SHUT_WR)
    assert line.message()[1] == b"ok"


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
def test_a_broken_upload_never_looks_complete(road, framing):
    got = []
    begun, ended = threading.Event(), threading.Event()

    def script(line):
        line.head()
        begun.set()
        try:
            got.append(line.all())
        except ConnectionResetError:
            got.append(b"")
        ended.set()

    line = road(script).connect()
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n3\r\nabc\r\n")
    assert begun.wait(PATIENCE)
    line.close()
    assert ended.wait(PATIENCE)
    assert not got[0].endswith(b"0\r\n\r\n") and len(got[0]) < 100


@pytest.mark.parametrize("end", ["close", "half"])
def test_a_service_that_ends_in_the_middle_of_an_upload_is_a_502_at_once(road, end):
    """Half-closed, it reads no more either: whoever is sending must be woken before the connection is let go."""
    is_stuck, go_on = threading.Event(), threading.Event()

    def script(line):
        line.head()
        if end == "close":
            line.exactly(1000)
        else:
            assert is_stuck.wait(10)
            line.sock.shutdown(socket.SHUT_WR)
            assert go_on.wait(10)

    made = road(script, idle_timeout=60)  # longer than its client waits
    line = made.connect()
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1000)
    if end == "half":
        with contextlib.suppress(OSError):
            line.sock.settimeout(0.2)
            line.send(b"x" * 30_000_000)
        line.sock.settimeout(10)
        is_stuck.set()
    assert line.head().startswith(b"HTTP/1.1 502 ")
    assert made.site.wait_ended().status == 502 and made.gate.in_flight == 0
    go_on.set()


@pytest.mark.parametrize("end", [b"zz\r\n", b"5\r\nab", None])
def test_a_connection_on_which_an_upload_has_broken_is_no_other_clients(road, monkeypatch, end):
    """RFC 9112 section 11.2: the service still waits for the rest, and would take the next request for it."""
    monkeypatch.setattr(stream, "LEAVE_TIMEOUT", PATIENCE)  # the service answers after the client's half close
    kept, go_on = [], threading.Event()

    def script(line):
        head = line.head()
        if head.startswith(b"POST"):
            line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbe")
            assert go_on.wait(PATIENCE)
            line.send(b"en")
            kept.append(line.all())
        else:
            line.send(OK)

    made = road(script)
    line = made.connect().send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    assert line.until(b"be")
    (connection,) = made.server.open_connections
    upload = connection.exchange._upload
    line.send(end or b"")
    if end is None or end.endswith(b"ab"):
        line.sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: upload.is_over)
    go_on.set()
    assert line.all() == b"en"
    assert made.ask(GET_CLOSE).endswith(b"ok")
    wait_until(lambda: kept)
    assert b"GET" not in kept[0]


@pytest.mark.parametrize("end", [b"zz\r\n", b"1\r\nb\r\n"])
def test_an_upload_that_breaks_behind_a_response_that_has_begun_ends_both(road, end):
    """Spoilt or stalled: the service waits for the rest of it, and the client for what the service makes of that."""
    def script(line):
        line.head()
        line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        line.all()

    made = road(script)
    line = made.connect().send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    assert line.until(b"begun\r\n")
    (connection,) = made.server.open_connections
    connection.exchange.body._patience = 0.2  # for what comes behind the next chunk
    assert line.send(end).all() == b""
    assert made.site.wait_ended().cut == "client"


def test_a_malformed_chunk_is_a_400_and_the_service_is_cut(road):
    got = []

    def script(line):
        line.head()
        got.append(line.all())

    line = road(script).connect()
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    line.send(b"0x3\r\nabc\r\n0\r\n\r\n")
    assert line.head().startswith(b"HTTP/1.1 400 ")
