"""What the service answers on one connection: heads, bodies, and whether another answer may follow."""

import socket
import struct

import pytest

from tests.loop.driving import End, begin, done, settle, told
from tests.proxy.road import GET
from tests.running import wait_until
from wrapper.http1.chunked import CHUNKS_MAX, chunk, last_chunk
from wrapper.http1.request import MAX_REMEMBERED, Malformed
from wrapper.loop.loop import NEVER
from wrapper.loop.stream import TURN_SIZE, ServiceGone, Stream
from wrapper.proxy.response import RESPONSE_HEAD_MAX, ServiceResponse

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OPEN = b"HTTP/1.1 200 OK\r\n\r\n"


class Service(End):
    def __init__(self, loop):
        super().__init__(loop, ServiceGone)
        self.answer = ServiceResponse(self.stream)

    def head(self, data=b"", method=b"GET"):
        """The next head, once `data` has been sent."""
        self.theirs.sendall(data)
        return done(self.loop, self._head(method))

    def _head(self, method):
        while (head := self.answer.next_head(method)) is None:
            if not self.answer.receive():
                yield NEVER, self.stream.link.readable
        return head

    def body(self):
        """The rest of the body."""
        return done(self.loop, self._body())

    def _body(self):
        pieces = [bytes(self.answer.take_arrived())]
        while not self.answer.is_done:
            payload = self.answer.read_some(self.loop.buffer[:65536])
            if payload is None:
                yield NEVER, self.stream.link.readable
            else:
                pieces.append(bytes(payload))
        return b"".join(pieces)

    def exchange(self, data, method=b"GET"):
        """Read one answer whole; True where another may follow."""
        self.head(data, method)
        self.body()
        return self.answer.can_be_followed()


@pytest.fixture
def service(loop):
    made = Service(loop)
    yield made
    made.close()


# Heads


def test_a_head_is_read_however_it_comes(service):
    assert told(service.loop, service.answer.next_head, b"GET") is None and not service.answer.has_begun
    answer = begin(service.loop, service._head(b"GET"))[1]
    for at in range(len(LENGTH)):
        service.theirs.sendall(LENGTH[at:at + 1])
        settle(service.loop)
    head = answer.get()
    assert (head.status, head.length, head.is_chunked) == (200, 5, False)
    assert service.answer.has_begun and not service.answer.is_done


def test_interim_answers_come_before_the_final_one(service):
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    service.theirs.sendall(interim + LENGTH + b"hello")
    assert [service.head().status for _ in range(3)] == [100, 103, 200]
    assert service.body() == b"hello" and service.answer.can_be_followed()


def test_the_same_head_again_is_known_and_judged_for_its_own_request(service):
    assert service.exchange(LENGTH + b"hello")
    first = service.answer.head
    assert service.exchange(LENGTH + b"world") and service.answer.head is first
    assert not service.exchange(LENGTH, b"HEAD"), "it has another meaning as the answer to a HEAD"
    assert service.answer.head is not first
    assert service.exchange(LENGTH + b"again")


def test_a_head_that_only_begins_like_the_one_before_is_another(service):
    assert service.exchange(b"HTTP/1.1 204 No\r\n\r\n")
    assert service.exchange(b"HTTP/1.1 204 No\r\nX: y\r\n\r\n")
    assert b"X: y" in service.answer.head.fields


def test_a_long_head_is_not_remembered(service):
    head = LENGTH[:-2] + b"X: " + b"y" * MAX_REMEMBERED + b"\r\n\r\n"
    assert service.exchange(head + b"hello")
    first = service.answer.head
    assert service.exchange(head + b"hello") and service.answer.head is not first


