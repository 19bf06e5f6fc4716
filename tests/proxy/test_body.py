"""The body of one request as it comes, and on its way to the service."""

import contextlib
import socket

import pytest

from tests.loop.driving import PATIENCE, End, begin, done, settle, told
from tests.running import wait_until
from wrapper.errors import BadRequest, RequestTimeout
from wrapper.http1.chunked import chunk
from wrapper.http1.request import read_request
from wrapper.loop.loop import NEVER, NEXT_TURN
from wrapper.loop.stream import TURN_SIZE, ClientGone, ServiceGone
from wrapper.proxy.body import RequestBody, Upload

LENGTH = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
TRAILERS = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: X-Hop\r\n\r\n")
MUCH = 5 * 1024 * 1024  # more than the buffers of a socket take


class Client(End):
    """The request that `data` begins with, and its client's end of the connection."""

    def __init__(self, loop, data, patience=30.0):
        super().__init__(loop, ClientGone)
        self.head = read_request(data, 65536)
        self.stream.rest = data[self.head.end:]
        self.body = RequestBody(self.stream, self.head, 65536, patience)

    def read_all(self):
        pieces = []
        while payload := (yield from self.body.read(self.loop.buffer)):
            pieces.append(bytes(payload))
            yield NEXT_TURN
        return b"".join(pieces)


@pytest.fixture
def client(loop):
    made = []

    def make(data, patience=30.0):
        made.append(Client(loop, data, patience))
        return made[-1]

    yield make
    for each in made:
        each.close()


# What has come already


def test_a_body_that_came_with_its_head_needs_no_socket(client):
    made = client(LENGTH + b"helloGET")
    assert made.body.take_arrived() == b"hello" and made.body.is_done
    assert made.stream.rest == b"GET" and made.body.received == 8


def test_what_follows_a_request_without_body_stays(client):
    made = client(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET")
    assert made.body.is_done and made.body.take_arrived() == b"" and made.stream.rest == b"GET"
    assert done(made.loop, made.read_all()) == b""
    assert made.stream.rest == b"GET"


# As it comes


@pytest.mark.parametrize(("head", "first", "rest"), [
    (LENGTH, b"he", b"llo"), (CHUNKED, b"5\r\nhe", b"llo\r\n0\r\nX: y\r\n\r\n"), (LENGTH, b"", b"hello"),
    (CHUNKED, b"", b"1\r\nh\r\n4;x=y\r\nello\r\n0\r\nX: y\r\n\r\n")])
def test_the_pieces_of_a_body_are_its_payload(client, head, first, rest):
    made = client(head + first)
    answer = made.begin(made.read_all())
    made.theirs.sendall(rest + b"GET")
    assert answer.get() == b"hello" and made.body.is_done
    # Of a body with length nothing is read beyond its end; of a chunked one that cannot be helped.
    assert made.stream.rest == (b"" if head is LENGTH else b"GET")
    assert made.body.trailers == (b"" if head is LENGTH else b"X: y\r\n")


def test_a_body_that_stalls_is_told_from_one_that_ends(client, clock):
    made = client(LENGTH + b"he", patience=10)
    answer = made.begin(made.read_all())
    clock.pass_by(9)
    made.theirs.sendall(b"l")
    settle(made.loop)
    clock.pass_by(9)
    assert not made.body.is_done and made.body.is_awaited
    clock.pass_by(2)
    with pytest.raises(RequestTimeout):
        answer.get()
    made = client(LENGTH + b"he")
    made.theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ClientGone):
        done(made.loop, made.read_all())


def test_a_body_can_be_given_a_time_to_end_however_its_bytes_drip(client, clock):
    made = client(CHUNKED, patience=10)
    made.body.end = clock.now + 15
    answer = made.begin(made.read_all())
    for _ in range(2):
        clock.pass_by(7)
        made.theirs.sendall(b"1\r\na\r\n")
        settle(made.loop)
    assert made.body.received == 12
    clock.pass_by(2)
    with pytest.raises(RequestTimeout):
        answer.get()


