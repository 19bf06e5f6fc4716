"""The client's end of a connection: bodies as they come, and slow readers."""

import socket
import threading
import time

import pytest

from wrapper import stream as stream_room
from wrapper.errors import BadRequest, RequestTimeout
from wrapper.http1 import read_request
from wrapper.stream import Body, ClientGone, Stream


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def begin(ours, data, patience=0.2):
    """The stream and body of the request that `data` begins with."""
    stream = Stream(ours, patience)
    head = read_request(data, 65536)
    stream.rest = data[head.end:]
    return stream, Body(stream, head, 65536)


LENGTH = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_body_that_came_with_its_head_needs_no_socket(ends):
    stream, body = begin(ends[0], LENGTH + b"helloGET")
    assert body.take_arrived() == b"hello" and body.is_done
    assert stream.rest == b"GET" and body.received == 8


def test_what_follows_a_request_without_body_stays(ends):
    stream, body = begin(ends[0], b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET")
    assert body.is_done and body.take_arrived() == b"" and stream.rest == b"GET"


def test_a_client_that_drips_its_body_keeps_a_seat_for_one_short_wait_in_all(ends, monkeypatch):
    _, body = begin(ends[0], LENGTH.replace(b"5", b"500"))
    clock = [0.0]

    def drip(seconds):
        clock[0] += 0.0004
        ends[1].sendall(b"x")
        return True

    monkeypatch.setattr(stream_room.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Stream, "wait_readable", lambda stream, seconds: drip(seconds))
    assert body.arrive(0.001, 65536) == b"xxx"
    assert not body.is_done and clock[0] < 0.002


@pytest.mark.parametrize(("head", "rest"), [(LENGTH, b"llo"), (CHUNKED, b"llo\r\n0\r\nX: y\r\n\r\n")])
def test_the_pieces_of_a_body_are_its_payload(ends, head, rest):
    first = b"he" if head is LENGTH else b"5\r\nhe"
    stream, body = begin(ends[0], head + first)
    ends[1].sendall(rest + b"GET")
    buffer = memoryview(bytearray(100))
    assert b"".join(bytes(piece) for piece in body.pieces(buffer)) == b"hello"
    assert body.is_done
    # Of a body with length nothing is read beyond its end; of a chunked one that cannot be helped.
    assert stream.rest == (b"" if head is LENGTH else b"GET")
    assert body.trailers == (b"" if head is LENGTH else b"X: y\r\n")


def test_a_body_that_stalls_is_told_from_one_that_ends(ends):
    _, body = begin(ends[0], LENGTH + b"he", patience=0.05)
    with pytest.raises(RequestTimeout):
        list(body.pieces())
    _, body = begin(ends[0], LENGTH + b"he")
    ends[1].close()
    with pytest.raises(ClientGone):
        list(body.pieces())


def test_a_malformed_chunk_is_a_bad_request(ends):
    _, body = begin(ends[0], CHUNKED + b"zz\r\n")
    with pytest.raises(BadRequest):
        list(body.pieces())


def test_an_upload_ends_when_the_other_side_breaks(ends):
    service, other = socket.socketpair()
    _, body = begin(ends[0], LENGTH + b"he", patience=10)
    body.other = service.fileno()
    waiter = threading.Timer(0.05, lambda: service.shutdown(socket.SHUT_RDWR))
    waiter.start()
    with pytest.raises(BrokenPipeError):
        list(body.pieces())
    service.close()
    other.close()


def test_a_body_can_be_given_a_time_to_end_however_its_bytes_drip(ends):
    _, body = begin(ends[0], CHUNKED, patience=10)
    body.end = time.monotonic() + 0.1
    is_over = threading.Event()

    def drip():
        while not is_over.wait(0.01):
            ends[1].sendall(b"1\r\na\r\n")

    dripping = threading.Thread(target=drip, daemon=True)
    dripping.start()
    with pytest.raises(RequestTimeout):
        list(body.pieces())
    assert body.is_awaited
    is_over.set()
    dripping.join(10)


def test_the_first_wait_is_announced_once(ends):
    """That is where 100 Continue goes out (RFC 9110 section 10.1.1)."""
    _, body = begin(ends[0], LENGTH)
    said = []

    def say():
        said.append(1)
        ends[1].sendall(b"hello")

    body.before_wait = say
    assert b"".join(body.pieces()) == b"hello" and said == [1]


def test_writes_wait_for_a_slow_reader_and_give_up_on_one_that_stopped(ends):
    ours, theirs = ends
    stream = Stream(ours, 0.1)
    data = b"x" * 3_000_000
    sent = stream.write_now(data)
    assert 0 < sent < len(data) and stream.write_now(data) == 0
    with pytest.raises(ClientGone):
        stream.write(data)

    def read():
        left = sent + len(data)
        while left > 0:
            left -= len(theirs.recv(65536))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    stream.write(data)
    reader.join(10)


def test_a_cut_wakes_whoever_waits(ends):
    stream = Stream(ends[0], 10)
    threading.Timer(0.05, stream.cut).start()
    assert stream.wait_readable(10)
    assert stream.read_now(10) == b""
