"""TLS towards the client: both ends in this process, both versions that are spoken. RFC 8446, RFC 5246."""

import contextlib
import socket
import ssl
import subprocess
import threading

import pytest

from wrapper.certificate import Certificate
from wrapper.secure import SecureStream

PATIENCE = 10.0
MUCH = bytes(range(256)) * 20_000  # more than all buffers on the way take


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "key", "-out",
                    folder / "cert", "-days", "1", "-subj", "/CN=localhost"], check=True, capture_output=True)
    return Certificate(str(folder / "cert"), str(folder / "key"))


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
            data += self.attempt(self.tls.read, count - len(data))
        return data

    def say_goodbye(self):
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.sock.sendall(self.outgoing.read())


class Ends:
    """`ours`, a SecureStream, and `theirs`."""

    def __init__(self, certificate, version):
        first, second = socket.socketpair()
        self.ours = SecureStream(first, PATIENCE, certificate.context())
        self.theirs = Client(second, version)
        client = threading.Thread(target=self.theirs.shake_hands, daemon=True)
        client.start()
        while not self.ours.shake_hands():
            assert self.ours.wait_readable(PATIENCE)
        client.join(PATIENCE)

    def read(self, count):
        """Exactly `count` bytes from the client, or what came before the end."""
        data = b""
        while len(data) < count:
            try:
                piece = self.ours.read_now(count - len(data))
            except BlockingIOError:
                assert self.ours.wait_readable(PATIENCE)
                continue
            if not piece:
                break
            data += piece
        return data


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
def ends(certificate, request):
    made = Ends(certificate, request.param)
    yield made
    made.ours.close()
    made.theirs.sock.close()


def test_our_goodbye_loses_nothing_of_what_the_client_sends(ends):
    """RFC 8446 section 6.1: one side's close_notify has no effect on the other's data."""
    whole, cut = ends.theirs.encrypted(b"before, on its way"), ends.theirs.encrypted(b", in two")
    ends.theirs.sock.sendall(whole + cut[:9])
    assert ends.read(6) == b"before"
    ends.ours.finish_writing()
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
    ends.ours.finish_writing()
    assert ends.ours.has_unseen()
    assert ends.read(10) == b"ll"
    assert ends.ours.has_unseen() and ends.ours.read_now(10) == b""


def test_a_reset_says_no_goodbye(ends):
    ends.ours.write(b"x")
    assert ends.theirs.read(1) == b"x"
    ends.ours.reset()
    ends.ours.close()
    assert ends.theirs.sock.recv(100) == b""


def test_a_write_that_was_not_taken_whole_is_gone_on_with(ends):
    sent = ends.ours.write_now(MUCH)
    assert 0 < sent < len(MUCH)
    assert ends.ours.write_now(MUCH[sent:]) == 0
    got = []
    reader = threading.Thread(target=lambda: got.append(ends.theirs.read(len(MUCH))), daemon=True)
    reader.start()
    ends.ours.write(memoryview(MUCH)[sent:])
    reader.join(PATIENCE)
    assert got == [MUCH]


def test_much_can_be_read_while_much_is_written(ends):
    got = []
    reader = threading.Thread(target=lambda: got.append(ends.read(len(MUCH))), daemon=True)
    writer = threading.Thread(target=ends.ours.write, args=(MUCH,), daemon=True)
    for thread in (reader, writer):
        thread.start()
    for at in range(0, len(MUCH), 100_000):
        ends.theirs.send(MUCH[at:at + 100_000])
        assert ends.theirs.read(min(100_000, len(MUCH) - at)) == MUCH[at:at + 100_000]
    for thread in (reader, writer):
        thread.join(PATIENCE)
    assert got == [MUCH]


def test_the_rest_of_what_came_is_not_forgotten_by_whoever_waits(ends):
    """The kernel does not know of it any more."""
    ends.theirs.sock.sendall(ends.theirs.encrypted(b"x" * 100) + ends.theirs.encrypted(b"y" * 100))
    assert ends.read(10) == b"x" * 10
    assert ends.ours.has_unseen() and ends.ours.wait_readable(0)
    buffer = memoryview(bytearray(500))
    assert bytes(buffer[:ends.ours.read_into_now(buffer)]) == b"x" * 90 + b"y" * 100
    assert not ends.ours.has_unseen() and not ends.ours.wait_readable(0)


def test_half_a_record_is_waited_for_in_silence(ends):
    """What looked like unread bytes for ever would keep a worker spinning."""
    record = ends.theirs.encrypted(b"whole")
    ends.theirs.sock.sendall(record[:9])
    with pytest.raises(BlockingIOError):
        ends.ours.read_now(100)
    assert not ends.ours.has_unseen() and not ends.ours.wait_readable(0)
    ends.theirs.sock.sendall(record[9:])
    assert ends.read(5) == b"whole"


def test_what_is_no_handshake_fails(certificate):
    first, second = socket.socketpair()
    ours = SecureStream(first, PATIENCE, certificate.context())
    assert not ours.shake_hands()
    second.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        ours.shake_hands()
    ours.close()
    second.close()