@pytest.mark.parametrize("rest", [b"zz\r\n", b"1\r\nab", b"-1\r\n"])
def test_a_malformed_chunk_is_a_bad_request(client, rest):
    with pytest.raises(BadRequest):
        client(CHUNKED + rest).body.take_arrived()
    made = client(CHUNKED)
    made.theirs.sendall(rest)
    with pytest.raises(BadRequest):
        done(made.loop, made.read_all())


def test_the_first_wait_is_announced_once(client):
    """That is where 100 Continue goes out (RFC 9110 section 10.1.1)."""
    made, said = client(LENGTH), []
    made.body.before_wait = lambda: said.append(1)
    answer = made.begin(made.read_all())
    assert said == [1]
    made.theirs.sendall(b"he")
    settle(made.loop)
    made.theirs.sendall(b"llo")
    assert answer.get() == b"hello" and said == [1]


def test_what_needs_no_wait_is_not_announced(client):
    made, said = client(LENGTH + b"hello"), []
    made.body.before_wait = lambda: said.append(1)
    assert done(made.loop, made.read_all()) == b"hello" and said == []


# What comes within a time


def test_a_client_that_drips_its_body_is_waited_for_once_in_all(client, clock):
    made = client(LENGTH.replace(b"5", b"500") + b"a")
    answer = made.begin(made.body.read_within(1.0, 65536))
    for _ in range(2):
        clock.pass_by(0.4)
        made.theirs.sendall(b"x")
        settle(made.loop)
    clock.pass_by(0.4)
    assert answer.get() == b"axx" and not made.body.is_done and made.body.received == 3


def test_no_more_than_about_so_much_is_awaited(client):
    made = client(LENGTH.replace(b"5", b"300000"))
    sending = made.begin(upload_all(made, b"x" * 150_000))
    got = done(made.loop, made.body.read_within(PATIENCE, 100_000))
    assert 100_000 <= len(got) <= 150_000 and not made.body.is_done
    sending.get()


def upload_all(made, data):
    """Send from the client's side, on the loop, and leave the others their turn."""
    made.theirs.setblocking(False)
    at = 0
    while at < len(data):
        try:
            at += made.theirs.send(data[at:at + TURN_SIZE])
            yield NEXT_TURN
        except BlockingIOError:
            yield (made.loop.now + 0.001,)


def test_a_whole_body_is_not_waited_for_any_longer(client):
    made = client(CHUNKED + b"5\r\nhe")
    made.theirs.sendall(b"llo\r\n0\r\n\r\nGET")
    assert done(made.loop, made.body.read_within(PATIENCE, 65536)) == b"hello"
    assert made.body.is_done and made.stream.rest == b"GET"


def test_a_client_that_leaves_within_that_time_is_gone(client):
    made = client(LENGTH + b"he")
    made.theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ClientGone):
        done(made.loop, made.body.read_within(PATIENCE, 65536))


# On its way to the service


@pytest.fixture
def service(loop):
    made = End(loop, ServiceGone)
    yield made
    made.close()


def upload(made, service):
    return told(made.loop, Upload, made.body, service.stream, made.head)


def ended(upload):
    yield NEVER, upload.task.ended


def test_an_upload_goes_to_the_service_as_it_was_framed(client, service):
    made = client(LENGTH + b"he")
    sent = upload(made, service)
    assert service.take(2) == b"he" and not sent.is_over
    made.theirs.sendall(b"llo")
    assert service.take(3) == b"llo"
    done(made.loop, ended(sent))
    assert sent.is_over and sent.error is None and made.body.is_done
    made = client(TRAILERS + b"2\r\nhe\r\n")
    sent = upload(made, service)
    assert service.take(7) == b"2\r\nhe\r\n"
    made.theirs.sendall(b"3\r\nllo\r\n0\r\nX-Hop: z\r\nX: y\r\n\r\n")
    rest = b"3\r\nllo\r\n0\r\nX: y\r\n\r\n"
    assert service.take(len(rest)) == rest
    done(made.loop, ended(sent))
    assert sent.error is None


