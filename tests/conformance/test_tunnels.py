"""Upgrades: any protocol, both directions, refusals, HTTP/2 with prior knowledge, real WebSocket clients. RFC 9110
section 7.8, RFC 6455, RFC 9113 section 3.3."""

import contextlib
import os
import socket
import threading

import pytest
from websockets.sync import client, server

from tests.proxy.road import GET, OK, PATIENCE, Road, answering, field
from tests.running import wait_until

ASK = (b"GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: x/1\r\n"
       b"Sec-WebSocket-Protocol: a, b\r\n\r\n")
YES = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x/1\r\nConnection: upgrade\r\nSec-WebSocket-Protocol: b\r\n\r\n"
MUCH = os.urandom(1 << 20) * 6


def test_an_upgrade_keeps_its_fields_and_the_services_choice(road):
    """RFC 9110 section 7.8, RFC 6455 section 4.2.2: the sub-protocol is between client and service."""
    seen = []

    def script(line):
        seen.append(line.head())
        line.send(YES)
        line.is_at_end()

    head = road(script).connect().send(ASK).head()
    assert head.startswith(b"HTTP/1.1 101 ") and field(head, b"Upgrade") == b"x/1"
    assert field(head, b"Connection") == b"Upgrade" and field(head, b"Sec-WebSocket-Protocol") == b"b"
    assert field(seen[0], b"Upgrade") == b"x/1" and field(seen[0], b"Connection") == b"Upgrade"
    assert field(seen[0], b"Sec-WebSocket-Protocol") == b"a, b" and field(seen[0], b"X-Forwarded-For") == b"127.0.0.1"


@pytest.mark.parametrize("early", [1, 5000, 100_000])
def test_bytes_sent_early_on_both_sides_arrive(road, early):
    got = []

    def script(line):
        line.head()
        line.send(YES + MUCH[:early])
        got.append(line.exactly(early + 3))
        line.send(b"end")

    line = road(script).connect().send(ASK + MUCH[:early])
    line.head()
    line.send(b"xyz")
    assert line.exactly(early + 3) == MUCH[:early] + b"end"
    assert got == [MUCH[:early] + b"xyz"]


def test_what_one_side_sends_after_the_other_has_ended_arrives_whole(road):
    """Half-close, with more on the way than the buffers between hold and a reader that takes its time."""
    def script(line):
        line.head()
        line.send(YES)
        assert line.all() == b"bye"
        line.send(MUCH)
        line.close()
        sent.set()

    sent = threading.Event()
    line = road(script).connect().send(ASK)
    line.head()
    line.send(b"bye")
    line.sock.shutdown(socket.SHUT_WR)
    sent.wait(0.5)  # until the service has ended too, or every buffer is full
    assert line.all() == MUCH


def test_what_the_client_sends_after_the_service_has_ended_arrives_whole(road):
    got = []
    go_on, done = threading.Event(), threading.Event()

    def script(line):
        line.head()
        line.send(YES + b"bye")
        line.sock.shutdown(socket.SHUT_WR)
        go_on.wait(10)
        got.append(line.all())
        done.set()

    line = road(script).connect().send(ASK)
    line.head()
    assert line.all() == b"bye"
    writer = threading.Thread(target=lambda: (line.send(MUCH), line.sock.shutdown(socket.SHUT_WR)), daemon=True)
    writer.start()
    writer.join(0.2)  # it blocks where the buffers are full, and may have ended where they are not
    go_on.set()
    assert done.wait(10) and got == [MUCH]


@pytest.mark.parametrize("side", ["client", "service"])
def test_a_side_that_breaks_ends_the_other(road, side):
    ended = threading.Event()

    def script(line):
        line.head()
        line.send(YES)
        if side == "service":
            line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        if line.is_at_end():
            ended.set()

    line = road(script).connect().send(ASK)
    line.head()
    if side == "service":
        assert line.is_at_end()
    else:
        line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        line.close()
        assert ended.wait(5)


@pytest.mark.parametrize("is_half_closed", [False, True])
def test_a_client_that_breaks_is_seen_though_the_service_takes_nothing(road, is_half_closed):
    """One that has only half-closed has what it sent before taken by the service in the end."""
    go_on, got = threading.Event(), []

    def script(line):
        line.head()
        line.send(YES)
        assert go_on.wait(PATIENCE)
        if is_half_closed:
            got.append(line.all())

    made = road(script)
    line = made.connect().send(ASK)
    line.head()
    line.sock.settimeout(0.2)  # it blocks for good where all buffers are full
    sent = 0
    with contextlib.suppress(socket.timeout):
        while True:
            sent += line.sock.send(MUCH)
    if is_half_closed:
        line.sock.shutdown(socket.SHUT_WR)
    else:
        line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        line.close()
        wait_until(lambda: made.gate.in_flight == 0)
    go_on.set()
    if is_half_closed:
        wait_until(lambda: got)
        assert len(got[0]) == sent


