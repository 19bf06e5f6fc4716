"""headers.py: what becomes of fields on their way through. Pure."""

import h11
import pytest
from hypothesis import given, settings, strategies as st

from wrapper.http1 import request as http1, response as answers
from wrapper.proxy import headers

TOKENS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8).map(str.encode)
VALUES = st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if byte > 0x20 and byte != 0x7F))
TARGETS = st.text("/a%2F.?&=;:@\\", max_size=12).map(lambda text: b"/" + text.encode())


@settings(max_examples=300)
@given(st.lists(st.tuples(TOKENS, VALUES), max_size=6), st.sampled_from([b"GET", b"POST", b"DELETE"]), TARGETS,
       st.sampled_from([b"", b"Connection: close\r\n", b"Connection:\r\n", b"Connection: , \r\n",
                        b"Connection: x-a, upgrade\r\nUpgrade: websocket\r\nX-A: 1\r\n",
                        b"TE: trailers\r\n", b"X-Forwarded-For: 1.1.1.1\r\nForwarded: for=x\r\n",
                        b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
                        b"Keep-Alive: 3\r\nProxy-Connection: x\r\n"]),
       st.booleans())
def test_h11_reads_what_we_pass_on_as_we_did(fields, method, target, special, is_trusted):
    """An independent parser finds the method, target, framing and every end-to-end field we let through."""
    data = (method + b" " + target + b" HTTP/1.1\r\n" + special + b"Host: h.example:8\r\n"
            + b"".join(b"Q" + name + b": " + value + b"\r\n" for name, value in fields) + b"\r\n")
    head = http1.read_request(data, 65536)
    passed_on = headers.request_head(head, headers.Peer("10.0.0.1", False, is_trusted), b"u")
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(passed_on)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (method, target)
    names = [name for name, _ in event.headers]
    ours = [(b"q" + name.lower(), value) for name, value in fields]
    assert [pair for pair in event.headers if pair[0].startswith(b"q")] == ours
    assert names.count(b"host") == names.count(b"x-forwarded-host") == names.count(b"x-forwarded-for") == 1
    assert names.count(b"content-length") == (1 if head.length else 0)
    assert names.count(b"transfer-encoding") == (1 if head.is_chunked else 0)
    assert b"keep-alive" not in names and b"proxy-connection" not in names
    assert b"x-a" not in names or is_trusted  # what a front has added is not for its client to take away
    assert (b"upgrade" in names) == bool(head.upgrade)


@settings(max_examples=300)
@given(st.lists(st.tuples(TOKENS, VALUES), max_size=6), st.integers(200, 599),
       st.sampled_from([b"", b"Connection:\r\n", b"Connection: , \r\n", b"Connection: keep-alive\r\n",
                        b"Connection: X-A\r\nX-A: 1\r\n", b"Content-Length: 7\r\n",
                        b"Transfer-Encoding: chunked\r\n", b"Keep-Alive: x\r\nUpgrade: h2c\r\n"]), st.booleans())
def test_h11_reads_answers_we_pass_on_as_we_did(fields, status, special, is_chunked):
    data = (b"HTTP/1.1 %d Some Reason\r\n" % status + special
            + b"".join(b"Q" + name + b": " + value + b"\r\n" for name, value in fields) + b"\r\n")
    answer = answers.read_response(data, 65536)
    passed_on = headers.response_head(answer, b"Connection: close\r\n", is_chunked)
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(passed_on)
    event = connection.next_event()
    assert event.status_code == status and event.reason == b"Some Reason"
    names = [name for name, _ in event.headers]
    assert [pair for pair in event.headers if pair[0].startswith(b"q")] == [
        (b"q" + name.lower(), value) for name, value in fields]
    assert (b"transfer-encoding" in names) == is_chunked
    assert b"x-a" not in names and b"keep-alive" not in names
    assert (b"upgrade" in names) == (status == 426 and b"Upgrade" in special)


@pytest.mark.parametrize(("networks", "address", "trusted"), [
    ((), "10.0.0.1", False), (("10.0.0.0/8",), "10.0.0.1", True), (("10.0.0.0/8",), "11.0.0.1", False),
    (("::1",), "::1", True), (("fe80::/10",), "fe80::1%eth0", True), (("10.0.0.0/8",), None, False),
    (("unix",), None, True),
])
def test_who_is_trusted(networks, address, trusted):
    assert headers.TrustedProxies(networks).trust(address) is trusted