def test_a_service_that_takes_nothing_holds_its_client_up(client, service):
    """What the service does not take is not read: it would pile up here."""
    made = client(LENGTH.replace(b"5", b"%d" % MUCH))
    sent = upload(made, service)
    begin(made.loop, upload_all(made, b"x" * MUCH))
    settle(made.loop)
    while service.stream.unsent == b"":
        settle(made.loop)
    settle(made.loop)
    assert made.body.received < MUCH and len(service.stream.unsent) <= TURN_SIZE
    assert service.take(MUCH) == b"x" * MUCH
    done(made.loop, ended(sent))
    assert sent.error is None


@pytest.mark.parametrize(("rest", "kind"), [(b"zz\r\n", BadRequest), (None, ClientGone)])
def test_an_upload_that_breaks_never_looks_whole(client, service, rest, kind):
    made = client(CHUNKED + b"2\r\nhe\r\n")
    sent = upload(made, service)
    if rest is None:
        made.theirs.shutdown(socket.SHUT_WR)
    else:
        made.theirs.sendall(rest)
    done(made.loop, ended(sent))
    assert isinstance(sent.error, kind)
    told(made.loop, service.stream.finish_writing)
    assert service.take(7) == b"2\r\nhe\r\n" and service.theirs.recv(9) == b""


@pytest.fixture
def stuck(client, service):
    """An upload of which the service takes nothing any more."""
    made = client(LENGTH.replace(b"5", b"%d" % MUCH))
    sent = upload(made, service)
    made.theirs.setblocking(False)
    while service.stream.unsent == b"":
        with contextlib.suppress(BlockingIOError):
            made.theirs.send(b"x" * TURN_SIZE)
        settle(made.loop)
    return made, sent


def test_an_upload_ends_when_the_client_breaks_though_the_service_takes_nothing(stuck):
    made, sent = stuck
    made.theirs.close()
    done(made.loop, ended(sent))
    assert isinstance(sent.error, ClientGone)


def test_an_upload_goes_on_when_the_client_half_closes_which_may_have_sent_all(stuck, service):
    made, sent = stuck
    made.theirs.shutdown(socket.SHUT_WR)
    settle(made.loop)
    assert not sent.is_over
    received = made.body.received
    service.theirs.setblocking(False)

    def takes_all():
        with contextlib.suppress(BlockingIOError):
            while service.theirs.recv(TURN_SIZE):
                pass
        return sent.is_over

    wait_until(takes_all)
    assert isinstance(sent.error, ClientGone) and made.body.received > received


def test_an_upload_ends_when_the_service_breaks(client, service):
    made = client(LENGTH.replace(b"5", b"%d" % MUCH))
    sent = upload(made, service)
    service.theirs.close()
    begin(made.loop, upload_all(made, b"x" * 1000))
    done(made.loop, ended(sent))
    assert isinstance(sent.error, ServiceGone) and not made.body.is_done


@pytest.mark.parametrize("is_stuck", [False, True])
def test_an_upload_can_be_stopped_where_it_reads_and_where_it_writes(client, service, is_stuck):
    made = client(LENGTH.replace(b"5", b"%d" % MUCH))
    sent = upload(made, service)
    if is_stuck:
        begin(made.loop, upload_all(made, b"x" * MUCH))
        while service.stream.unsent == b"":
            settle(made.loop)
    told(made.loop, sent.stop)
    assert sent.is_over and sent.error is None and not made.body.is_done
    told(made.loop, sent.stop)


# Its share of the loop


def test_a_body_in_the_smallest_of_chunks_leaves_the_others_their_turn(client, service):
    """1 MiB of them would keep the loop for 0.7 s: the guard is what sees it."""
    made = client(CHUNKED)
    data = chunk(b"x") * (TURN_SIZE // 6)
    sent = upload(made, service)
    begin(made.loop, upload_all(made, data + b"0\r\n\r\n"))
    got = b""
    while not got.endswith(b"0\r\n\r\n"):
        got += service.theirs.recv(65536)
    done(made.loop, ended(sent))
    assert sent.error is None and made.body.is_done
