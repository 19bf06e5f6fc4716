"""Connections to the service: made, kept, and let go; heads and bodies of what it answers on them."""

import contextlib
import errno
import select
import socket
import struct
import threading

import pytest

from tests.loop.driving import PATIENCE, End, begin, done, settle, told
from tests.proxy.road import GET
from tests.running import free_port, wait_until
from wrapper import sockets
from wrapper.errors import BadGateway
from wrapper.http1.chunked import CHUNKS_MAX, chunk, last_chunk
from wrapper.http1.request import MAX_REMEMBERED, Malformed
from wrapper.http1.response import read_response
from wrapper.loop.loop import NEVER, Loop
from wrapper.loop.stream import TURN_SIZE, ServiceGone, Stream
from wrapper.loop.workers import Workers
from wrapper.proxy import upstream as upstream_room
from wrapper.proxy.upstream import (
    BACKLOG_PAUSE,
    CONNECT_TIMEOUT,
    HOLDS,
    KEPT_FOR,
    KEPT_MAX,
    RESPONSE_HEAD_MAX,
    UNSURE,
    ServiceResponse,
    Unreached,
    Upstream,
)
from wrapper.settings import address


class Service:
    """Listens, and takes a connection when it is told to."""

    def __init__(self, listener):
        self.listener = listener
        self.listener.settimeout(PATIENCE)
        place = listener.getsockname()
        self.address = address.unix(place) if listener.family == socket.AF_UNIX else address.tcp(*place[:2])
        self.taken = []

    def take(self):
        self.taken.append(self.listener.accept()[0])
        self.taken[-1].settimeout(PATIENCE)
        return self.taken[-1]

    def close(self):
        for each in (*self.taken, self.listener):
            each.close()


@pytest.fixture
def service():
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    made = Service(listener)
    yield made
    made.close()


@pytest.fixture
def upstream(loop, service):
    made = Upstream(service.address)
    yield made
    made.close()
    settle(loop)


def connected(loop, upstream):
    return done(loop, upstream.connect(loop))


def kept(loop, upstream, service):
    """A connection that is kept, and the service's end of it."""
    connection = connected(loop, upstream)
    told(loop, upstream.put_back, connection)
    return connection, service.take()


# Made


def test_a_connection_is_made_and_speaks_at_once(loop, upstream, service):
    connection = connected(loop, upstream)
    assert told(loop, connection.stream.send, b"hello") and service.take().recv(10) == b"hello"
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert connection.sock.gettimeout() == 0 and not connection.is_used
    assert (connection.host, connection.port) == (service.address.host, service.address.port)
    assert connection.getresponse() is connection.response
    told(loop, connection.close)
    assert service.taken[0].recv(1) == b""


def test_one_that_is_closed_twice_leaves_the_next_with_its_name_alone(loop, upstream):
    """The service ends a client's own connection, the kernel gives its port out again, and then the client leaves."""
    connection = connected(loop, upstream)
    name, end = next(iter(upstream.ends.items()))
    told(loop, connection.close)
    upstream.ends[name] = end
    told(loop, connection.close)
    assert upstream.ends == {name: end}


def test_what_does_not_listen_is_not_reached(loop, tmp_path):
    for place in (address.tcp("127.0.0.1", free_port()), address.unix(str(tmp_path / "missing"))):
        with pytest.raises(Unreached, match="cannot connect to the service"):
            connected(loop, Upstream(place))
    assert loop.links == {}, "nothing of the attempts is left"


def test_a_unix_socket_without_a_listener_is_not_reached(loop, tmp_path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "bound"))
        with pytest.raises(Unreached):
            connected(loop, Upstream(address.unix(str(tmp_path / "bound"))))


def test_one_that_has_been_reset_by_the_time_it_is_made_is_not_reached_and_leaves_nothing(loop, service, monkeypatch):
    """A service that falls with us in its listen queue; getpeername(2) says ENOTCONN then."""
    made = []

    def ended(name):
        made.append(name)
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(sockets, "host_and_port", ended)
    before = set(told(loop, lambda: set(loop.links)))
    with pytest.raises(Unreached, match="not connected"):
        connected(loop, Upstream(service.address))
    assert made and told(loop, lambda: set(loop.links)) == before
    assert service.take().recv(1) == b""


