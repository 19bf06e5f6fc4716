"""reload.py: how a service is told to read its configuration again."""

from __future__ import annotations

from wrapper.address import tcp
from wrapper.service.reload import by_path


def test_reload_by_path_wants_a_2xx(answering):
    assert by_path("/-/reload")(None, tcp(*answering(b"HTTP/1.1 200 OK\r\n\r\n"))) is None
    assert "answers 500" in by_path("/-/reload")(None, tcp(*answering(b"HTTP/1.1 500 no\r\n\r\n")))