@pytest.mark.parametrize("head", [
    b"garbage\r\n\r\n", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: \0"])
def test_what_is_not_http_is_malformed(service, head):
    with pytest.raises(Malformed):
        service.head(head)


def test_a_head_without_end_is_malformed(service):
    def send():
        service.theirs.setblocking(False)
        left = memoryview(b"A: b\r\n" * (RESPONSE_HEAD_MAX // 6))
        while left:
            try:
                left = left[service.theirs.send(left):]
            except BlockingIOError:
                yield (service.loop.now + 0.001,)

    service.theirs.sendall(b"HTTP/1.1 200 OK\r\n")
    begin(service.loop, send())
    with pytest.raises(Malformed, match="too large"):
        done(service.loop, service._head(b"GET"))


def test_an_end_before_or_within_a_head_is_a_service_that_is_gone(service):
    service.theirs.sendall(LENGTH[:-3])
    service.theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ServiceGone):
        done(service.loop, service._head(b"GET"))


# Bodies


@pytest.mark.parametrize(("data", "body"), [
    (LENGTH + b"hello", b"hello"), (CHUNKED + chunk(b"hel") + chunk(b"lo") + last_chunk(b"X: y\r\n"), b"hello"),
    (LENGTH.replace(b"5", b"0"), b""), (CHUNKED + last_chunk(), b"")])
@pytest.mark.parametrize("is_at_once", [True, False])
def test_a_body_ends_where_its_framing_says(service, data, body, is_at_once):
    begin_of_body = data.index(b"\r\n\r\n") + 4
    service.head(data if is_at_once else data[:begin_of_body])
    if not is_at_once:
        service.theirs.sendall(data[begin_of_body:])
    assert service.body() == body and service.answer.is_done
    assert service.answer.trailers == (b"X: y\r\n" if b"X: y" in data else b"")
    assert service.answer.can_be_followed()


def test_a_body_without_framing_ends_with_the_connection(service):
    service.head(OPEN + b"hel")
    service.theirs.sendall(b"lo")
    service.theirs.shutdown(socket.SHUT_WR)
    assert service.body() == b"hello" and not service.answer.can_be_followed()


@pytest.mark.parametrize("data", [LENGTH + b"hell", CHUNKED + chunk(b"hello"), CHUNKED + b"5\r\nhell"])
def test_a_body_that_is_cut_short_does_not_look_whole(service, data):
    service.head(data)
    service.theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ServiceGone, match="middle"):
        service.body()
    assert not service.answer.is_done and not service.answer.can_be_followed()


def test_a_reset_that_only_the_upload_has_heard_of_is_no_end(loop):
    """The kernel tells it once, to whichever call comes first; the next one to read sees an end (tcp(7), SO_ERROR)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        stream = told(loop, Stream, listener.accept()[0], loop, ServiceGone)
    answer = ServiceResponse(stream)
    theirs.sendall(OPEN + b"hel")
    wait_until(lambda: told(loop, answer.receive))
    told(loop, answer.next_head, b"GET")
    assert told(loop, answer.take_arrived) == b"hel"
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    with pytest.raises(ServiceGone, match="reset"):
        told(loop, stream.send, b"more of the request")
    with pytest.raises(ServiceGone, match="middle"):
        told(loop, answer.read_some, loop.buffer)
    told(loop, stream.close)


def test_a_malformed_chunk_is_malformed(service):
    service.head(CHUNKED)
    service.theirs.sendall(b"zz\r\n")
    with pytest.raises(Malformed):
        service.body()


def test_very_small_chunks_are_taken_so_many_at_a_time(service):
    count = 3 * CHUNKS_MAX + 7
    service.head(CHUNKED + chunk(b"x") * count + last_chunk())
    pieces = [bytes(told(service.loop, service.answer.take_arrived))]
    while not service.answer.is_done:
        pieces.append(bytes(told(service.loop, service.answer.read_some, service.loop.buffer)))
    assert max(map(len, pieces)) == CHUNKS_MAX and sum(map(len, pieces)) == count
    assert service.answer.can_be_followed()


def test_the_smallest_of_chunks_reach_the_client_and_leave_the_others_their_turn(road):
    """The guard is what sees it: 1 MiB of them would keep the loop for half a second."""
    count = TURN_SIZE // 6

    def script(line):
        line.head()
        line.send(CHUNKED + chunk(b"x") * count + last_chunk())
        line.is_at_end()

    line = road(script).connect().send(GET)
    line.head()
    got = 0
    while size := int(line.until(b"\r\n"), 16):
        got += size
        assert line.exactly(size + 2) == b"x" * size + b"\r\n"
    assert got == count


# What follows


@pytest.mark.parametrize(("data", "method", "can_be_followed"), [
    (LENGTH + b"hello", b"GET", True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET", True),
    (b"HTTP/1.1 304 Not Modified\r\n\r\n", b"GET", True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n", b"GET", True),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HEAD", True),
    (b"HTTP/1.1 200 OK\r\n\r\n", b"HEAD", True),
    # These have none, and many a service sends one all the same, late: it would be the next request's answer.
    (LENGTH, b"HEAD", False), (CHUNKED, b"HEAD", False),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"GET", False),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"GET", False),
    (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"GET", False),
    # The service says that it will close.
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"GET", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", b"GET", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", b"GET", True),
    # More has come than was asked for.
    (LENGTH + b"hello and more", b"GET", False), (CHUNKED + last_chunk() + b"HTTP/1.1 200", b"GET", False),
    (b"HTTP/1.1 204 No Content\r\n\r\nhello", b"GET", False),
])
def test_another_answer_may_follow_only_where_it_can_be_told_from_this_one(service, data, method, can_be_followed):
    for _ in range(2):  # as one that is judged, and as one that is known
        service.stream.rest = b""
        assert service.exchange(data, method) is can_be_followed


def test_nothing_may_follow_before_the_body_is_over(service):
    service.head(LENGTH + b"hell")
    assert not service.answer.can_be_followed()
    service.theirs.sendall(b"o")
    assert service.body() == b"hello" and service.answer.can_be_followed()
