"""Connections to the service: made, kept, and let go."""

import contextlib
import errno
import select
import socket
import threading

import pytest

from tests.loop.driving import PATIENCE, begin, done, settle, told
from tests.running import free_port, wait_until
from wrapper import sockets
from wrapper.settings import address
from wrapper.http1.response import read_response
from wrapper.errors import BadGateway
from wrapper.loop.loop import Loop
from wrapper.loop.workers import Workers
from wrapper.proxy import upstream as upstream_room
from wrapper.proxy.upstream import BACKLOG_PAUSE, CONNECT_TIMEOUT, HOLDS, KEPT_FOR, KEPT_MAX, Unreached, Upstream


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