@pytest.fixture
def full(tmp_path):
    """A unix socket whose backlog is full, and those who fill it."""
    made = Service(socket.socket(socket.AF_UNIX))
    made.listener.bind(str(tmp_path / "service"))
    made.address = address.unix(str(tmp_path / "service"))
    made.listener.listen(0)
    clients = []
    with contextlib.suppress(BlockingIOError):
        while True:
            clients.append(socket.socket(socket.AF_UNIX))
            clients[-1].setblocking(False)
            clients[-1].connect(made.address.path)
    made.waiting = len(clients) - 1
    yield made
    for client in clients:
        client.close()
    made.close()


def test_a_unix_socket_whose_backlog_is_full_is_waited_for(loop, full):
    """connect(2) says EAGAIN, and there is no event for room in it."""
    answer = begin(loop, Upstream(full.address).connect(loop))[1]
    settle(loop)
    for _ in range(full.waiting + 1):
        full.take()
    connection = answer.get()
    told(loop, connection.close)


def test_a_backlog_that_stays_full_is_waited_for_only_so_long(loop, full, clock):
    answer = begin(loop, Upstream(full.address).connect(loop))[1]
    settle(loop)
    clock.pass_by(CONNECT_TIMEOUT - 1)
    assert loop.tasks
    clock.pass_by(2)
    clock.pass_by(BACKLOG_PAUSE)
    with pytest.raises(BadGateway, match="timed out"):
        answer.get()


def test_a_host_that_does_not_answer_is_waited_for_only_so_long(loop, clock, monkeypatch):
    """A SYN that is dropped: a socket that is neither connected nor refused."""
    silent, _other = socket.socketpair()
    size = fill(silent)
    monkeypatch.setattr(sockets, "begin_connect", lambda family: Silent(fileno=silent.detach()))
    answer = begin(loop, Upstream(address.tcp("127.0.0.1", 9)).connect(loop))[1]
    settle(loop)
    clock.pass_by(CONNECT_TIMEOUT + 1)
    with pytest.raises(BadGateway, match="timed out") as caught:
        answer.get()
    assert size and loop.links == {} and not isinstance(caught.value, Unreached)


def fill(sock):
    sock.setblocking(False)
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += sock.send(b"x" * 65536)
    return size


