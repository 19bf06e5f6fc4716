"""reply.py: what a handler may return, and what that becomes; bodies that go out as they come, and events."""

from __future__ import annotations

import datetime
import threading

import pytest

from wrapper.errors import Refusal, Unavailable
from wrapper.events import Feed
from wrapper.http1.message import Response
from wrapper.problems import Board
from wrapper.sidecar import reply
from wrapper.sidecar.extension import Sidecar
from wrapper.sidecar.isolation import Guard
from wrapper.sidecar.reply import event, message, response_of
from wrapper.testing import running


@pytest.fixture
def board():
    return Board(Feed())


@pytest.fixture
def places(monkeypatch):
    monkeypatch.setattr("wrapper.sidecar.reply.MOST_STREAMS", 2)
    return set()


@pytest.fixture
def answer(board, places):
    guard = Guard("mine", board)
    return lambda result: response_of(result, guard, "GET /x", places)


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


def test_a_field_of_the_authors_stands_in_the_place_of_ours(answer):
    """RFC 9110 section 5.3: two Content-Types are malformed, and browsers differ in which of them they take."""
    for body in ("<p>", b"<p>", {"a": 1}, (piece for piece in [b"a"])):
        fields = [(name.lower(), value) for name, value in answer((200, body, {"content-type": "text/html"})).headers]
        assert [value for name, value in fields if name == "content-type"] == ["text/html"]
    kept = answer((200, Response("x", headers=[("Vary", "a")]), {"Vary": "b"}))
    assert [value for name, value in kept.headers if name == "Vary"] == ["a", "b"]


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
    response = response_of((200, "", {"Content-Length": "3"}), Guard("mine", board), "HEAD /x", set(), is_head=True)
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


# Streams


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


def test_a_body_that_does_not_even_begin_is_a_problem(answer, board):
    class Pieces:
        def __iter__(self):
            raise SystemExit

    with pytest.raises(Refusal):
        list(answer(Response(Pieces())).pieces())
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
    assert event(None) == reply.HEARTBEAT


def test_a_generator_that_fails_is_a_problem_and_the_answer_is_broken_off(answer, board):
    def ticks():
        yield 1
        raise ValueError

    pieces = answer(ticks()).pieces()
    assert next(pieces) == b"data: 1\n\n"
    with pytest.raises(Refusal):
        next(pieces)
    assert "ValueError" in board.list()[0]["message"]


def test_a_silent_generator_does_not_silence_the_stream(monkeypatch):
    monkeypatch.setattr(reply, "HEARTBEAT_INTERVAL", 0.01)
    go_on, sidecar = threading.Event(), Sidecar()

    @sidecar.route("GET", "/ticks")
    def ticks():
        go_on.wait(10)
        yield 1

    with running(sidecar) as wrapper, wrapper.stream("/ticks") as lines:
        assert next(lines) == ": "
        go_on.set()
        assert "data: 1" in lines


def test_a_generator_ends_at_its_next_event_when_its_client_has_left():
    ended, sidecar = threading.Event(), Sidecar()

    @sidecar.route("GET", "/ticks")
    def ticks():
        try:
            while True:
                yield 1
        finally:
            ended.set()

    with running(sidecar) as wrapper:
        with wrapper.stream("/ticks") as lines:
            assert next(lines) == "data: 1"
        assert ended.wait(10)


def test_a_generator_that_was_not_begun_is_closed(answer):
    began = []

    def ticks():
        began.append(1)
        yield 1

    generator = ticks()
    answer(generator).close()
    assert list(generator) == []
    assert not began


def test_a_stream_that_is_longer_than_it_says_ends_there_and_is_a_problem(answer, board):
    endless = iter(lambda: "ab", None)
    assert b"".join(answer((200, Response(endless, headers=[("Content-Length", "3")]))).pieces()) == b"aba"
    assert len(board) == 1


# Their number, and how each ends


def ticks():
    while True:
        yield 1


@pytest.mark.parametrize("make", [ticks, lambda: Response(iter(["a", "b"]))])
def test_streams_are_bounded_because_each_costs_a_thread(answer, make):
    first, _ = answer(make()), answer(make())
    with pytest.raises(Unavailable):
        answer(make())
    first.close()
    first.close()
    answer(make())
    with pytest.raises(Unavailable):
        answer(make())


def test_a_stream_that_goes_out_has_its_place_until_it_is_over(answer, places):
    response = answer(Response(iter(["a", "b"])))
    pieces = response.pieces()
    next(pieces)
    assert len(places) == 1
    assert list(pieces) == [b"b"]
    response.close()
    assert not places


def test_a_stream_that_finds_no_place_is_closed(answer):
    closed = []

    class Pieces:
        def __iter__(self):
            return iter(["a"])

        def close(self):
            closed.append(1)

    answer(Response(["a"]))
    answer(Response(["a"]))
    with pytest.raises(Unavailable):
        answer(Response(Pieces()))
    assert closed


def test_a_generator_that_waits_keeps_its_place_until_it_comes_back(monkeypatch):
    monkeypatch.setattr("wrapper.sidecar.reply.MOST_STREAMS", 1)
    go_on, sidecar = threading.Event(), Sidecar()

    @sidecar.route("GET", "/ticks")
    def ticks():
        yield 1
        go_on.wait(10)
        yield 2

    with running(sidecar) as wrapper:
        with wrapper.stream("/ticks") as lines:
            assert next(lines) == "data: 1"
        assert wrapper.get("/ticks").status == 503
        go_on.set()
        wrapper.wait_until(lambda: is_served(wrapper))


def is_served(wrapper):
    try:
        with wrapper.stream("/ticks") as lines:
            return next(lines) == "data: 1"
    except AssertionError:
        return False


# What is said of it


def problem_after(answer, board, make):
    response = answer(make())
    with pytest.raises(Refusal):
        list(response.pieces())
    response.close()
    return board.list()[0]


def fails():
    yield 1
    raise ValueError


@pytest.mark.parametrize("make", [fails, lambda: Response(str(number) for number in fails())])
def test_a_stream_that_fails_each_time_is_one_problem(answer, board, make):
    """Its handler went well each time; only the end says how the stream did."""
    first = problem_after(answer, board, make)
    assert problem_after(answer, board, make) == {**first, "count": 2}


@pytest.mark.parametrize("well", [lambda: (number for number in range(3)), lambda: Response(["a"])])
def test_a_stream_that_comes_to_its_end_takes_its_problem_away(answer, board, well):
    problem_after(answer, board, fails)
    response = answer(well())
    list(response.pieces())
    response.close()
    assert not board.list()


def test_a_message_has_its_fields_and_ends_with_an_empty_line():
    assert message({"a": 1}, "state", "7") == b'id: 7\nevent: state\ndata: {"a": 1}\n\n'


def test_every_line_of_text_is_a_data_line_of_its_own():
    assert message("a\nb\r\nc\rd") == b"data: a\ndata: b\ndata: c\ndata: d\n\n"


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\ndata: forged"])
def test_a_name_is_one_line(name):
    with pytest.raises(ValueError, match="line break"):
        message("x", name)
