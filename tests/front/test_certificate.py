"""certificate.py: what the port proves itself with, and the listener that does so."""

import os
import socket
import ssl

import pytest

from tests.front.conftest import make_certificate
from tests.proxy.road import GET, Line, field
from tests.running import wait_until
from wrapper.front.certificate import Certificate
from wrapper.errors import CannotStart


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
    monkeypatch.setattr("wrapper.front.certificate.READ_INTERVAL", 0.0)
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


def test_pipelined_requests_over_tls(road, certificate):
    made = road(tls_cert=str(certificate / "cert"), tls_key=str(certificate / "key"))
    line = secure(made)
    line.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\nX: %s\r\n\r\n" % (n, b"y" * 9000) for n in range(5)))
    assert [line.message()[1].split()[1] for _ in range(5)] == [b"/0", b"/1", b"/2", b"/3", b"/4"]
