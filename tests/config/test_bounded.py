"""bounded.py: authors' code for a bounded time, and what it says was wrong."""

from __future__ import annotations

import sys
import threading

import pytest

from wrapper.config.bounded import BoundedCall, matter_of_caller, verdict
from wrapper.problems import Problem


def test_a_call_has_its_value_or_its_error():
    assert BoundedCall("a call", lambda one, two: one + two, (1, 2), 20).value == 3
    call = BoundedCall("a call", lambda: 1 // 0, (), 20)
    assert call.is_over and isinstance(call.error, ZeroDivisionError)


def test_a_call_that_hangs_is_left_alone():
    go_on = threading.Event()
    call = BoundedCall("a call", go_on.wait, (20,), 0.01)
    assert not call.is_over
    go_on.set()


def test_what_a_call_is_about_is_known_inside_of_it_and_nowhere_else():
    assert BoundedCall("a call", matter_of_caller, (), 20, "the matter").value == "the matter"
    assert matter_of_caller() is None


@pytest.mark.parametrize("value", [None, True, [], ()])
def test_nothing_was_wrong(value):
    assert verdict("the probe", lambda: value, (), 20) is None


@pytest.mark.parametrize(("value", "said"), [
    (False, "the probe failed: it says no"), ("too few", "the probe failed: too few"),
    (Problem("too few"), "the probe failed: too few"), ([Problem("one"), Problem("two")], "the probe failed: one"),
])
def test_what_was_wrong_is_said(value, said):
    assert verdict("the probe", lambda: value, (), 20) == said


def test_one_that_raises_or_leaves_or_hangs_says_so():
    assert verdict("the probe", lambda: 1 // 0, (), 20).startswith("the probe failed: ZeroDivisionError")
    assert verdict("the probe", sys.exit, (), 20).startswith("the probe failed: SystemExit")
    go_on = threading.Event()
    assert verdict("the probe", go_on.wait, (20,), 0.01) == "the probe has not come back within 0.01 s"
    go_on.set()
