"""TLS towards the client: both ends in this process, both versions that are spoken. RFC 8446, RFC 5246."""

import contextlib
import os
import socket
import ssl
import threading

import pytest

from tests.front.conftest import make_certificate
from tests.loop.driving import PATIENCE, begin, done, settle, told
from tests.proxy.road import GET, Line, Service, field
from tests.running import wait_until
from wrapper import sockets
from wrapper.errors import CannotStart
from wrapper.front.secure import Certificate, SecureStream
from wrapper.loop.loop import NEVER, NEXT_TURN
from wrapper.loop.stream import TURN_SIZE, ClientGone

MUCH = bytes(range(256)) * 20_000  # more than all buffers on the way take


@pytest.fixture
def proof(certificate):
    return Certificate(str(certificate / "cert"), str(certificate / "key"))


class Client:
    """OpenSSL between two buffers, so that a test can say when which bytes go."""

    def __init__(self, sock, version):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = version
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)

    def attempt(self, step, *words):
        while True:
            try:
                return step(*words)
            except ssl.SSLWantReadError:
                if self.outgoing.pending:
                    self.sock.sendall(self.outgoing.read())
                data = self.sock.recv(65536)
                self.incoming.write(data) if data else self.incoming.write_eof()

    def shake_hands(self):
        self.attempt(self.tls.do_handshake)
        self.sock.sendall(self.outgoing.read())

    def encrypted(self, data):
        for at in range(0, len(data), 16384):
            self.tls.write(data[at:at + 16384])
        return self.outgoing.read()

    def send(self, data):
        self.sock.sendall(self.encrypted(data))

    def read(self, count):
        data = b""
        while len(data) < count:
            piece = self.attempt(self.tls.read, count - len(data))
            assert piece, "it ended early"
            data += piece
        return data

    def read_to(self, mark):
        data = b""
        while not data.endswith(mark):
            data += self.read(1)
        return data

    def say_goodbye(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.sock.sendall(self.outgoing.read())


class Ends:
    """`ours`, a SecureStream on the loop, and `theirs`."""

    def __init__(self, loop, proof, version):
        first, second = socket.socketpair()
        self.loop = loop
        self.ours = told(loop, SecureStream, first, loop, ClientGone, proof.context)
        self.theirs = Client(second, version)
        answer = begin(loop, shake_hands(self.ours))[1]
        self.theirs.shake_hands()
        answer.get()

    def tell(self, call, *arguments):
        return told(self.loop, call, *arguments)

    def read(self, count):
        """Exactly `count` bytes from the client, or what came before the end."""
        return done(self.loop, read(self.ours, count))


def shake_hands(stream):
    while not stream.shake_hands():
        yield NEVER, stream.link.readable


def read(stream, count):
    data = b""
    while len(data) < count:
        piece = stream.receive(count - len(data))
        if piece is None:
            yield NEVER, stream.link.readable
        elif not piece:
            break
        else:
            data += piece
            yield NEXT_TURN
    return data


def send(stream, data):
    """As much in a turn as the loop's tasks do."""
    for at in range(0, len(data), TURN_SIZE):
        if not stream.send(memoryview(data)[at:at + TURN_SIZE]):
            yield from stream.flush(PATIENCE)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
def ends(loop, proof, request):
    made = Ends(loop, proof, request.param)
    yield made
    told(loop, made.ours.close)
    made.theirs.sock.close()


def test_our_goodbye_loses_nothing_of_what_the_client_sends(ends):
    """RFC 8446 section 6.1: one side's close_notify has no effect on the other's data."""
    whole, cut = ends.theirs.encrypted(b"before, on its way"), ends.theirs.encrypted(b", in two")
    ends.theirs.sock.sendall(whole + cut[:9])
    assert ends.read(6) == b"before"
    ends.tell(ends.ours.finish_writing)
    assert ends.theirs.attempt(ends.theirs.tls.read, 10) == b""
    ends.theirs.sock.sendall(cut[9:])
    for number in range(3):
        ends.theirs.send(b", after %d" % number)
    assert ends.read(47) == b", on its way, in two, after 0, after 1, after 2"
    ends.theirs.say_goodbye()
    assert ends.read(1) == b""


def test_an_end_that_came_before_our_goodbye_is_still_seen(ends):
    ends.theirs.send(b"all")
    ends.theirs.say_goodbye()
    assert ends.read(1) == b"a"
    ends.tell(ends.ours.finish_writing)
    assert ends.ours.has_unseen()
    assert ends.read(10) == b"ll"
    assert ends.ours.has_unseen() and ends.tell(ends.ours.receive) == b""


def test_a_reset_says_no_goodbye(ends):
    done(ends.loop, send(ends.ours, b"x"))
    assert ends.theirs.read(1) == b"x"
    ends.tell(ends.ours.reset)
    ends.tell(ends.ours.close)
    assert ends.theirs.sock.recv(100) == b""


def test_a_close_says_goodbye(ends):
    ends.tell(ends.ours.close)
    assert ends.theirs.attempt(ends.theirs.tls.read, 10) == b"", "a careful client would raise SSLEOFError"


def test_what_was_not_taken_whole_is_gone_on_with_and_what_comes_later_is_behind_it(ends):
    much = memoryview(MUCH)[:TURN_SIZE]
    assert not ends.tell(ends.ours.send, much)
    assert not ends.tell(ends.ours.send, b"later")
    answer = begin(ends.loop, ends.ours.flush())[1]
    assert ends.theirs.read(len(much) + 5) == bytes(much) + b"later"
    answer.get()
    assert ends.ours.unsent == b"" and ends.tell(ends.ours.send, b"x") and ends.theirs.read(1) == b"x"


def test_much_can_be_read_while_much_is_written(ends):
    reading = begin(ends.loop, read(ends.ours, len(MUCH)))[1]
    writing = begin(ends.loop, send(ends.ours, MUCH))[1]
    for at in range(0, len(MUCH), 100_000):
        ends.theirs.send(MUCH[at:at + 100_000])
        assert ends.theirs.read(min(100_000, len(MUCH) - at)) == MUCH[at:at + 100_000]
    assert reading.get() == MUCH
    writing.get()


def test_the_rest_of_what_came_is_not_forgotten_by_what_waits(ends):
    """The kernel does not know of it any more."""
    ends.theirs.sock.sendall(ends.theirs.encrypted(b"x" * 100) + ends.theirs.encrypted(b"y" * 100))
    assert ends.read(10) == b"x" * 10
    assert ends.ours.has_unseen()
    view = memoryview(bytearray(500))
    assert bytes(view[:ends.tell(ends.ours.receive_into, view)]) == b"x" * 90 + b"y" * 100
    assert not ends.ours.has_unseen() and ends.tell(ends.ours.receive_into, view) is None


def test_a_view_is_filled_from_many_records_and_no_further(ends):
    ends.theirs.sock.sendall(b"".join(ends.theirs.encrypted(b"%d" % (number % 10) * 50) for number in range(10)))
    view = memoryview(bytearray(120))
    assert ends.read(1) == b"0"
    assert ends.tell(ends.ours.receive_into, view) == 120
    assert bytes(view) == b"0" * 49 + b"1" * 50 + b"2" * 21
    assert ends.read(379) == b"2" * 29 + b"".join(b"%d" % number * 50 for number in range(3, 10))


def test_records_that_have_come_are_taken_as_one(ends):
    """A head in thousands of them, judged for each, would keep the loop for seconds."""
    ends.theirs.sock.sendall(b"".join(ends.theirs.encrypted(b"%d" % number) for number in range(10)))
    assert ends.tell(ends.ours.receive, 7) == b"0123456"
    assert ends.tell(ends.ours.receive) == b"789" and ends.tell(ends.ours.receive) is None


def test_half_a_record_is_waited_for_in_silence(ends):
    """What looked like unread bytes for ever would keep the loop spinning."""
    record = ends.theirs.encrypted(b"whole")
    ends.theirs.sock.sendall(record[:9])
    settle(ends.loop)
    assert ends.tell(ends.ours.receive) is None
    assert not ends.ours.has_unseen()
    settle(ends.loop)
    assert ends.loop.epoll.poll(0) == []
    ends.theirs.sock.sendall(record[9:])
    assert ends.read(5) == b"whole"


class Barren:
    """In place of OpenSSL, for what takes time and holds no payload: KeyUpdate (RFC 8446 section 4.6.3)."""

    def __init__(self, incoming, outgoing=None):
        self._incoming = incoming
        self._outgoing = outgoing

    def read(self, size):
        self._incoming.read()
        raise ssl.SSLWantReadError

    def pending(self):
        return 0

    def unwrap(self):
        pass


class Talkative(Barren):
    """The same where each asks for a response, and payload comes with it."""

    def read(self, size):
        if not self._incoming.read():
            raise ssl.SSLWantReadError
        self._outgoing.write(b"y" * 3000)
        return b"x"


def test_a_client_that_sends_records_without_payload_is_given_up(ends):
    """A flood of them would keep the loop for as long as it lasts, and all others waiting."""
    ends.tell(setattr, ends.ours, "_tls", Barren(ends.ours._incoming))
    ends.theirs.sock.sendall(b"x" * 15_000)
    assert ends.tell(ends.ours.receive) is None  # it may be most of a record
    ends.theirs.sock.sendall(b"x" * 100_000)
    with pytest.raises(ClientGone):
        ends.tell(ends.ours.receive)
    assert ends.tell(ends.ours.socket.recv, 1)


def test_a_client_that_has_openssl_answer_without_end_is_given_up(ends):
    """It need not take any of that, which would be kept; a byte of payload here and there is no excuse."""
    ends.tell(setattr, ends.ours, "_tls", Talkative(ends.ours._incoming, ends.ours._outgoing))

    def talk():
        for _ in range(100):
            ends.theirs.sock.sendall(b"x")
            ends.read(1)

    with pytest.raises(ClientGone):
        talk()
    assert ends.tell(lambda: len(ends.ours.unsent)) < 100_000


def test_what_openssl_says_to_a_record_without_payload_goes_out_at_once(ends):
    """An OpenSSL client that asks for a renegotiation (TLS 1.2) waits for the word that there is none."""
    barren = Barren(ends.ours._incoming)
    barren.read = lambda size: ends.ours._outgoing.write(b"no") and Barren.read(barren, size)
    ends.tell(setattr, ends.ours, "_tls", barren)
    ends.theirs.sock.sendall(b"x")
    assert ends.tell(ends.ours.receive) is None
    came = b""
    while not came.endswith(b"no"):  # behind the session tickets of TLS 1.3
        came += ends.theirs.sock.recv(65536)


@pytest.mark.parametrize("step", [
    lambda ours: ours.receive(), lambda ours: ours.receive_into(memoryview(bytearray(9)))])
def test_an_end_without_a_goodbye_is_an_end(ends, step):
    ends.theirs.sock.shutdown(socket.SHUT_WR)
    settle(ends.loop)
    assert not ends.tell(step, ends.ours) and ends.ours.has_unseen()
    assert ends.tell(step, ends.ours) is not None


def test_what_is_no_record_is_a_client_that_is_gone(ends):
    ends.theirs.sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    settle(ends.loop)
    with pytest.raises(ClientGone):
        ends.tell(ends.ours.receive)


def test_a_client_that_broke_is_gone(ends):
    ends.theirs.sock.close()
    with pytest.raises(ClientGone):
        ends.tell(ends.ours.send, b"x")


@pytest.mark.parametrize(("words", "alert"), [
    (b"GET / HTTP/1.1\r\n\r\n", b""), (b"\x16\x03\x01\x00\x08\x01\x00\x00\x04oops", b"\x15")])
def test_what_is_no_handshake_fails_and_is_told_why(loop, proof, words, alert):
    """RFC 8446 section 6; OpenSSL has no alert for those who speak HTTP."""
    first, second = socket.socketpair()
    ours = told(loop, SecureStream, first, loop, ClientGone, proof.context)
    assert not told(loop, ours.shake_hands)
    second.sendall(words)
    with pytest.raises(ssl.SSLError):
        told(loop, ours.shake_hands)
    told(loop, ours.close)
    assert second.recv(100)[:1] == alert
    second.close()


@pytest.mark.parametrize("greeting", [b"", b"\x16\x03\x01\x00"])
def test_a_client_that_leaves_before_or_within_its_handshake_fails(loop, proof, greeting):
    first, second = socket.socketpair()
    ours = told(loop, SecureStream, first, loop, ClientGone, proof.context)
    second.sendall(greeting)
    second.close()
    with pytest.raises(OSError):
        told(loop, ours.shake_hands)
    told(loop, ours.close)


@pytest.mark.parametrize("key", ["cert", "missing"])
def test_a_certificate_that_cannot_be_read_is_a_bad_setting(certificate, key):
    with pytest.raises(CannotStart) as caught:
        Certificate(str(certificate / "cert"), str(certificate / key))
    assert caught.value.exit_status == 2


def test_a_certificate_is_read_again_when_it_has_changed(certificate, tmp_path):
    for name in ("cert", "key"):
        (tmp_path / name).write_bytes((certificate / name).read_bytes())
    ours = Certificate(str(tmp_path / "cert"), str(tmp_path / "key"))
    first = ours.context
    ours.renew()
    assert ours.context is first
    os.utime(tmp_path / "cert", (1, 1))
    ours.renew()
    second = ours.context
    assert second is not first
    (tmp_path / "cert").write_bytes(b"half of it")
    ours.renew()
    assert ours.context is second


def test_a_new_certificate_is_served_without_a_restart(road, certificate, tmp_path, monkeypatch):
    monkeypatch.setattr("wrapper.front.secure.READ_INTERVAL", 0.0)
    for name in ("cert", "key"):
        (tmp_path / name).write_bytes((certificate / name).read_bytes())
    made = road(tls_cert=str(tmp_path / "cert"), tls_key=str(tmp_path / "key"))

    def shown():
        line = secure(made)
        try:
            return line.sock.getpeercert(binary_form=True)
        finally:
            line.close()

    before = shown()
    make_certificate(tmp_path)
    wait_until(lambda: shown() != before)


def secure(made):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return Line(context.wrap_socket(made.connect().sock))


def test_tls_on_the_listener(road, certificate):
    made = road(tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"))
    silent = made.connect()  # a handshake that never comes blocks nobody
    line = secure(made)
    for _ in range(3):
        seen = line.send(GET).message()[1]
        assert field(seen, b"X-Forwarded-Proto") == b"https"
    body = os.urandom(3_000_000)
    line = secure(made)
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert line.message()[1].endswith(body)
    silent.close()


def test_the_surplus_of_a_tls_port_is_closed_without_a_word(road, certificate):
    """Plain text would be no answer to a client that begins a handshake."""
    made = road(tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"), max_connections=1)
    kept = secure(made)
    kept.send(GET).message()
    assert made.connect().all() == b""


def test_a_service_that_half_closes_a_tunnel_gets_all_over_tls(road, certificate):
    size, got = 2_000_000, []

    def script(line):
        line.head()
        line.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: odd/1\r\n\r\n")
        line.exactly(1000)
        line.sock.shutdown(socket.SHUT_WR)
        got.append(len(line.exactly(size - 1000)))

    made = road(script, tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"))
    line = secure(made)
    line.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: odd/1\r\n\r\n").head()
    for _ in range(100):
        line.send(b"x" * (size // 100))
    wait_until(lambda: got == [size - 1000])


UPGRADE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: odd/1\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: odd/1\r\n\r\n"


def test_a_record_that_came_along_with_an_upgrade_goes_through_the_tunnel(road, certificate):
    """OpenSSL has it already, so the kernel does not tell of it any more."""
    def script(line):
        line.head()
        line.send(SWITCH)
        line.send(line.exactly(7))

    made = road(script, tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"))
    client = Client(made.connect().sock, ssl.TLSVersion.TLSv1_3)
    client.shake_hands()
    client.sock.sendall(client.encrypted(UPGRADE) + client.encrypted(b"hastily"))
    assert client.read_to(b"\r\n\r\nhastily")


def test_a_record_that_came_while_the_service_took_nothing_goes_through_the_tunnel(road, certificate, tmp_path,
                                                                                   monkeypatch):
    """As above, and the last of what a client sends before it waits for a response to it."""
    takes, size, connect = threading.Event(), 3 * 16384, sockets.begin_connect

    def with_little_room(family):
        made = connect(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return made

    def script(line):
        line.head()
        line.send(SWITCH)
        assert takes.wait(PATIENCE)
        line.exactly(size)
        line.send(b"all")

    monkeypatch.setattr(sockets, "begin_connect", with_little_room)
    service = Service(script, str(tmp_path / "service"), socket.AF_UNIX)
    made = road(service=service, tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"))
    client = Client(made.connect().sock, ssl.TLSVersion.TLSv1_3)
    client.shake_hands()
    client.send(UPGRADE)
    client.read_to(b"\r\n\r\n")
    client.send(b"x" * size)
    settle(made.server.loop)
    takes.set()
    assert client.read_to(b"all")


def test_pipelined_requests_over_tls(road, certificate):
    made = road(tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"))
    line = secure(made)
    line.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\nX: %s\r\n\r\n" % (n, b"y" * 9000) for n in range(5)))
    assert [line.message()[1].split()[1] for _ in range(5)] == [b"/0", b"/1", b"/2", b"/3", b"/4"]