@pytest.mark.parametrize("status", [b"200 OK", b"400 Bad Request", b"403 Forbidden", b"426 Upgrade Required"])
def test_a_refused_upgrade_is_an_answer_like_others(road, status):
    """RFC 9110 section 7.8: a server may ignore Upgrade; 15.5.22: 426 says what it wants."""
    answer = b"HTTP/1.1 " + status + b"\r\nConnection: upgrade\r\nUpgrade: y\r\nContent-Length: 2\r\n\r\nno"
    line = road(answering(answer, OK)).connect()
    head, body = line.send(ASK).message()
    assert body == b"no" and head.startswith(b"HTTP/1.1 " + status)
    assert field(head, b"Upgrade") == (b"y" if status.startswith(b"426") else None)
    assert line.send(GET).message()[1] == b"ok"


@pytest.mark.parametrize("request_bytes", [
    GET,
    GET.replace(b"\r\n\r\n", b"\r\nUpgrade: x\r\n\r\n"),  # not named in Connection
    GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\n\r\n"),  # no Upgrade
    GET.replace(b"1.1", b"1.0").replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
])
def test_a_101_nobody_asked_for_is_a_502(road, request_bytes):
    """RFC 9110 section 7.8; an HTTP/1.0 client cannot ask."""
    def script(line):
        line.head()
        line.send(YES + b"HTTP/1.1 200 OK\r\n\r\n")

    assert road(script).connect().send(request_bytes).message()[0].startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_body_on_the_way_is_no_part_of_the_tunnel(road, framing):
    """RFC 9110 section 7.8: the request ends before the other protocol begins, though the 101 came early."""
    got, done = [], threading.Event()
    body = b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n" if b"chunked" in framing else b"hello"

    def script(line):
        line.head()
        line.send(YES)
        got.append(line.all())
        done.set()

    line = road(script).connect()
    line.send(ASK.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\n" + framing + b"\r\n\r\n") + body[:3])
    threading.Event().wait(0.05)  # so that the 101 comes in the middle of the body
    line.send(body[3:] + b"tunnel")
    assert line.head().startswith(b"HTTP/1.1 101 ")
    line.sock.shutdown(socket.SHUT_WR)
    assert done.wait(5)
    assert got[0].endswith(b"0\r\n\r\ntunnel" if b"chunked" in framing else b"hellotunnel")


# HTTP/2 with prior knowledge: RFC 9113 sections 3.3 and 3.4


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_h2c_goes_through_untouched_when_asked_for(road, size):
    def script(line):
        data = line.exactly(len(PREFACE) + 1000)
        line.send(data[::-1])

    data = PREFACE + bytes(range(250)) * 4
    line = road(script, h2c=True).connect()
    for at in range(0, len(data), size):
        line.send(data[at:at + size])
    assert line.exactly(len(data)) == data[::-1]


def test_h2c_is_refused_cleanly_otherwise(road):
    made = road(answering(OK))
    line = made.connect().send(PREFACE + b"\0\0\0\4\0\0\0\0\0")
    assert line.head().startswith(b"HTTP/1.1 505 ") and not made.service.lines


# A real client and a real server of WebSockets: RFC 6455


@pytest.fixture
def echo_server():
    def echo(connection):
        for message in connection:
            connection.send(message)

    with server.serve(echo, "127.0.0.1", 0, subprotocols=["b"], max_size=None) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running.socket.getsockname()
        running.shutdown()
        thread.join()


def test_a_real_websocket_client_and_server_talk(echo_server):
    """RFC 6455: sub-protocol, compression, text, fragments, large binary, ping, close codes."""
    made = Road(answering(), is_open=False)
    try:
        made.gate.open(made.service.address._replace(port=echo_server[1]))
        with client.connect(f"ws://127.0.0.1:{made.place[1]}/", subprotocols=["a", "b"], max_size=None) as connection:
            assert connection.subprotocol == "b"
            for message in ("hi", "\u00e9" * 70_000, b"", os.urandom(3_000_000)):
                connection.send(message)
                assert connection.recv(timeout=10) == message
            connection.send(iter(["frag", "ment", "s"]))
            assert connection.recv(timeout=10) == "fragments"
            assert connection.ping().wait(10)
        assert connection.close_code == 1000
        with client.connect(f"ws://127.0.0.1:{made.place[1]}/", compression=None, subprotocols=["b"]) as connection:
            connection.close(4001, "why")
            assert connection.close_code == 4001
    finally:
        made.close()
