"""text.py: what others wrote, made fit to be shown."""

from __future__ import annotations

import datetime
import hashlib
import json
import sys

import pytest

from tests.sidecar.parts import make_request, make_site
from wrapper import text
from wrapper.log import timestamp
from wrapper.text import dumps, fingerprint


@pytest.mark.parametrize(("given", "shown"), [
    ("a\tb\nc\n", "a\tb\nc\n"), ("a\r\nb\r", "a\nb\\r"), ("\x1b[2J\x00\x9b", "\\x1b[2J\\x00\\x9b"), ("", ""),
    ("caf\xe9 \u2603", "caf\xe9 \u2603"), ("\u202e", "\\u202e")])
def test_lines_and_tabs_stay_and_control_characters_are_shown(given, shown):
    assert text.printable(given) == shown


@pytest.mark.parametrize(("called", "package", "words"), [
    ("/usr/local/bin/wrapper", "", "wrapper"), ("/x/wrapper/__main__.py", "wrapper", "python3 -m wrapper"),
    ("/opt/wrapper/__main__.py", None, "python3 /opt/wrapper/__main__.py")])
def test_the_program_is_named_as_it_was_called(monkeypatch, called, package, words):
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(sys.modules["__main__"], "__package__", package)
    assert text.program() == words


class Odd:
    def __str__(self):
        raise ValueError


def within_itself():
    inner = {}
    inner["self"] = inner
    return inner


@pytest.mark.parametrize(("value", "found"), [
    ({"a": [1, 2.5, None, True, "x"]}, {"a": [1, 2.5, None, True, "x"]}),
    ({(1, 2): 3}, {"(1, 2)": 3}),
    ([float("nan"), float("inf")], ["nan", "inf"]),
    ({"at": datetime.date(2026, 1, 31)}, {"at": "2026-01-31"}),
    ({"odd": Odd()}, {"odd": "Odd"}),
    ({(): 10**400}, {"()": 10**400}),
])
def test_what_json_does_not_have_becomes_text(value, found):
    assert json.loads(dumps(value), parse_constant=pytest.fail) == found


def test_a_number_that_is_too_long_to_read_is_survived():
    assert isinstance(json.loads(dumps([10**5000]), parse_int=str)[0], str)


def test_what_holds_itself_ends_somewhere():
    assert json.loads(dumps(within_itself()))


@pytest.mark.parametrize("detail", [{(1, 2): 3}, float("nan"), Odd(), within_itself()])
def test_one_odd_detail_does_not_hide_the_problems(detail):
    site = make_site()
    site.around.board.report("sidecar:mine", "it hurts", odd=detail)
    answer = site.answer(make_request("GET", "/sidecar/api/problems", trusted=True))
    assert json.loads(answer.whole(), parse_constant=pytest.fail)[0]["message"] == "it hurts"


def test_epoch_reads_what_the_log_writes():
    assert text.epoch("1970-01-01T00:01:00Z") == 60
    assert text.epoch(timestamp(1769860800)) == 1769860800


def test_what_is_no_moment_is_none():
    assert [text.epoch(moment) for moment in (None, "", "soon")] == [None] * 3


def test_what_is_still_to_come_was_no_time_ago():
    """Two clocks may differ, and one may be set back."""
    assert [text.elapsed("1970-01-01T00:01:00Z", now) for now in (61.2345, 59)] == [1.234, 0]
    assert text.elapsed("soon", 3) is None


def test_text_is_kept_but_for_control_characters():
    assert text.one_line("größe 日本 \x1b[31m") == "größe 日本 \\x1b[31m"


def test_text_has_the_fingerprint_of_sha256sum():
    assert fingerprint("x\n") == fingerprint(b"x\n") == hashlib.sha256(b"x\n").hexdigest()[:12]


def test_the_order_of_what_has_none_does_not_count():
    assert fingerprint({"a": {1, 2}, "b": b"x"}) == fingerprint({"b": b"x", "a": {2, 1}})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    with pytest.raises(TypeError, match="a object"):
        fingerprint(object())


def test_equal_values_have_equal_fingerprints():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
