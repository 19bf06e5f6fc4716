"""url.py: what is asked of a URL, and what of its credentials goes where."""

from __future__ import annotations

import base64
import threading

import pytest

from tests.config.conftest import answer
from wrapper.config.snapshot import CannotFetch
from wrapper.config.url import TimedConnection, Url
from wrapper.deadline import Deadline
from wrapper.settings.address import tcp


def url(server, path="/x", token_file=None, user=""):
    return Url(f"http://{user}127.0.0.1:{server.port}{path}", 20.0, 1000, token_file)


def test_what_has_not_changed_is_told_by_its_tag(serve):
    def serve_once(connection, head):
        connection.sendall(answer("", "304 Not Modified") if 'If-None-Match: "1"' in head
                           else answer("content", "200 OK", 'ETag: "1"'))

    source = url(serve(serve_once))
    assert (source.fetch().content, source.fetch().changed) == (b"content", False)
    source.forget()
    assert source.fetch().content == b"content"


def test_credentials_of_the_url_become_a_field_and_are_not_in_its_name(serve):
    server = serve(answer("x"))
    source = url(server, user="me:s3cret@")
    source.fetch()
    assert "s3cret" not in source.name and "s3cret" not in server.heads[0].splitlines()[0]
    assert "Authorization: Basic " + base64.b64encode(b"me:s3cret").decode() in server.heads[0]


def test_a_token_is_read_at_every_fetch(serve, tmp_path):
    server, file = serve(answer("x")), tmp_path / "token"
    source = url(server, token_file=str(file))
    for token in ("one", "two"):
        file.write_text(token + "\n")
        source.fetch()
        assert f"Authorization: Bearer {token}\r\n" in server.heads[-1]
    file.write_text("two words")
    with pytest.raises(CannotFetch, match="holds no token"):
        source.fetch()


def test_a_redirect_is_followed_so_often(serve):
    server = serve(answer("", "302 Found", "Location: /again"))
    with pytest.raises(CannotFetch, match="more than 5 redirects"):
        url(server).fetch()
    assert len(server.heads) == 6


@pytest.mark.parametrize(("said", "why"), [
    (answer("x" * 1001), "over 1000 bytes"), (answer(""), "the answer is empty"),
    (answer("x", "500 Oh"), "answers 500"),
    (answer("x", "200 OK", "Content-Encoding: gzip"), "answers in gzip"), (b"SSH-2.0-x\r\n\r\n", "no good HTTP"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "too early"),
])
def test_what_is_not_whole_or_not_wanted_is_not_used(serve, said, why):
    with pytest.raises(CannotFetch, match=why):
        url(serve(said)).fetch()


@pytest.mark.parametrize("text", ["http://h:port/", "http://h/a b", "http://h/\n"])
def test_a_url_that_cannot_be_asked_is_said_at_once(text):
    with pytest.raises(ValueError):
        Url(text, 1.0, 1000, None)


# Connections


def test_a_request_is_answered(serve):
    server = serve(answer("hello"))
    connection = TimedConnection(tcp("127.0.0.1", server.port), Deadline(20))
    connection.request("GET", "/x")
    assert connection.getresponse().read() == b"hello"
    connection.close()
    assert server.heads[0].startswith("GET /x HTTP/1.1\r\n")


def test_a_server_that_drips_meets_the_deadline(serve):
    over, deadline = threading.Event(), Deadline(60)

    def drip(connection, head):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not over.wait(0.02):
            connection.sendall(b"x")

    server = serve(drip)
    connection = TimedConnection(tcp("127.0.0.1", server.port), deadline)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.read(1) == b"x"
    deadline._end = 0.0  # while it drips on
    with pytest.raises(OSError, match="timed out"):
        response.read()
    over.set()
    connection.close()


def test_what_is_too_late_is_not_begun(serve):
    deadline = Deadline(60)
    connection = TimedConnection(tcp("127.0.0.1", serve(answer("x")).port), deadline)
    connection.connect()
    deadline._end = 0.0
    with pytest.raises(TimeoutError):
        connection.request("GET", "/")
    connection.close()
