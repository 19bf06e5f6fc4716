"""What we accept and send on is read alike by h11, over real sockets and however it is split. RFC 9112."""

import contextlib
import socket
import threading

import h11
import pytest
from hypothesis import given, settings, strategies as st

from tests.proxy.road import PATIENCE, Road
from wrapper.loop import stream

TOKENS = st.sampled_from([b"A", b"x-b", b"Accept", b"X_Y", b"Cookie", b"Via", b"Range"])
VALUES = st.binary(max_size=8).map(lambda value: bytes(byte for byte in value if byte > 32 and byte != 127))
FIELDS = st.lists(st.tuples(TOKENS, VALUES), max_size=4)
PIECES = st.lists(st.binary(min_size=1, max_size=300), max_size=4)
# RFC 9110 section 5.6.1.2: empty members of a list mean nothing, wherever they stand.
CONNECTIONS = st.sampled_from([b"", b" ", b",", b"\t, ,", b"X_Y", b"x-b,,", b", Range ,"])
TARGETS = st.sampled_from([b"/", b"/a?b=%20&c", b"//x/../y", b"http://h2/q", b"/%2e%2e;p"])


@st.composite
def requests(draw):
    """(bytes on the wire, method, payload) of one request that every rule allows."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"X-ODD"]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    fields = [b"Host: h"] if version == b"1.1" or draw(st.booleans()) else []
    fields += [name + b":" + draw(st.sampled_from([b"", b" ", b" \t"])) + value for name, value in draw(FIELDS)]
    if version == b"1.0":
        fields.append(b"Connection: keep-alive")
    if draw(st.booleans()):
        fields.append(b"Connection:" + draw(CONNECTIONS))
    payload, body, how = b"".join(draw(PIECES)), b"", draw(st.sampled_from(["none", "length", "chunked"]))
    if how == "chunked" and version == b"1.1":
        fields.append(draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding:CHUNKED "])))
        for at in range(0, len(payload), 70):
            piece = payload[at:at + 70]
            size = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(piece)
            body += size + draw(st.sampled_from([b"", b";e", b' ;e="v"'])) + b"\r\n" + piece + b"\r\n"
        body += b"0\r\n" + draw(st.sampled_from([b"", b"T: 1\r\n"])) + b"\r\n"
    elif how == "length":
        fields.append(b"Content-Length: %d" % len(payload))
        body = payload
    else:
        payload = b""
    order = draw(st.permutations(fields))
    head = method + b" " + draw(TARGETS) + b" HTTP/" + version + b"\r\n" + b"".join(line + b"\r\n" for line in order)
    return head + b"\r\n" + body, method, payload


class Reader:
    """A service that reads with h11 and notes what it understood."""

    def __init__(self):
        self.seen = []

    def __call__(self, line):
        connection = h11.Connection(h11.SERVER)
        # h11 refuses what RFC 3986 does not allow in targets and we pass on as it comes: a refusal is no other reading.
        with contextlib.suppress(OSError, h11.RemoteProtocolError):
            while self._serve(line, connection):
                connection.start_next_cycle()

    def _serve(self, line, connection):
        method, payload = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(line.sock.recv(65536))
            elif isinstance(event, h11.Request):
                method = event.method
                assert b"x-forwarded-for" in dict(event.headers), "our own lines are part of every request"
            elif isinstance(event, h11.Data):
                payload += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.seen.append((method, payload))
                break
            else:
                return False
        answer = h11.Response(status_code=200, headers=[("Content-Length", str(len(payload)))])
        line.send(connection.send(answer) + connection.send(h11.Data(payload)) + connection.send(h11.EndOfMessage()))
        return True


@pytest.fixture(scope="module")
def made():
    made = Road(Reader())
    with pytest.MonkeyPatch.context() as patch:
        # Else the service might note the request of a client that was given up within a later example.
        patch.setattr(stream, "LEAVE_TIMEOUT", PATIENCE)
        yield made
    made.close()
    assert not made.service.failures


@settings(max_examples=60)
@given(batch=st.lists(requests(), min_size=1, max_size=5), sizes=st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_h11_reads_the_same_requests_behind_us(made, batch, sizes):
    reader, line = made.service.script, made.connect()
    reader.seen.clear()
    data, at, turn = b"".join(wire for wire, _, _ in batch), 0, 0

    def write():
        nonlocal at, turn
        while at < len(data):
            line.send(data[at:at + sizes[turn % len(sizes)]])
            at, turn = at + sizes[turn % len(sizes)], turn + 1

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    answers = [line.message() for _ in batch]
    writer.join(PATIENCE)
    line.close()
    assert reader.seen == [(method, payload) for _, method, payload in batch]
    assert [body for _, body in answers] == [payload for _, _, payload in batch]
    assert all(head.startswith(b"HTTP/1.1 200 ") for head, _ in answers)


LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def read_directly(wire):
    """What h11 makes of the very bytes the client sent, up to what it refuses."""
    connection, seen, method, payload = h11.Connection(h11.SERVER), [], None, b""
    with contextlib.suppress(h11.RemoteProtocolError):
        connection.receive_data(wire)
        while (event := connection.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
            if isinstance(event, h11.Request):
                method, payload = event.method, b""
            elif isinstance(event, h11.Data):
                payload += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                seen.append((method, payload))
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    break
                connection.start_next_cycle()
    return seen


@settings(max_examples=150)
@given(request=requests(), data=st.data())
def test_a_spoilt_request_is_refused_or_read_as_h11_reads_it(made, request, data):
    """One byte changed, dropped or added: nothing that reaches the service is anything else than what was sent."""
    wire = request[0]
    at = data.draw(st.integers(0, len(wire) - 1))
    new = data.draw(st.sampled_from(
        [b"", b"\r", b"\n", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"\r\n", b"\x0b", b"\x85"]))
    spoilt = wire[:at] + new + wire[at + data.draw(st.integers(0, 1)):]
    reader, line = made.service.script, made.connect()
    reader.seen.clear()
    line.send(spoilt + LAST)
    line.sock.shutdown(socket.SHUT_WR)
    answers = b""
    with contextlib.suppress(ConnectionResetError):
        answers = line.all()
    line.close()
    seen = list(reader.seen)
    assert answers.startswith(b"HTTP/1.1 ") or not answers
    assert len(seen) >= answers.count(b"HTTP/1.1 200 ")
    for ours, theirs in zip(seen, read_directly(spoilt + LAST)):
        assert ours == theirs
