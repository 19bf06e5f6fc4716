"""reply.py: what a handler may return, and what that becomes."""

from __future__ import annotations

import threading

import pytest

from tests.running import thread_names, wait_until
from wrapper.errors import Refusal
from wrapper.events import Feed
from wrapper.message import Response
from wrapper.problems import Board
from wrapper.sidecar import sse
from wrapper.sidecar.isolation import Guard
from wrapper.sidecar.reply import event, response_of


@pytest.fixture
def board():
    return Board(Feed())


@pytest.fixture
def answer(board):
    return lambda result: response_of(result, Guard("mine", board), "GET /x")


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


@pytest.mark.parametrize("result", [object(), 7, (1, 2, 3, 4), (200,), {1, 2}, {"a": object()}])
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


def test_a_streamed_body_comes_piece_by_piece(answer):
    response = answer(Response(iter(["a", b"b"])))
    assert list(response.pieces()) == [b"a", b"b"]


def test_a_streamed_body_that_breaks_is_a_problem(answer, board):
    def pieces():
        yield b"a"
        raise SystemExit

    response = answer(Response(pieces()))
    got = []
    with pytest.raises(Refusal):
        got.extend(response.pieces())
    assert "SystemExit" in board.list()[0]["message"]


def test_a_streamed_body_keeps_to_its_content_length(answer, board):
    """Else the rest would be taken for the next answer, or the client would wait for ever."""
    long = answer(Response(iter([b"abc", b"def"]), headers=[("Content-Length", "4")]))
    assert b"".join(long.pieces()) == b"abcd"
    short = answer(Response(iter([b"abc"]), headers=[("Content-Length", "4")]))
    with pytest.raises(Refusal):
        list(short.pieces())
    assert "ValueError" in board.list()[0]["message"]


def test_a_generator_is_a_stream_of_events(answer):
    def ticks():
        yield {"n": 1}
        yield "text"
        yield "alert", [1]
        yield b": raw\n\n"

    response = answer(ticks())
    assert content_type(response).startswith("text/event-stream")
    assert list(response.pieces()) == [b'data: {"n": 1}\n\n', b"data: text\n\n", b"event: alert\ndata: [1]\n\n",
                                       b": raw\n\n"]
    assert event(None) == sse.HEARTBEAT


def test_a_generator_that_fails_is_a_problem_and_the_answer_is_broken_off(answer, board):
    def ticks():
        yield 1
        raise ValueError

    pieces = answer(ticks()).pieces()
    assert next(pieces) == b"data: 1\n\n"
    with pytest.raises(Refusal):
        next(pieces)
    assert "ValueError" in board.list()[0]["message"]


def test_a_silent_generator_does_not_silence_the_stream(answer, monkeypatch):
    monkeypatch.setattr(sse, "HEARTBEAT_INTERVAL", 0.01)
    go_on = threading.Event()

    def ticks():
        go_on.wait()
        yield 1

    pieces = answer(ticks()).pieces()
    assert next(pieces) == sse.HEARTBEAT
    go_on.set()
    wait_until(lambda: next(pieces) == b"data: 1\n\n")


def test_a_generator_ends_when_its_client_has_left(answer):
    ended = threading.Event()

    def ticks():
        try:
            while True:
                yield 1
        finally:
            ended.set()

    response = answer(ticks())
    assert next(response.pieces()) == b"data: 1\n\n"
    response.close()
    assert ended.wait(5)
    wait_until(lambda: "mine GET /x" not in thread_names())


def test_a_generator_nobody_looked_at_is_closed(answer):
    began = []

    def ticks():
        began.append(1)
        yield 1

    generator = ticks()
    answer(generator).close()
    assert list(generator) == []
    assert not began


@pytest.mark.parametrize("result", [(200, "hello", {"Content-Length": "3"}), (200, "", {"Content-Length": "3"}),
                                    (200, "\xe4", {"Content-Length": "1"})])
def test_a_body_that_is_not_as_long_as_it_says_is_a_fault(answer, result):
    with pytest.raises(ValueError, match="Content-Length"):
        answer(result)


def test_an_answer_to_head_may_have_only_a_length(board):
    response = response_of((200, "", {"Content-Length": "3"}), Guard("mine", board), "HEAD /x", is_head=True)
    assert ("Content-Length", "3") in response.headers


def test_a_stream_that_is_longer_than_it_says_ends_there_and_is_a_problem(answer, board):
    endless = iter(lambda: "ab", None)
    assert b"".join(answer((200, Response(endless, headers=[("Content-Length", "3")]))).pieces()) == b"aba"
    assert len(board) == 1
