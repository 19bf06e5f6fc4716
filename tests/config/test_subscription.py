"""subscription.py: what counts as a change, how often one is brought, and that a watcher never dies silently."""

from __future__ import annotations

import os
import queue
import threading
import time

import pytest

from tests.running import wait_until
from wrapper import text
from wrapper.config import source as sources, subscription as room
from wrapper.config.subscription import Pace, Subscription, problems_of
from wrapper.deadline import Deadline
from wrapper.problems import Problem


class Stage:
    """A source that the test changes, and a handler that notes what it was called with."""

    def __init__(self, board, feed, pace, **options):
        self.value = "one"
        self.looks = 0
        self.changes = queue.Queue()
        self.verdict = lambda value: None
        self.board = board
        self.subscription = Subscription("rules", sources.of(self.fetch), self.change, pace, board, feed, **options)

    def fetch(self):
        self.looks += 1
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    def change(self, value):
        self.changes.put(value)
        return self.verdict(value)

    def next_change(self):
        return self.changes.get(timeout=10)

    def settle(self, looks=3):
        """Wait until the source was looked at a few times more."""
        seen = self.looks
        wait_until(lambda: self.looks >= seen + looks)

    @property
    def problems(self):
        return [entry["message"] for entry in self.board.list()]

    @property
    def status(self):
        return self.subscription.status()


@pytest.fixture
def make(board, feed):
    stages = []

    def start(pace=None, **options):
        stages.append(Stage(board, feed, pace or Pace(0.01), **options))
        return stages[-1]

    yield start
    for stage in stages:
        stage.subscription.stop()


def test_a_change_is_brought_once(make):
    stage = make()
    stage.subscription.start()
    assert stage.next_change() == "one"
    stage.settle()
    stage.value = "two"
    assert stage.next_change() == "two"
    stage.settle()
    assert stage.changes.empty()
    assert stage.status["hash_seen"] == stage.status["hash_applied"]
    assert stage.status["last_result"] == "applied"


def test_only_the_selected_part_counts(make):
    stage = make(read=lambda snapshot: sources.document(snapshot, must_be_json=True)["a"])
    stage.value = {"a": 1, "b": 1}
    stage.subscription.start()
    assert stage.next_change() == 1
    stage.value = {"a": 1, "b": 2}
    stage.settle()
    assert stage.changes.empty()


def test_a_rejected_value_is_not_tried_again_and_the_good_one_is(make):
    """Lesson of the field: going back to the last good configuration was compared with the wrong hash."""
    stage = make()
    stage.verdict = lambda value: [Problem("it is bad")] if value == "bad" else None
    stage.subscription.start()
    assert stage.next_change() == "one"
    stage.value = "bad"
    assert stage.next_change() == "bad"
    wait_until(lambda: stage.problems == ["it is bad"])
    stage.settle()
    assert stage.changes.empty()
    assert stage.status["hash_rejected"] == stage.status["hash_seen"]
    stage.value = "one"
    assert stage.next_change() == "one"
    wait_until(lambda: stage.problems == [])
    assert stage.status["hash_rejected"] is None
    stage.value = "bad"
    assert stage.next_change() == "bad", "the source has changed in between"


def test_what_the_content_is_not_to_blame_for_is_tried_again(make):
    stage = make()
    answers = iter([[Problem("busy", retry=True)], [Problem("busy", retry=True)], []])
    stage.verdict = lambda value: next(answers)
    stage.subscription.start()
    assert [stage.next_change() for _ in range(3)] == ["one"] * 3
    wait_until(lambda: stage.status["last_result"] == "applied")
    wait_until(lambda: stage.problems == [])  # which go after that was noted


def test_the_newest_of_a_burst_is_brought_no_more_often_than_allowed(make):
    stage = make(Pace(0.002, min_interval=3600))
    stage.subscription.start()
    assert stage.next_change() == "one"
    wait_until(lambda: stage.status["last_result"] == "applied")
    for number in range(200):
        stage.value = number
        stage.subscription.fetch_now()
    wait_until(lambda: stage.status["hash_seen"] == text.fingerprint(199))
    assert stage.changes.empty()
    stage.subscription._next_change = Deadline(0)
    assert stage.next_change() == 199
    stage.settle()
    assert stage.changes.empty()


def test_a_change_that_is_taken_back_while_it_waits_is_none(make):
    stage = make(Pace(0.01, min_interval=3600))
    stage.subscription.start()
    stage.next_change()
    stage.value = "two"
    wait_until(lambda: stage.status["pending"])
    stage.value = "one"
    wait_until(lambda: not stage.status["pending"])
    assert stage.changes.empty()


