"""deadline.py: what is left until a moment."""

from __future__ import annotations

from wrapper.deadline import Deadline


def test_deadlines():
    assert Deadline(None).remaining() is None
    assert not Deadline(None).has_passed()
    assert Deadline(0).has_passed()
    assert Deadline(0).remaining() == 0
    assert Deadline(100).sooner(5) == 5
    assert Deadline(1).sooner(5) <= 1