class Silent(socket.socket):
    def connect_ex(self, place):
        return upstream_room.errno.EINPROGRESS


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", ["localhost", ""])
def test_localhost_is_both_loopbacks(loop, host, name):
    """RFC 6761 section 6.3; the service listens on only one of them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    service = Service(socket.create_server((host, 0), family=family))
    upstream = Upstream(address.tcp(name, service.address.port))
    connection = connected(loop, upstream)
    assert service.take() and upstream.host == b"localhost:%d" % service.address.port
    told(loop, connection.close)
    service.close()


def test_a_name_is_looked_up_in_a_thread(loop, service, monkeypatch):
    asked = []

    def resolve(place):
        asked.append(threading.current_thread())
        return [(socket.AF_INET, ("127.0.0.1", place.port))]

    monkeypatch.setattr(sockets, "resolve", resolve)
    upstream = Upstream(address.tcp("service.test", service.address.port))
    told(loop, connected(loop, upstream).close)
    assert asked and asked[0] is not loop.thread


def test_a_name_that_is_none_is_a_bad_gateway(loop, monkeypatch):
    def resolve(place):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(sockets, "resolve", resolve)
    with pytest.raises(BadGateway, match="Name or service not known") as caught:
        connected(loop, Upstream(address.tcp("service.test", 80)))
    assert not isinstance(caught.value, Unreached)


def test_the_next_address_of_a_name_is_tried_where_one_refuses(loop, service, monkeypatch):
    places = [(socket.AF_INET, ("127.0.0.1", free_port())), (socket.AF_INET, ("127.0.0.1", service.address.port))]
    monkeypatch.setattr(sockets, "resolve", lambda place: places)
    told(loop, connected(loop, Upstream(address.tcp("service.test", 1))).close)


def test_one_that_is_interrupted_while_it_connects_leaves_nothing(loop, monkeypatch):
    silent, other = socket.socketpair()
    fill(silent)
    monkeypatch.setattr(sockets, "begin_connect", lambda family: Silent(fileno=silent.detach()))
    task, answer = begin(loop, Upstream(address.tcp("127.0.0.1", 9)).connect(loop))
    settle(loop)
    assert len(loop.links) == 1
    loop.post(task.interrupt, KeyError("cut"))
    with pytest.raises(KeyError):
        answer.get()
    assert loop.links == {}
    other.settimeout(PATIENCE)
    while other.recv(65536):
        pass
    other.close()


# Kept


def test_a_kept_connection_is_taken_again_the_latest_first(loop, upstream, service):
    first, second = (kept(loop, upstream, service)[0] for _ in range(2))
    assert upstream.idle == 2
    assert [told(loop, upstream.take_kept, loop, True) for _ in range(3)] == [second, first, None]
    assert first.is_used and upstream.idle == 0
    assert told(loop, first.stream.send, b"x") and service.taken[0].recv(1) == b"x"
    for each in (first, second):
        told(loop, each.close)


@pytest.mark.parametrize("word", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
def test_one_that_the_service_closes_or_writes_to_is_let_go_at_once(loop, upstream, service, word):
    """What was not asked for must not become an answer (RFC 9112 section 9.2)."""
    _, theirs = kept(loop, upstream, service)
    if word:
        theirs.sendall(word)
    else:
        theirs.close()
    wait_until(lambda: not upstream.idle)
    settle(loop)
    assert told(loop, upstream.take_kept, loop, True) is None
    if word:
        # Closed with bytes unread: a reset.
        with pytest.raises(ConnectionResetError):
            assert theirs.recv(1) == b""
    assert loop.links == {}


@pytest.mark.parametrize("word", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
def test_one_that_is_wanted_as_soon_as_it_is_kept_is_looked_at_first(loop, upstream, service, word):
    """What waits in a full gate takes it in the same turn, before the loop can hear what else has come on it."""
    connection = connected(loop, upstream)
    theirs = service.take()
    if word:
        theirs.sendall(word)
    else:
        theirs.shutdown(socket.SHUT_WR)
    assert select.select([connection.sock], [], [], PATIENCE)[0]

    def keep_and_take():
        upstream.put_back(connection)
        return upstream.take_kept(loop, True)

    assert told(loop, keep_and_take) is None
    assert connection.stream.link.fd == -1 and upstream.idle == 0


def test_one_that_was_kept_in_an_earlier_turn_is_taken_first(loop, upstream, service):
    """The loop has heard already what came behind its response."""
    older, newest = connected(loop, upstream), connected(loop, upstream)
    told(loop, upstream.put_back, older)

    def keep_and_take():
        upstream.put_back(newest)
        return [upstream.take_kept(loop, True) for _ in range(3)]

    assert told(loop, keep_and_take) == [older, newest, None]
    for each in (older, newest):
        told(loop, each.close)


def test_one_that_is_reset_is_let_go_too(loop, upstream, service):
    connection, theirs = kept(loop, upstream, service)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    wait_until(lambda: not upstream.idle)
    settle(loop)
    assert connection.stream.link.fd == -1


def test_one_that_was_taken_is_the_exchanges_own(loop, upstream, service):
    connection, theirs = kept(loop, upstream, service)
    assert told(loop, upstream.take_kept, loop, True) is connection
    theirs.sendall(b"an answer")
    assert select.select([connection.sock], [], [], PATIENCE)[0]
    settle(loop)
    assert told(loop, connection.stream.receive) == b"an answer"
    told(loop, upstream.discard, connection)
    assert connection.stream.link.fd >= 0, "it is not kept, so it is not let go"
    told(loop, connection.close)


def test_one_that_is_taken_before_it_has_given_way_does_so_when_it_comes_back(loop, upstream, service):
    connection, theirs = kept(loop, upstream, service)

    def take_after_the_look():
        upstream.give_way("a request that waits")
        return upstream.take_kept(loop, True)

    assert told(loop, take_after_the_look) is connection
    settle(loop)
    assert connection.stream.link.fd >= 0
    told(loop, upstream.put_back, connection)
    assert upstream.idle == 0 and theirs.recv(1) == b""
    assert told(loop, upstream.put_back, connected(loop, upstream)) is None and upstream.idle == 1, "one was asked for"


def test_one_that_nothing_needs_for_long_is_let_go_and_the_younger_ones_stay(loop, upstream, service, clock):
    _, old = kept(loop, upstream, service)
    clock.pass_by(KEPT_FOR / 2)
    kept(loop, upstream, service)
    clock.pass_by(KEPT_FOR / 2 + 1)
    assert upstream.idle == 1 and old.recv(1) == b""
    clock.pass_by(KEPT_FOR / 2)
    assert upstream.idle == 0
    assert kept(loop, upstream, service)
    clock.pass_by(KEPT_FOR - 1)
    assert upstream.idle == 1
    clock.pass_by(KEPT_FOR)
    assert upstream.idle == 0


def test_one_that_is_used_again_and_again_stays(loop, upstream, service, clock):
    connection, _ = kept(loop, upstream, service)
    for _ in range(4):
        clock.pass_by(KEPT_FOR * 0.7)
        assert told(loop, upstream.take_kept, loop, True) is connection
        told(loop, upstream.put_back, connection)
    assert upstream.idle == 1


def test_what_may_not_be_repeated_goes_only_where_connections_are_seen_to_be_held(loop, upstream, service, clock):
    """RFC 9110 section 9.2.2: on one whose end is on its way already, nobody knows what became of it."""
    connection, _ = kept(loop, upstream, service)
    assert told(loop, upstream.take_kept, loop, False) is None and upstream.idle == 1
    clock.pass_by(HOLDS)
    assert told(loop, upstream.take_kept, loop, False) is connection
    told(loop, upstream.put_back, connection)
    assert told(loop, upstream.take_kept, loop, False) is connection, "it was seen once"
    told(loop, connection.close)


def test_what_may_not_be_repeated_goes_on_none_while_the_service_reloads(loop, upstream, service, clock, monkeypatch):
    """nginx's old workers close what they hold at a HUP, and a POST that meets that is a 502."""
    monkeypatch.setattr(upstream_room, "time", clock)
    connection, _ = kept(loop, upstream, service)
    clock.pass_by(HOLDS)
    upstream.doubt_kept()
    assert told(loop, upstream.take_kept, loop, False) is None and upstream.idle == 1
    clock.pass_by(UNSURE)
    assert told(loop, upstream.take_kept, loop, False) is connection
    told(loop, connection.close)


