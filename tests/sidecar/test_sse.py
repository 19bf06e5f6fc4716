"""sse.py: server-sent events as the standard writes them (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from itertools import islice

import pytest

from wrapper.events import Feed
from wrapper.sidecar import sse


def test_a_message_has_its_fields_and_ends_with_an_empty_line():
    assert sse.message({"a": 1}, "state", "7") == b'id: 7\nevent: state\ndata: {"a": 1}\n\n'


def test_every_line_of_text_is_a_data_line_of_its_own():
    assert sse.message("a\nb\r\nc\rd") == b"data: a\ndata: b\ndata: c\ndata: d\n\n"


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\ndata: forged"])
def test_a_name_is_one_line(name):
    with pytest.raises(ValueError, match="line break"):
        sse.message("x", name)


def stream(feed):
    return sse.FeedStream(feed)


def test_the_feed_comes_from_its_beginning_and_says_when_to_come_back():
    feed = Feed()
    feed.publish("state", state="running")
    first, second = islice(stream(feed).pieces(0, True), 2)
    assert first == b"retry: 1000\n\n"
    assert b"event: state\n" in second
    assert b'"state": "running"' in second


def test_a_client_that_was_here_gets_what_it_missed():
    feed = Feed()
    for number in range(3):
        feed.publish("x", number=number)
    events = stream(feed)
    _, piece = islice(events.pieces(0, True), 2)
    ids = [line[4:].decode() for line in piece.splitlines() if line.startswith(b"id: ")]
    _, rest = islice(events.pieces(events.known(ids[1]), True), 2)
    assert b'"number": 2' in rest
    assert b'"number": 1' not in rest


def test_a_client_of_an_earlier_run_of_the_wrapper_begins_anew():
    feed = Feed()
    feed.publish("x")
    assert stream(feed).known("abcdef-1") == 0


def test_what_is_no_id_is_no_id():
    feed = Feed()
    feed.publish("x")
    events = stream(feed)
    assert [events.known(text) for text in (None, "", "x", "\u0661", "5", "99-", "9" * 5000)] == [0] * 7
    assert events.known("1") == 1
    assert events.known("now") == 1


def test_silence_is_broken_now_and_then(monkeypatch):
    """Else it would not be noticed that the client is gone."""
    monkeypatch.setattr(sse, "HEARTBEAT_INTERVAL", 0.01)
    _, second = islice(stream(Feed()).pieces(0, True), 2)
    assert second == b": \n\n"


def test_the_stream_ends_with_the_wrapper():
    feed = Feed()
    feed.publish("end")
    assert len(list(stream(feed).pieces(0, True))) == 2
