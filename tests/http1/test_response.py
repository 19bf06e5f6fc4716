"""response.py: heads of responses, judged and mended."""

import h11
import pytest
from hypothesis import given, settings, strategies as st

from wrapper.http1 import request as http1, response as answers
from wrapper.proxy import headers

LIMIT = 400
ANSWERS = st.lists(st.sampled_from([
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 ", b"HTTP/1.0 204 \r\n", b"200 OK", b"\r\n", b"\n", b"X: y\r\n", b"X : y\r\n",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b" ", b"\0", b"HTTP/2 200\r\n", b"\r\n\r\n"]),
    max_size=10).map(b"".join)
MENDED = [  # sloppy head, keep, length or None where chunked, the length that is passed on
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\n", True, 2, b"2"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n", True, 2, b"2"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", False, None, None),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", False, None, None),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked, chunked\r\n\r\n", False, None, None),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n", True, 2, b"2"),
    (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n", False, 2, b"2"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity, chunked\r\n\r\n", True, None, None),
    (b"HTTP/1.1 200 OK\nContent-Length: 2\nX: y\n\n", True, 2, b"2"),
    (b"http/1.1 200 OK\r\nContent-Length : 2\r\n\r\n", True, 2, b"2"),
]


def answer_outcome(data, known=0):
    try:
        answer = answers.read_response(data, LIMIT, known)
    except http1.Malformed:
        return "malformed"
    return "more" if answer is None else (answer.status, answer.fields, answer.end, answer.length, answer.is_chunked)


@settings(max_examples=400)
@given(ANSWERS, st.integers(1, 20))
def test_a_response_head_is_judged_alike_however_it_is_split(data, step):
    whole, known = answer_outcome(data), 0
    for end in (*range(0, len(data), step), len(data)):
        early = answer_outcome(data[:end])
        assert answer_outcome(data[:end], known) == early
        known = end
        if early != "more":
            break
    assert early == whole


@pytest.mark.parametrize(("data", "keep", "length", "passed_on"), MENDED)
def test_a_sloppy_answer_is_mended_where_its_framing_is_beyond_doubt(data, keep, length, passed_on):
    """RFC 9110 section 8.6, RFC 9112 sections 2.2, 2.3, 5.1 and 6.3."""
    for end in range(len(data)):
        assert answers.read_response(data[:end], 65536) is None
    head = answers.read_response(data + b"ok\r\n\r\n", 65536)
    head.frame_for(b"GET")
    assert (head.status, head.keep, head.length, head.end) == (200, keep, length, len(data))
    assert head.is_chunked == (length is None)
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(headers.response_head(head, b"", head.is_chunked))
    named = connection.next_event().headers
    assert [value for name, value in named if name == b"content-length"] == ([passed_on] if passed_on else [])
    assert [value for name, value in named if name == b"transfer-encoding"] == ([] if passed_on else [b"chunked"])


@pytest.mark.parametrize(("data", "reason"), [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", "two different Content-Lengths"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "not a number"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "coding other than chunked"),
    (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0"),
    (b"HTTP/1.1 200 OK\r\nA: b\nSet-Cookie: x\r\n\r\n", "a header line is malformed"),
    (b"HTTP/1.1 200 OK\nA: b\r\n", "now in LF, now in CR LF"),
    (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "folded"),
    (b"HTTP/1.1 20 OK\r\nA: b\r\n\r\n", "status line"),
    (b"SSH-2.0-OpenSSH_9.9\r\n", "does not speak HTTP/1.1"),
])
def test_what_cannot_be_mended_says_why(data, reason):
    with pytest.raises(http1.Malformed, match=reason):
        answers.read_response(data, 65536)
