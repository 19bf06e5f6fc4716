"""streams.py: bodies of authors' code that go out as they come, and events of their generators."""

from __future__ import annotations

import threading

import pytest

from tests.running import thread_names, wait_until
from wrapper.errors import Refusal, Unavailable
from wrapper.events import Feed
from wrapper.message import Response
from wrapper.problems import Board
from wrapper.sidecar import eviction, sse, streams
from wrapper.sidecar.isolation import Guard
from wrapper.sidecar.places import Places
from wrapper.sidecar.reply import response_of
from wrapper.sidecar.streams import event


@pytest.fixture
def board():
    return Board(Feed())


@pytest.fixture
def places():
    return Places(2)


@pytest.fixture
def answer(board, places):
    guard = Guard("mine", board)
    return lambda result: response_of(result, guard, "GET /x", places)


def content_type(response):
    return dict(response.headers).get("Content-Type")


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
    assert places.taken == 1
    assert list(pieces) == [b"b"]
    response.close()
    assert places.taken == 0


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


@pytest.mark.parametrize("catches", [False, True])
def test_a_generator_that_computes_for_ever_is_ended_when_its_client_has_left(answer, places, monkeypatch, catches):
    monkeypatch.setattr(streams, "LEAVE_TIMEOUT", 0.01)
    ended = []

    def compute():
        yield 1
        while True:
            try:
                while True:
                    pass
            except eviction.Overdue:
                ended.append(1)
                if not catches or len(ended) > 1:
                    raise

    response = answer(compute())
    assert next(response.pieces()) == b"data: 1\n\n"
    response.close()
    wait_until(lambda: ended and not places.taken)
    wait_until(lambda: not [name for name in thread_names() if name.startswith("mine GET /x")])


def test_a_generator_that_waits_keeps_its_place_until_it_comes_back(answer, places, monkeypatch):
    monkeypatch.setattr(streams, "LEAVE_TIMEOUT", 0.01)
    go_on = threading.Lock()
    go_on.acquire()

    def wait():
        yield 1
        go_on.acquire()
        yield 2

    for _ in range(2):
        response = answer(wait())
        assert next(response.pieces()) == b"data: 1\n\n"
        response.close()
    with pytest.raises(Unavailable):
        answer(wait())
    for left in (1, 0):
        go_on.release()
        wait_until(lambda left=left: places.taken == left)


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