def test_what_may_not_be_repeated_goes_on_none_that_the_service_may_be_closing_just_now(
        loop, upstream, service, clock):
    """uvicorn closes after 5 s, gunicorn after 2 s, and neither announces it."""
    _, theirs = kept(loop, upstream, service)
    clock.pass_by(5.0)
    theirs.close()
    wait_until(lambda: not upstream.idle)
    connection, _ = kept(loop, upstream, service)
    clock.pass_by(3.9)
    assert told(loop, upstream.take_kept, loop, False) is connection
    told(loop, upstream.put_back, connection)
    clock.pass_by(4.0)
    assert told(loop, upstream.take_kept, loop, False) is None
    assert told(loop, upstream.take_kept, loop, True) is connection
    told(loop, connection.close)


@pytest.mark.parametrize(("announced", "seconds"), [(b"5", 4.0), (b"1", 0.5)])
def test_a_service_that_announces_its_end_is_not_asked_in_the_last_moment_before(
        loop, upstream, service, clock, announced, seconds):
    connection = connected(loop, upstream)
    connection.response.head = read_response(
        b"HTTP/1.1 200 OK\r\nKeep-Alive: max=100, timeout=%b\r\nContent-Length: 0\r\n\r\n" % announced, 1000)
    told(loop, upstream.put_back, connection)
    clock.pass_by(seconds - 0.1)
    assert told(loop, upstream.take_kept, loop, True) is connection
    told(loop, upstream.put_back, connection)
    clock.now += seconds
    assert told(loop, upstream.take_kept, loop, True) is None
    assert service.take().recv(1) == b""


