"""problems.py: the board of what is wrong now."""

from __future__ import annotations

import json

import pytest

from wrapper.events import Feed
from wrapper.problems import MESSAGE_LENGTH, MOST, Board, Problem


@pytest.fixture
def board():
    return Board(Feed())


def test_a_problem_comes_is_seen_again_and_goes(board):
    board.report("service", "it is down", status=7)
    first = board.list()[0]
    assert first["id"] == "service"
    assert (first["message"], first["count"], first["details"]) == ("it is down", 1, {"status": 7})
    board.report("service", "it is down", status=8)
    assert (board.list()[0]["count"], board.list()[0]["since"]) == (2, first["since"])
    board.resolve("service")
    board.resolve("service")
    assert board.list() == []


def test_the_problems_of_a_source_are_replaced_as_a_whole(board):
    board.report("other", "stays")
    board.replace("rules", [Problem("one"), Problem("two", key="2")])
    board.replace("rules", [Problem("two again", key="2"), Problem("three")])
    assert [entry["message"] for entry in board.list()] == ["stays", "two again", "three"]
    board.replace("rules", [])
    assert len(board) == 1


def test_a_detail_called_source_is_said_at_the_authors_line():
    """On its way to the board it ended the watcher whose handler had returned it, and the problem was never seen."""
    with pytest.raises(ValueError, match="cannot be called 'source'"):
        Problem("the title holds markup", "title", source="site.json")


@pytest.mark.parametrize("message", [None, 7, OSError("the disk is full")])
def test_a_message_is_text_whatever_an_author_gives(board, message):
    """One that was none kept `ctl problems` from telling any."""
    board.replace("mine", [Problem(message, "disk")])
    assert board.list()[0]["message"] == str(message)


def test_a_message_is_bounded(board):
    """One that holds a whole response is another each time, and 500 of them stay in the feed."""
    board.replace("mine", [Problem("x" * (MESSAGE_LENGTH + 1))])
    entry = board.list()[0]
    assert entry["message"] == "x" * MESSAGE_LENGTH
    assert len(entry["id"]) < MESSAGE_LENGTH + 100


def test_the_board_is_bounded(board):
    """Ever new keys must not fill the memory of the container."""
    for number in range(MOST + 300):
        board.report("sidecar", f"disk {number} is full", key=str(number))
    board.report("other", "stays")
    messages = [entry["message"] for entry in board.list()]
    assert len(messages) == MOST + 2
    assert messages[-2:] == ["and 300 more", "stays"]
    board.resolve("sidecar", "0")
    board.report("sidecar", "there is room again", key="new")
    assert "and 300 more" not in [entry["message"] for entry in board.list()]
    assert len(board) == MOST + 1


def test_details_are_what_json_can_say(board):
    """One odd value would keep everybody from reading any problem."""
    loop = []
    loop.append(loop)
    board.report("a", "b", nan=float("nan"), pair={(1, 2): {3}}, thing=b"x", loop=loop, fine=[1, 2.5, None, True, "t"])
    details = json.loads(json.dumps(board.list()[0]["details"], allow_nan=False))
    assert details["nan"] == "nan"
    assert details["pair"] == {"(1, 2)": [3]}
    assert details["fine"] == [1, 2.5, None, True, "t"]


def test_only_news_makes_an_event():
    feed = Feed()
    board = Board(feed)
    for _ in range(5):
        board.report("service", "it is down")
    board.resolve("service")
    assert [event["kind"] for event in feed.after(0)] == ["problem", "resolved"]