def test_a_fleet_is_spread(make, monkeypatch):
    monkeypatch.setattr(room.random, "uniform", lambda low, high: high)
    stage = make(Pace(0.01, splay=0.3))
    begin = time.monotonic()
    stage.subscription.start()
    stage.next_change()
    assert time.monotonic() - begin > 0.25


def test_a_source_that_fails_is_quiet_at_first_then_a_problem_then_none(make):
    stage = make()
    stage.value = OSError("away")
    stage.subscription.start()
    wait_until(lambda: stage.problems)
    assert stage.looks >= 3
    assert stage.status["failures"] >= 3
    assert "never" in stage.status["last_result"] or "fetch failed: OSError at" in stage.status["last_result"]
    assert "has not answered since the start" in stage.problems[0]
    assert stage.status["stale_since"] is not None
    stage.value = "one"
    stage.subscription.fetch_now()
    stage.next_change()
    wait_until(lambda: stage.problems == [])
    assert stage.status["stale_since"] is None
    stage.value = OSError("away")
    wait_until(lambda: stage.problems)
    assert "stale since 20" in stage.problems[0]


def test_a_source_that_is_always_being_written_is_a_problem(tmp_path, board, feed):
    file = tmp_path / "source"
    subscription = Subscription("rules", sources.of(str(file)), pytest.fail, Pace(0.01), board, feed)
    for number in range(room.RESTLESS_FETCHES + room.QUIET_FAILURES):
        file.write_text("x" * (number + 1))
        assert not subscription._fetch()
    assert "changes all the time" in board.list()[0]["message"]
    assert [subscription._fetch(), subscription._fetch()] == [True, True]
    assert board.list() == []


def test_looks_at_a_source_that_keeps_failing_become_rare(make):
    stage = make(Pace(0.01))
    pauses = []
    for failures in range(30):
        stage.subscription._record.failed_fetches = failures
        pauses.append(stage.subscription._pause())
    assert pauses[2] < 0.02
    assert pauses == sorted(pauses) or all(pause <= 66 for pause in pauses)
    assert 54 <= pauses[-1] <= 66


def test_a_part_that_is_missing_is_named(make):
    stage = make(read=lambda snapshot: sources.document(snapshot, must_be_json=True)["alerts"])
    stage.value = {}
    stage.subscription.start()
    wait_until(lambda: stage.problems)
    assert "the selection of rules failed: KeyError at test_subscription.py:" in stage.problems[0]


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(1), KeyboardInterrupt()])
def test_a_handler_that_raises_is_a_problem_and_the_watch_goes_on(make, error):
    stage = make()

    def fail(value):
        raise error

    stage.verdict = fail
    stage.subscription.start()
    stage.next_change()
    wait_until(lambda: stage.problems)
    assert f"the handler of rules failed: {type(error).__name__}" in stage.problems[0]
    stage.verdict = lambda value: None
    stage.value = "two"
    assert stage.next_change() == "two"
    wait_until(lambda: stage.problems == [])


def test_what_a_handler_raises_is_for_the_log_only(make, capfd):
    stage = make()
    stage.verdict = lambda value: {}["secret-1"]
    stage.subscription.start()
    wait_until(lambda: stage.problems)
    assert "the handler of rules failed: KeyError at test_subscription.py:" in stage.problems[0]
    assert "secret-1" not in str(stage.board.list()) + str(stage.status)
    assert "secret-1" in capfd.readouterr().err


def test_a_watcher_that_dies_is_started_again(make, monkeypatch):
    """Lesson of the field: the watch died silently and stayed dead for a whole release."""
    monkeypatch.setattr(room, "REVIVAL_PAUSE", 0.01)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    stage = make()
    fetch = stage.subscription._fetch
    died = []

    def die_once(*early):
        if not died:
            died.append(True)
            raise MemoryError
        return fetch()

    monkeypatch.setattr(stage.subscription, "_fetch", die_once)
    stage.subscription.start()
    assert stage.next_change() == "one"
    wait_until(lambda: stage.problems == [])
    assert died


def test_a_change_that_a_watcher_died_with_is_brought_again(tmp_path, board, feed, monkeypatch):
    """The source would say for ever that nothing has changed."""
    monkeypatch.setattr(room, "REVIVAL_PAUSE", 0.01)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    (tmp_path / "file").write_text("one")
    os.utime(tmp_path / "file", (1000, 1000))  # it might change again within the grain of the clock
    changes, died = [], []
    watched = Subscription("rules", sources.of(str(tmp_path / "file")), changes.append, Pace(0.01), board, feed)
    bring = watched._bring

    def die_once(value):
        if not died:
            died.append(value)
            raise RuntimeError("can't start new thread")
        return bring(value)

    monkeypatch.setattr(watched, "_bring", die_once)
    watched.start()
    wait_until(lambda: changes == ["one"])
    assert died == ["one"]
    watched.stop()


