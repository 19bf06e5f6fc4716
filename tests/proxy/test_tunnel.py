"""Upgrades, tunnels and frames: RFC 9110 section 7.8, RFC 6455."""

import socket
import threading

import pytest

from tests.proxy.road import field, frame
from tests.running import wait_until
from wrapper.loop.loop import NEVER, NEXT_TURN
from wrapper.proxy import relay, tunnel
from wrapper.proxy.body import Upload

UPGRADE = (b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %s\r\n"
           b"Sec-WebSocket-Protocol: a, b\r\n\r\n")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Protocol: b\r\n\r\n"


def test_an_upgrade_goes_through_with_bytes_sent_early_on_both_sides(road):
    """RFC 9110 section 7.8; the sub-protocol is the service's choice (RFC 6455 section 4.2.2)."""
    def script(line):
        head = line.head()
        assert field(head, b"Upgrade") == b"odd/1" and field(head, b"Connection") == b"Upgrade"
        line.send(SWITCH % b"odd/1" + b"early")
        assert line.exactly(7) == b"hastily"
        line.send(b"late")

    line = road(script).connect().send(UPGRADE % b"odd/1" + b"hastily")
    head = line.head()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert field(head, b"Upgrade") == b"odd/1" and field(head, b"Connection") == b"Upgrade"
    assert field(head, b"Sec-WebSocket-Protocol") == b"b"
    assert line.exactly(9) == b"earlylate"
    assert line.is_at_end()


def test_what_goes_through_a_tunnel_is_counted_both_ways(road):
    def script(line):
        line.head()
        line.send(SWITCH % b"odd/1" + b"abc")
        line.is_at_end()

    made = road(script)
    line = made.connect().send(UPGRADE % b"odd/1" + b"hastily")
    head = line.head()
    assert line.exactly(3) == b"abc"
    line.close()
    ended = made.site.wait_ended()
    assert (ended.received, ended.sent) == (len(b"hastily"), len(head) + 3)


def test_a_switch_before_the_service_has_taken_the_request_is_none(road, monkeypatch):
    """All of the body has come, and the last of it is still on its way: the tunnel's first bytes would join it."""
    def stall_at_the_end(upload, data):
        yield (NEVER,) if upload._body.is_done else NEXT_TURN

    def script(line):
        line.head()
        line.send(SWITCH % b"odd/1")
        line.is_at_end()

    monkeypatch.setattr(Upload, "_pass_on", stall_at_the_end)
    monkeypatch.setattr(relay, "SWITCH_TIMEOUT", 0.1)
    body = b"Content-Length: 250000\r\n\r\n" + bytes(250_000)
    line = road(script).connect().send((UPGRADE % b"odd/1")[:-2] + body)
    assert line.head().startswith(b"HTTP/1.1 502 ")


def test_a_refused_upgrade_is_an_answer_like_others(road):
    def script(line):
        line.head()
        line.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        line.is_at_end()

    line = road(script).connect().send(UPGRADE % b"websocket")
    head, body = line.message()
    assert head.startswith(b"HTTP/1.1 403 ") and body == b"no"


def test_an_upgrade_to_h2c_is_not_passed_on(road):
    """RFC 9113 section 3.1 took it out of the registry; a tunnel of HTTP/2 would go around the wrapper's own paths."""
    def script(line):
        head = line.head()
        assert field(head, b"Upgrade") is None and field(head, b"Connection") is None
        assert field(head, b"HTTP2-Settings") is None
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        line.is_at_end()

    line = road(script).connect()
    line.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
              b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
    assert line.head().startswith(b"HTTP/1.1 200 ")


def test_half_close_is_carried_over(road):
    def script(line):
        line.head()
        line.send(SWITCH % b"odd/1")
        got = line.all()
        line.send(b"got " + got)

    line = road(script).connect().send(UPGRADE % b"odd/1")
    line.head()
    line.send(b"all")
    line.sock.shutdown(socket.SHUT_WR)
    assert line.all() == b"got all"


@pytest.mark.parametrize("who_ends", ["service", "client"])
def test_after_an_end_the_other_side_gets_a_bounded_time(road, monkeypatch, who_ends):
    """150 clients that never closed were held for ever: their kernels answer every probe (FIN_WAIT2)."""
    monkeypatch.setattr(tunnel, "END_TIMEOUT", 0.05)
    is_over = threading.Event()

    def script(line):
        line.head()
        line.send(SWITCH % b"websocket")
        if who_ends == "client":
            line.until(b"bye")
            is_over.wait(10)

    made = road(script)
    line = made.connect().send(UPGRADE % b"websocket")
    line.head()
    if who_ends == "client":
        line.send(b"bye").sock.shutdown(socket.SHUT_WR)
    assert made.site.wait_ended().status == 101
    is_over.set()
    assert line.is_at_end()


def test_a_tunnel_moves_much_both_ways_at_once(road):
    """Neither side's full buffers may keep the other direction from flowing."""
    size = 8_000_000

    def script(line):
        line.head()
        line.send(SWITCH % b"odd/1")
        while piece := line.sock.recv(65536):
            line.send(piece)

    line = road(script).connect().send(UPGRADE % b"odd/1")
    line.head()
    sender = threading.Thread(target=lambda: line.send(b"x" * size), daemon=True)
    sender.start()
    assert len(line.exactly(size)) == size


@pytest.mark.parametrize(("going", "code"), [("restart", 1012), ("shutdown", 1001)])
def test_websocket_clients_are_told_at_a_frame_boundary(road, going, code):
    half_sent, go_on = threading.Event(), threading.Event()
    at_service = []

    def script(line):
        line.head()
        line.send(SWITCH % b"websocket")
        line.send(frame(b"whole") + frame(b"cut in two")[:6])
        half_sent.set()
        assert go_on.wait(10)
        line.send(frame(b"cut in two")[6:] + frame(b"too late"))
        at_service.append(line.exactly(8))

    made = road(script)
    line = made.connect().send(UPGRADE % b"websocket")
    line.head()
    assert line.exactly(len(frame(b"whole")) + 6) and half_sent.wait(10)
    made.gate.warn(made.gate.hold("a test"), going)
    go_on.set()
    got = line.all()
    assert got.startswith(frame(b"cut in two")[6:])
    assert got.endswith(b"\x88\x02" + code.to_bytes(2, "big"))
    assert at_service[0][:2] == b"\x88\x82"
    mask = at_service[0][2:6]
    assert int.from_bytes(bytes(a ^ b for a, b in zip(at_service[0][6:], mask)), "big") == code


def test_a_flood_of_the_smallest_frames_leaves_the_others_their_turn(road):
    """The guard is what sees it: each 64 KiB of them once kept the loop for 36 ms."""
    flood = frame(b"") * 500_000

    def script(line):
        line.head()
        line.send(SWITCH % b"websocket" + flood)
        line.is_at_end()

    line = road(script).connect().send(UPGRADE % b"websocket")
    line.head()
    assert line.exactly(len(flood)) == flood


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
