"""reply.py: answers of the wrapper's own, as bytes."""

import pytest

from tests.proxy.road import GET, field
from wrapper.errors import CannotStart
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


@pytest.fixture
def paged(road, tmp_path):
    (tmp_path / "page.html").write_text("<h1>{status} {reason}</h1> again in {retry_after} s")
    made = road(error_page=str(tmp_path / "page.html"))
    made.gate.refuse("the service is stopped")
    return made


def test_a_browser_gets_the_error_page(paged):
    head, body = paged.connect().send(
        b"GET / HTTP/1.1\r\nHost: h\r\nAccept: text/html,*/*;q=0.8\r\n\r\n").message()
    assert head.startswith(b"HTTP/1.1 503 ") and field(head, b"Content-Type") == b"text/html; charset=utf-8"
    assert field(head, b"Retry-After") == b"1"
    assert body == b"<h1>503 Service Unavailable</h1> again in 1 s"


def test_what_does_not_ask_for_html_gets_the_short_text(paged):
    assert b"text/plain" in paged.connect().send(GET.replace(b"\r\n\r\n", b"\r\nAccept: */*\r\n\r\n")).message()[0]


def test_an_error_of_the_clients_own_has_no_page(paged):
    assert b"text/plain" in paged.ask(b"GET / HTTP/1.1\r\nAccept: text/html\r\n\r\n")


def test_an_error_page_that_cannot_be_read_is_a_bad_setting(road, tmp_path):
    with pytest.raises(CannotStart, match="cannot read --error-page .*missing: No such file") as caught:
        road(error_page=str(tmp_path / "missing"))
    assert caught.value.exit_status == 2
