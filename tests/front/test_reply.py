"""reply.py: answers of the wrapper's own, as bytes."""


import pytest

from tests.proxy.road import GET, field
from wrapper.http1.message import Response


LONG, SHORT = [("Content-Length", "10")], [("content-length", "2")]


@pytest.mark.parametrize(("method", "response", "framing", "body"), [
    (b"GET", Response(b"abc", headers=LONG), b"3", b"abc"),
    (b"GET", Response(b"abc", headers=SHORT), b"3", b"abc"),
    (b"GET", Response(b"abc", headers=[*SHORT, *LONG]), b"3", b"abc"),
    (b"GET", Response(b"abc", headers=[("Transfer-Encoding", "chunked")]), b"3", b"abc"),
    (b"HEAD", Response(b"", headers=LONG), b"10", b""),
    (b"HEAD", Response(b"abc"), b"3", b""),
    (b"GET", Response(b"", 304, headers=LONG), b"10", b""),
    (b"GET", Response(b"abc", 204, headers=LONG), None, b""),
    (b"GET", Response([b"abc", b"def"], headers=SHORT), b"2", b"ab"),
    (b"GET", Response([b"a", b""], 204), None, b""),
    (b"GET", Response([b""], 304), None, b""),
])
def test_the_framing_of_an_own_answer_is_ours(road, method, response, framing, body):
    """RFC 9112 section 6: an author's wrong Content-Length must not shift the answers that follow."""
    made = road()
    made.site.answers["/sidecar/x"] = lambda request: response
    line = made.connect().send(method + b" /sidecar/x HTTP/1.1\r\nHost: h\r\n\r\n")
    head = line.head()
    assert field(head, b"Content-Length") == framing and field(head, b"Transfer-Encoding") is None
    assert line.exactly(len(body)) == body
    assert line.send(GET).head().startswith(b"HTTP/1.1 200 ")
