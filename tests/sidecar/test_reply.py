"""reply.py: what a handler may return, and what that becomes."""

from __future__ import annotations

import datetime

import pytest

from wrapper.events import Feed
from wrapper.http1.message import Response
from wrapper.problems import Board
from wrapper.sidecar.isolation import Guard
from wrapper.sidecar.streams import Slots
from wrapper.sidecar.reply import response_of


@pytest.fixture
def board():
    return Board(Feed())


@pytest.fixture
def answer(board):
    return lambda result: response_of(result, Guard("mine", board), "GET /x", Slots())


def content_type(response):
    return dict(response.headers).get("Content-Type")


@pytest.mark.parametrize(("result", "status", "body", "kind"), [
    ({"a": 1}, 200, b'{"a": 1}\n', "application/json"),
    ([1], 200, b"[1]\n", "application/json"),
    ("\xe4", 200, b"\xc3\xa4", "text/plain; charset=utf-8"),
    (b"\x00", 200, b"\x00", "application/octet-stream"),
    (None, 204, b"", None),
    ((201, {"a": 1}), 201, b'{"a": 1}\n', "application/json"),
    ((404, "no"), 404, b"no", "text/plain; charset=utf-8"),
    (Response("x", 418, content_type="text/x"), 418, b"x", "text/x"),
])
def test_what_a_handler_returns_becomes_an_answer(answer, result, status, body, kind):
    response = answer(result)
    assert (response.status, response.whole(), content_type(response)) == (status, body, kind)


def test_fields_can_be_added(answer):
    assert ("X-A", "1") in answer((200, "x", {"X-A": "1"})).headers
    assert ("X-A", "1") in answer((200, "x", [("X-A", "1")])).headers
    assert ("X-A", "1") in answer((201, Response("x"), [("X-A", "1")])).headers


def test_an_answer_that_is_kept_and_returned_again_stays_as_it_is(answer):
    kept = Response("x", headers=[("X-A", "1")])
    answer((404, kept, {"X-B": "2"}))
    assert (kept.status, kept.headers) == (200, [("X-A", "1")])


@pytest.mark.parametrize("result", [object(), 7, (1, 2, 3, 4), (200,), {1, 2}])
def test_what_nobody_can_send_is_refused(answer, result):
    with pytest.raises(TypeError):
        answer(result)


@pytest.mark.parametrize("result", [(99, "x"), (100, "x"), (600, "x"), ("200", "x"),
                                    (200, "x", {"A\r\nB": "c"}), (200, "x", {"A": "b\r\nSet-Cookie: c"}),
                                    (200, "x", {"": "b"})])
def test_no_field_or_status_can_begin_another_answer(answer, result):
    with pytest.raises((ValueError, TypeError)):
        answer(result)


def test_framing_is_the_servers(answer):
    response = answer(Response("x", headers=[("Connection", "close"), ("Transfer-Encoding", "chunked"), ("Date", "x")]))
    assert response.headers == []


@pytest.mark.parametrize("result", [(200, "hello", {"Content-Length": "3"}), (200, "", {"Content-Length": "3"}),
                                    (200, "\xe4", {"Content-Length": "1"})])
def test_a_body_that_is_not_as_long_as_it_says_is_a_fault(answer, result):
    with pytest.raises(ValueError, match="Content-Length"):
        answer(result)


def test_an_answer_to_head_may_have_only_a_length(board):
    response = response_of((200, "", {"Content-Length": "3"}), Guard("mine", board), "HEAD /x", Slots(), is_head=True)
    assert ("Content-Length", "3") in response.headers


def test_what_json_does_not_know_is_written_as_text(answer):
    """As events are."""
    moment = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)
    assert answer({"at": moment}).whole() == b'{"at": "2026-01-31 12:00:00+00:00"}\n'
    assert answer({"mean": float("nan")}).whole() == b'{"mean": "nan"}\n'


def test_half_a_character_does_not_spoil_a_text(answer):
    """A path that is no UTF-8 is told so that its bytes are kept, and a text may hold it."""
    assert answer("a\udcffb").whole() == b"a?b"


@pytest.mark.parametrize("body", [{"a": "b"}, [3, 4], (b"x", None), 7, None, object()])
def test_what_is_no_body_is_said_at_the_authors_line(body):
    with pytest.raises(TypeError, match="no body"):
        Response(body)
