"""render.py: what is known, as text for people."""

from __future__ import annotations

import re

import pytest

from wrapper.ctl import render
from wrapper.ctl.render import Paint

NOW = 1769860800.0  # 2026-01-31T12:00:00Z
PLAIN, COLOURED = Paint(False), Paint(True)
STATUS = {"state": "running", "since": "2026-01-31T11:56:00Z", "reason": "ready", "ready": True, "pid": 12,
          "generation": 3, "restarts": 2, "restarts_planned": 2, "crashes": 0,
          "last_exit": {"status": 143, "signal": "TERM", "planned": True, "at": "2026-01-31T11:55:58Z"},
          "in_flight": 1, "held": 0, "uptime_seconds": 3725.0, "problems": 0, "version": "1.2", "helpers": {}}


def overview(status=STATUS, problems=(), config=()):
    return "\n".join(render.overview(status, problems, config, PLAIN, NOW, "pid 1 at /run/x"))


def test_the_overview_begins_with_the_state_and_for_how_long():
    assert overview().splitlines()[0] == "service    running for 4m 00s, since 2026-01-31 11:56:00Z"


def test_the_overview_says_everything_of_the_contract():
    text = overview()
    for fact in ("pid 12", "generation 3", "planned restarts: 2, crashes: 0", "signal TERM, planned",
                 "1 in flight, 0 held", "none", "1.2, up 1h 02m, pid 1 at /run/x"):
        assert fact in text


def test_the_overview_says_that_all_is_held():
    """Else a running service without a problem answers no client, and nothing tells why."""
    assert overview({**STATUS, "paused": "a migration"}).count("1 in flight, 0 held; paused: a migration\n") == 1


def test_helpers_problems_and_configuration_have_their_lines():
    problem = {"source": "config:rules", "message": "cannot fetch", "since": "2026-01-31T11:59:00Z", "count": 4,
               "details": {"tried": "http://a"}}
    config = {"name": "rules", "source": "http://a", "hash_applied": "a" * 64, "hash_seen": "b" * 64,
              "last_fetch": "2026-01-31T11:59:55Z", "stale_since": "2026-01-31T11:00:00Z", "last_result": "refused"}
    text = overview({**STATUS, "helpers": {"mail": STATUS}}, [problem], [config])
    assert "\nmail " in text
    assert "! config:rules: cannot fetch (for 1m 00s, seen 4 times)" in text
    assert "tried: http://a" in text
    assert "rules: applied aaaaaaaaaaaa, seen bbbbbbbbbbbb, looked 5s ago, stale for 1h 00m\n" in text
    assert re.search(r"^ +refused$", text, re.MULTILINE)


def test_a_message_cannot_steer_the_terminal():
    """An escape sequence in what a service or a source said must be shown, not obeyed (CWE-150)."""
    problem = {"source": "x", "message": "\x1b[2Jgone\nforged line", "since": "2026-01-31T11:59:00Z"}
    (line,) = render.problem_lines([problem], PLAIN, NOW)
    assert line.isprintable()


@pytest.mark.parametrize(("seconds", "text"), [
    (0, "0s"), (59.9, "59s"), (60, "1m 00s"), (3599, "59m 59s"), (3660, "1h 01m"), (90000, "1d 01h")])
def test_spans_have_two_units_at_most(seconds, text):
    assert render.span(seconds) == text


@pytest.mark.parametrize(("event", "text"), [
    ({"kind": "state", "service": "service", "state": "draining", "before": "running", "reason": "restart"},
     "running -> draining  restart"),
    ({"kind": "state", "service": "mail", "state": "failed", "before": "running", "reason": "gone"},
     "mail: running -> failed  gone"),
    ({"kind": "exit", "service": "service", "status": 7, "signal": None, "planned": False},
     "the service ended: status 7, by itself"),
    ({"kind": "problem", "source": "x", "message": "it hurts"}, "problem: it hurts"),
    ({"kind": "resolved", "source": "x", "message": "it hurt"}, "problem gone: it hurt"),
    ({"kind": "config", "name": "rules", "result": "applied"}, "config  name=rules result=applied")])
def test_every_event_is_one_line(event, text):
    assert render.event_line({"at": "2026-01-31T12:00:00Z", "id": 1, **event}, PLAIN) == f"2026-01-31 12:00:00Z  {text}"


def test_colours_only_where_they_are_wanted():
    assert PLAIN.state("failed") == "failed"
    assert COLOURED.state("failed") == "\x1b[31mfailed\x1b[0m"


def test_what_does_not_fit_is_cut_from_below_and_at_the_right():
    """A terminal that scrolls would show the end, and the state stands at the beginning."""
    lines = [COLOURED("31", "abcdef") + "ghi", "second", "third", "fourth"]
    assert render.fitting(lines, 8, 4) == ["\x1b[31mabcdef\x1b[0mgh", "second", "third", "fourth"]
    assert render.fitting(lines, 4, 3) == ["\x1b[31mabcd\x1b[0m", "seco", "2 mo"]
    assert render.fitting(lines, 80, 1) == lines[:1]


@pytest.mark.parametrize(("facts", "line"), [
    ({"step": "starting", "pid": 12, "reason": "a test"}, "starting the next run, pid 12  a test"),
    ({"step": "failed", "reason": "it ended with status 9"}, "the next run failed  it ended with status 9")])
def test_a_restart_that_overlaps_is_told_while_it_happens(facts, line):
    event = {"kind": "next", "service": "service", "at": "2026-01-31T12:00:00Z", **facts}
    assert render.event_line(event, PLAIN) == f"2026-01-31 12:00:00Z  {line}"


def test_versions_and_differences_have_a_line_each():
    version = {"version": 12, "at": "2026-01-31T12:00:00Z", "reason": "configuration x", "files": ["/x"],
               "environment": ["A\x1b"]}
    assert render.version_lines([version, {**version, "version": 2}]) == [
        f"{number}  2026-01-31 12:00:00Z  configuration x: /x, A\\x1b" for number in ("12", "2 ")]
    found = {"files": {"/x": ["-a", "+b\x1b"]}, "environment": {"added": ["A"], "removed": [], "changed": ["B"]}}
    assert render.diff_lines(found, PLAIN) == ["/x", "-a", "+b\\x1b", "environment: A added", "environment: B changed"]
    assert render.diff_lines(found, COLOURED)[1] == "\x1b[31m-a\x1b[0m"


def test_a_restart_is_summed_up_in_one_line():
    event = {"kind": "restarted", "service": "service", "at": "2026-01-31T12:00:00Z", "first": 3, "held": 0,
             "message": "restarted in 3.1 s: a test; 0 held, 0 failed"}
    assert render.event_line(event, PLAIN) == "2026-01-31 12:00:00Z  restarted in 3.1 s: a test; 0 held, 0 failed"
