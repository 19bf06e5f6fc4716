"""events.py, problems.py, log.py, deadline.py: what is told to people, and when."""

from __future__ import annotations

import json
import os
import threading

import pytest

from wrapper.deadline import Deadline
from wrapper.events import HISTORY, Feed
from wrapper.log import Log
from wrapper.problems import MOST, Board, Problem
from wrapper.text import one_line


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


def test_the_feed_is_ordered_and_bounded():
    feed = Feed()
    for number in range(HISTORY + 10):
        feed.publish("test", number=number)
    events = feed.after(0)
    assert len(events) == HISTORY
    assert [event["id"] for event in events] == list(range(11, HISTORY + 11))
    assert feed.after(feed.last) == []
    assert len(feed.after(feed.last - 3)) == 3


def test_a_reader_wakes_at_the_next_event():
    feed = Feed()
    got = []
    reader = threading.Thread(target=lambda: got.extend(feed.after(0, timeout=10)))
    reader.start()
    feed.publish("test", word="now")
    reader.join(10)
    assert got[0]["word"] == "now"


def test_facts_never_hide_what_every_event_has():
    feed = Feed()
    feed.publish("test", id="mine", time="late")
    assert feed.after(0)[0]["id"] == 1


@pytest.fixture
def lines(monkeypatch):
    written = []
    monkeypatch.setattr(os, "write", lambda descriptor, data: written.append(data.decode()) or len(data))
    return written


def test_one_event_is_one_line(lines):
    Log().info("two\nlines\r", cause="a\nb", seconds=1.23456, nothing=None)
    assert len(lines) == 1
    assert lines[0].count("\n") == 1
    assert r"two\nlines\r cause='a\nb' seconds=1.235" in lines[0]


def test_json_lines_are_json(lines):
    log = Log()
    log.configure("debug", "json")
    log.debug("é\n", path="/x")
    assert json.loads(lines[0])["message"] == "é\n"


def test_the_level_silences(lines):
    log = Log()
    log.configure("error", "text")
    log.warning("no")
    assert lines == []


def test_a_full_disk_is_no_reason_to_fail(monkeypatch):
    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    Log().error("lost")


def test_text_is_kept_but_for_control_characters():
    assert one_line("größe 日本 \x1b[31m") == "größe 日本 \\x1b[31m"


def test_deadlines():
    assert Deadline(None).remaining() is None
    assert not Deadline(None).has_passed()
    assert Deadline(0).has_passed()
    assert Deadline(0).remaining() == 0
    assert Deadline(100).sooner(5) == 5
    assert Deadline(1).sooner(5) <= 1