@pytest.mark.parametrize("announced", [None, b"0"])
def test_none_is_kept_where_that_is_not_wanted(loop, service, announced):
    upstream = Upstream(service.address, KEPT_FOR if announced else 0.0)
    connection = connected(loop, upstream)
    connection.response.head = read_response(
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=%b\r\n\r\n" % (announced or b"60"), 1000)
    told(loop, upstream.put_back, connection)
    assert upstream.idle == 0 and service.take().recv(1) == b"" and not loop.tasks


def test_no_more_than_so_many_are_kept(loop, upstream, service, monkeypatch):
    monkeypatch.setattr(upstream_room, "KEPT_MAX", 2)
    assert KEPT_MAX > 2
    connections = [kept(loop, upstream, service)[0] for _ in range(3)]
    assert upstream.idle == 2 and connections[2].stream.link.fd == -1
    assert service.taken[2].recv(1) == b""


# The end


def test_a_close_from_another_thread_closes_what_is_kept_and_what_comes_back(loop, upstream, service):
    busy = connected(loop, upstream)
    _, theirs = kept(loop, upstream, service)
    upstream.close()
    settle(loop)
    assert upstream.idle == 0
    taken = service.take()
    assert {each.recv(1) for each in (taken, theirs) if each.getpeername() != busy.sock.getsockname()} == {b""}
    told(loop, upstream.put_back, busy)
    assert upstream.idle == 0 and busy.stream.link.fd == -1


def test_a_close_that_meets_a_taking_leaves_what_was_taken(loop, upstream, service):
    connection, theirs = kept(loop, upstream, service)

    def take_behind_the_close():
        thread = threading.Thread(target=upstream.close, daemon=True)
        thread.start()
        thread.join(PATIENCE)  # its posts come after us
        return upstream.take_kept(loop, True)

    assert told(loop, take_behind_the_close) is connection
    settle(loop)
    assert told(loop, connection.stream.send, b"x") and theirs.recv(1) == b"x"
    told(loop, connection.close)


def test_each_loop_keeps_its_own(loop, upstream, service):
    other = Loop("another test's port", Workers("a test's worker", 1))
    other.start()
    mine, _ = kept(loop, upstream, service)
    theirs, _ = kept(other, upstream, service)
    assert upstream.idle == 2
    assert told(loop, upstream.take_kept, loop, True) is mine and told(loop, upstream.take_kept, loop, True) is None
    upstream.close()
    settle(other)
    assert theirs.stream.link.fd == -1 and mine.stream.link.fd >= 0
    told(loop, mine.close)
    other.stop()


@pytest.mark.parametrize("seconds", [KEPT_FOR, 100 * KEPT_FOR])
def test_the_task_that_lets_go_ends_with_the_upstream(loop, service, clock, seconds):
    upstream = Upstream(service.address, seconds)
    kept(loop, upstream, service)
    settle(loop)
    assert len(loop.tasks) == 1
    upstream.close()
    clock.pass_by(KEPT_FOR + 1)
    assert not loop.tasks


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OPEN = b"HTTP/1.1 200 OK\r\n\r\n"


class Answering(End):
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
def answering(loop):
    made = Answering(loop)
    yield made
    made.close()


# Heads


def test_a_head_is_read_however_it_comes(answering):
    assert told(answering.loop, answering.answer.next_head, b"GET") is None and not answering.answer.has_begun
    answer = begin(answering.loop, answering._head(b"GET"))[1]
    for at in range(len(LENGTH)):
        answering.theirs.sendall(LENGTH[at:at + 1])
        settle(answering.loop)
    head = answer.get()
    assert (head.status, head.length, head.is_chunked) == (200, 5, False)
    assert answering.answer.has_begun and not answering.answer.is_done


def test_interim_answers_come_before_the_final_one(answering):
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    answering.theirs.sendall(interim + LENGTH + b"hello")
    assert [answering.head().status for _ in range(3)] == [100, 103, 200]
    assert answering.body() == b"hello" and answering.answer.can_be_followed()


def test_the_same_head_again_is_known_and_judged_for_its_own_request(answering):
    assert answering.exchange(LENGTH + b"hello")
    first = answering.answer.head
    assert answering.exchange(LENGTH + b"world") and answering.answer.head is first
    assert not answering.exchange(LENGTH, b"HEAD"), "it has another meaning as the answer to a HEAD"
    assert answering.answer.head is not first
    assert answering.exchange(LENGTH + b"again")


def test_a_head_that_only_begins_like_the_one_before_is_another(answering):
    assert answering.exchange(b"HTTP/1.1 204 No\r\n\r\n")
    assert answering.exchange(b"HTTP/1.1 204 No\r\nX: y\r\n\r\n")
    assert b"X: y" in answering.answer.head.fields


def test_a_known_head_that_comes_in_pieces_does_not_hide_the_end_of_the_next(answering):
    long = LENGTH[:-2] + b"X: yyy\r\n\r\n"
    assert answering.exchange(long + b"hello")
    answer = begin(answering.loop, answering._head(b"GET"))[1]
    answering.theirs.sendall(long[:-1])
    settle(answering.loop)
    answering.theirs.sendall(long[-1:] + b"world")
    assert answer.get().status == 200 and answering.body() == b"world"
    assert answering.exchange(LENGTH.replace(b"5", b"4") + b"\r\n\r\n")


def test_a_long_head_is_not_remembered(answering):
    head = LENGTH[:-2] + b"X: " + b"y" * MAX_REMEMBERED + b"\r\n\r\n"
    assert answering.exchange(head + b"hello")
    first = answering.answer.head
    assert answering.exchange(head + b"hello") and answering.answer.head is not first


@pytest.mark.parametrize("head", [
    b"garbage\r\n\r\n", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: \0"])
def test_what_is_not_http_is_malformed(answering, head):
    with pytest.raises(Malformed):
        answering.head(head)


def test_a_head_without_end_is_malformed(answering):
    def send():
        answering.theirs.setblocking(False)
        left = memoryview(b"A: b\r\n" * (RESPONSE_HEAD_MAX // 6))
        while left:
            try:
                left = left[answering.theirs.send(left):]
            except BlockingIOError:
                yield (answering.loop.now + 0.001,)

    answering.theirs.sendall(b"HTTP/1.1 200 OK\r\n")
    begin(answering.loop, send())
    with pytest.raises(Malformed, match="too large"):
        done(answering.loop, answering._head(b"GET"))


def test_an_end_before_or_within_a_head_is_a_service_that_is_gone(answering):
    answering.theirs.sendall(LENGTH[:-3])
    answering.theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ServiceGone):
        done(answering.loop, answering._head(b"GET"))


# Bodies


@pytest.mark.parametrize(("data", "body"), [
    (LENGTH + b"hello", b"hello"), (CHUNKED + chunk(b"hel") + chunk(b"lo") + last_chunk(b"X: y\r\n"), b"hello"),
    (LENGTH.replace(b"5", b"0"), b""), (CHUNKED + last_chunk(), b"")])
@pytest.mark.parametrize("is_at_once", [True, False])
def test_a_body_ends_where_its_framing_says(answering, data, body, is_at_once):
    begin_of_body = data.index(b"\r\n\r\n") + 4
    answering.head(data if is_at_once else data[:begin_of_body])
    if not is_at_once:
        answering.theirs.sendall(data[begin_of_body:])
    assert answering.body() == body and answering.answer.is_done
    assert answering.answer.trailers == (b"X: y\r\n" if b"X: y" in data else b"")
    assert answering.answer.can_be_followed()


def test_a_body_without_framing_ends_with_the_connection(answering):
    answering.head(OPEN + b"hel")
    answering.theirs.sendall(b"lo")
    answering.theirs.shutdown(socket.SHUT_WR)
    assert answering.body() == b"hello" and not answering.answer.can_be_followed()


@pytest.mark.parametrize("data", [LENGTH + b"hell", CHUNKED + chunk(b"hello"), CHUNKED + b"5\r\nhell"])
def test_a_body_that_is_cut_short_does_not_look_whole(answering, data):
    answering.head(data)
    answering.theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ServiceGone, match="middle"):
        answering.body()
    assert not answering.answer.is_done and not answering.answer.can_be_followed()


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


def test_a_malformed_chunk_is_malformed(answering):
    answering.head(CHUNKED)
    answering.theirs.sendall(b"zz\r\n")
    with pytest.raises(Malformed):
        answering.body()


def test_very_small_chunks_are_taken_so_many_at_a_time(answering):
    """Not alike, since runs of those are taken at once."""
    count = 3 * CHUNKS_MAX + 7
    answering.head(CHUNKED + (chunk(b"x") + chunk(b"yy")) * count + last_chunk())
    pieces = [bytes(told(answering.loop, answering.answer.take_arrived))]
    while not answering.answer.is_done:
        pieces.append(bytes(told(answering.loop, answering.answer.read_some, answering.loop.buffer)))
    assert max(map(len, pieces)) == CHUNKS_MAX * 3 // 2 and sum(map(len, pieces)) == 3 * count
    assert answering.answer.can_be_followed()


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
    # These have none, and many a answering sends one all the same, late: it would be the next request's answer.
    (LENGTH, b"HEAD", False), (CHUNKED, b"HEAD", False),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"GET", False),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"GET", False),
    (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"GET", False),
    # The answering says that it will close.
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", b"GET", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", b"GET", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", b"GET", True),
    # More has come than was asked for.
    (LENGTH + b"hello and more", b"GET", False), (CHUNKED + last_chunk() + b"HTTP/1.1 200", b"GET", False),
    (b"HTTP/1.1 204 No Content\r\n\r\nhello", b"GET", False),
])
def test_another_answer_may_follow_only_where_it_can_be_told_from_this_one(answering, data, method, can_be_followed):
    for _ in range(2):  # as one that is judged, and as one that is known
        answering.stream.rest = b""
        assert answering.exchange(data, method) is can_be_followed


def test_nothing_may_follow_before_the_body_is_over(answering):
    answering.head(LENGTH + b"hell")
    assert not answering.answer.can_be_followed()
    answering.theirs.sendall(b"o")
    assert answering.body() == b"hello" and answering.answer.can_be_followed()