def test_a_watcher_that_dies_at_once_is_not_started_again_and_again(make, monkeypatch):
    """A look was asked for meanwhile, which only the watcher takes back."""
    stage, pauses = make(), []

    def die():
        raise MemoryError

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            stage.subscription.stop()

    monkeypatch.setattr(stage.subscription, "_watch", die)
    monkeypatch.setattr(stage.subscription._stopping, "wait", pause)
    stage.subscription.fetch_now()
    stage.subscription.start()
    wait_until(lambda: pauses == [1.0, 2.0, 4.0])


def test_a_handler_that_hangs_is_a_problem(make, monkeypatch):
    monkeypatch.setattr(room, "SLOW_SECONDS", 0.05)
    stage = make()
    free = threading.Event()
    stage.verdict = lambda value: free.wait(10) and None
    stage.subscription.start()
    wait_until(lambda: any("has not returned" in problem for problem in stage.problems))
    free.set()
    wait_until(lambda: stage.problems == [])


def test_a_handler_that_returns_while_it_is_said_to_hang_leaves_no_problem(make, monkeypatch):
    """It would stand there until the next change."""
    monkeypatch.setattr(room, "SLOW_SECONDS", 0.01)
    stage, is_late, is_said = make(), threading.Event(), threading.Event()
    report = stage.board.report

    def report_late(*words):
        is_late.set()
        is_said.wait(0.2)  # in which the handler is back
        report(*words)
        is_said.set()

    monkeypatch.setattr(stage.board, "report", report_late)
    stage.verdict = lambda value: is_late.wait(20) and None
    stage.subscription.start()
    assert is_said.wait(20)
    wait_until(lambda: stage.problems == [])


def test_nothing_wakes_while_nothing_is_due(make):
    stage = make(Pace(3600))
    stage.subscription.start()
    stage.next_change()
    looks = stage.looks
    stage.value = "two"
    stage.subscription.fetch_now()
    assert stage.next_change() == "two"
    assert stage.looks == looks + 1


def test_the_first_value_is_brought_before_the_watch_begins(make):
    stage = make()
    rest, allowed = threading.Event(), Deadline(60)
    brought = []

    def bring(value, deadline):
        brought.append((value, deadline))
        return [], lambda: rest.set() or []

    stage.subscription.first(allowed, bring)
    assert brought == [("one", allowed)]
    assert stage.status["hash_applied"] is None, "it is not known yet whether the service starts with it"
    stage.subscription.start()
    assert rest.wait(20)
    stage.settle(1)
    assert stage.status["last_result"] == "applied"
    assert stage.changes.empty()


def test_a_source_that_does_not_answer_holds_the_start_up_no_longer_than_allowed(make, monkeypatch):
    stage = make()
    stage.value = OSError("away")
    allowed = Deadline(0.3)
    monkeypatch.setattr(room, "EARLY_PAUSE", 0.02)
    stage.subscription.first(allowed, lambda *_: pytest.fail("there is no value"))
    assert allowed.has_passed()
    assert stage.problems == []
    assert stage.status["failures"] == 0, "quick looks before the start are no reason to look more rarely behind it"
    looks = stage.looks
    stage.subscription.first(Deadline(0), lambda *_: pytest.fail("there is no value"))
    assert stage.looks == looks


