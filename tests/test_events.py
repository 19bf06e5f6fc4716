"""events.py: the feed of what happened, in order and bounded."""

from __future__ import annotations

import threading

from wrapper.events import HISTORY, Feed


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
