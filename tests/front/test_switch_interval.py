"""switch_interval.py: the interpreter's switch interval is short as long as one call asks for it."""

from __future__ import annotations

import sys

import pytest

from wrapper.front.switch_interval import SHORT, SwitchInterval


def test_the_interval_is_short_until_the_last_that_asked_is_done():
    before, interval = sys.getswitchinterval(), SwitchInterval()
    interval.shorten()
    interval.shorten()
    interval.lengthen()
    assert sys.getswitchinterval() == pytest.approx(SHORT)
    interval.lengthen()
    assert sys.getswitchinterval() == pytest.approx(before)


def test_an_interval_that_is_shorter_already_stays(monkeypatch):
    chosen = []
    monkeypatch.setattr(sys, "getswitchinterval", lambda: SHORT / 2)
    monkeypatch.setattr(sys, "setswitchinterval", chosen.append)
    interval = SwitchInterval()
    interval.shorten()
    interval.lengthen()
    assert chosen == [SHORT / 2, SHORT / 2]
