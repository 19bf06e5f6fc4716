"""reload.py: how a service is told to read its configuration again."""

from __future__ import annotations

from wrapper.settings.address import tcp
from wrapper.service import reload


def test_a_call_wants_a_2xx(answering):
    call = reload.of("PUT /-/reload?key=secret")
    assert call(None, tcp(*answering(b"HTTP/1.1 200 OK\r\n\r\n"))) is None
    assert call(None, tcp(*answering(b"HTTP/1.1 500 no\r\n\r\n"))) == "PUT /-/reload answers 500"


def test_a_service_that_looks_by_itself_is_told_nothing():
    assert reload.of("none")(None, None) is None


def test_without_another_way_a_reload_is_a_restart():
    assert reload.of("restart") is None
