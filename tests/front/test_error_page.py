"""error_page.py: an HTML page for those who would rather have one."""


import pytest

from tests.proxy.road import GET, field
from wrapper.errors import CannotStart


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