def test_the_last_pause_before_the_start_ends_with_the_time_allowed(make, monkeypatch):
    stage, pauses, allowed = make(), [], Deadline(3600)
    stage.value = OSError("away")

    def pass_by(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            allowed._end = 0.0  # over

    monkeypatch.setattr(stage.subscription._wake, "wait", pass_by)
    monkeypatch.setattr(Deadline, "remaining", lambda deadline: 0.15)
    stage.subscription.first(allowed, lambda *_: pytest.fail("there is no value"))
    assert pauses == [0.1, 0.15]


def test_a_hanging_source_holds_the_start_up_no_longer_than_allowed(make):
    stage, free, came_back = make(), threading.Event(), threading.Event()
    stage.subscription._source = sources.of(lambda: (free.wait(60), came_back.set()))
    stage.subscription.first(Deadline(0.2), lambda *_: pytest.fail("there is no value"))
    assert not came_back.is_set()
    free.set()


def test_an_error_of_ours_before_the_start_is_made_good_behind_it(make):
    stage = make()

    def fail(value, deadline):
        raise OSError(24, "Too many open files")

    stage.subscription.first(Deadline(60), fail)
    assert "OSError" in stage.problems[0]
    stage.subscription.start()
    assert stage.next_change() == "one"
    wait_until(lambda: stage.problems == [])


def test_the_first_change_counts_for_the_least_time_between_two(make):
    stage = make(Pace(0.01, min_interval=0.4))
    begin = time.monotonic()  # before the first change is: the time between the two counts from there
    stage.subscription.first(Deadline(60), lambda value, deadline: ([], None))
    stage.value = "two"
    stage.subscription.start()
    assert stage.next_change() == "two"
    assert time.monotonic() - begin > 0.3


@pytest.mark.parametrize("value", [map(str, []), {1: "a", "b": 2}, {"a": object()}])
def test_a_value_that_cannot_be_compared_is_a_look_that_failed(make, value):
    """What differs from itself at every fetch would be a change at every fetch."""
    stage = make()
    stage.value = value
    stage.subscription.start()
    wait_until(lambda: stage.problems)
    assert "cannot be compared" in stage.problems[0]
    assert stage.changes.empty()


def test_what_was_rejected_is_still_said_to_be_when_the_source_is_back(make):
    stage = make()
    stage.verdict = lambda value: "it is bad"
    stage.subscription.start()
    wait_until(lambda: stage.status["last_result"] == "rejected: it is bad")
    stage.value = OSError("away")
    wait_until(lambda: "cannot fetch" in stage.status["last_result"])
    stage.value = "one"
    stage.subscription.fetch_now()
    wait_until(lambda: stage.status["last_result"] == "rejected: it is bad")


def test_a_look_that_failed_is_not_said_to_while_the_next_change_is_under_way(make):
    stage, free = make(), threading.Event()
    stage.value, stage.verdict = OSError("away"), lambda value: free.wait(20) and None
    stage.subscription.start()
    wait_until(lambda: "cannot fetch" in stage.status["last_result"])
    stage.value = "one"
    assert stage.next_change() == "one"
    assert stage.status["last_result"] == "changed, not in force yet"
    free.set()
    wait_until(lambda: stage.status["last_result"] == "applied")


def test_events_tell_of_changes(make, feed):
    stage = make()
    stage.verdict = lambda value: "no good" if value == "two" else None
    stage.subscription.start()
    stage.next_change()
    stage.value = "two"
    stage.next_change()
    wait_until(lambda: [event["result"] for event in feed.after(0) if event["kind"] == "config"]
               == ["applied", "rejected"])


@pytest.mark.parametrize(("returned", "messages"), [
    (None, []), (True, []), ([], []), ((), []), ("no", ["no"]), (False, ["the handler says no"]),
    (Problem("a"), ["a"]), (["a", Problem("b")], ["a", "b"]),
])
def test_a_handler_may_say_it_in_several_ways(returned, messages):
    assert [problem.message for problem in problems_of(returned)] == messages


def test_a_304_for_what_was_no_good_is_no_answer(board, feed):
    """A document that could not be read must not count as seen, or it would stay unread for ever."""

    class Source:
        name = "it"
        forgotten = 0

        def fetch(self, within=None):
            return sources.Snapshot(b"{half", None, True)

        def forget(self):
            self.forgotten += 1

    origin = Source()
    subscription = Subscription("x", origin, print, Pace(1), board, feed,
                                lambda snapshot: sources.document(snapshot, must_be_json=True))
    assert subscription._fetch() is False
    assert origin.forgotten == 1


def test_what_is_skipped_is_not_brought_until_the_source_changes(make):
    """An operator went back: neither what is in force, nor what waits, nor what failed and would be tried again."""
    stage = make()
    stage.verdict = lambda value: [Problem("later", retry=True)] if value == "two" else None
    stage.subscription.start()
    assert stage.next_change() == "one"
    stage.value = "two"
    assert stage.next_change() == "two"
    with stage.subscription.bringing:
        stage.subscription.skip(stage.subscription.hash_seen, "version 1 is in force again")
    while not stage.changes.empty():
        stage.changes.get()
    stage.settle()
    assert stage.changes.empty()
    assert stage.status["last_result"] == "skipped: version 1 is in force again"
    assert stage.problems == []
    stage.value = "one"
    assert stage.next_change() == "one"
    stage.value = "two"
    assert stage.next_change() == "two"


def test_it_is_told_of_every_fetch(make):
    looks = threading.Event()
    make(after_fetch=looks.set).subscription.start()
    assert looks.wait(10)
