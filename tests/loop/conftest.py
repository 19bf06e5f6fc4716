"""The loop's time in a test's hand."""

import types

import pytest

from tests.loop.driving import settle, told
from wrapper.loop import loop as loop_room


@pytest.fixture
def clock(loop, monkeypatch):
    """The loop's time: it stands still until a test moves it. `clock.pass_by(seconds)` returns once that was seen."""
    made = types.SimpleNamespace(now=1000.0)
    told(loop, monkeypatch.setattr, loop_room, "time", types.SimpleNamespace(monotonic=lambda: made.now))

    def pass_by(seconds):
        made.now += seconds
        settle(loop)

    made.pass_by = pass_by
    settle(loop)
    return made
