"""wakeup.py: waits that end with a run or with the wrapper."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from wrapper.service.wakeup import ENDING, WakeUp


class Run:
    """A run that ends when it is told to."""

    process = SimpleNamespace(fault="it ended with status 1")
    has_ended = False


def test_work_in_the_background_says_what_went_wrong():
    wake_up = WakeUp("test")
    assert wake_up.in_background(Run(), lambda: "broken") == "broken"
    assert wake_up.in_background(Run(), lambda: None) is None
    assert "ZeroDivisionError" in wake_up.in_background(Run(), lambda: 1 // 0)


def test_work_is_left_alone_once_the_run_or_the_wrapper_ends():
    wake_up, run, forever = WakeUp("test"), Run(), threading.Event()

    def end():
        run.has_ended = True
        wake_up.set()
        return forever.wait(20) and None

    assert wake_up.in_background(run, end) == "it ended with status 1"
    run.has_ended, wake_up.ending = False, 15
    assert wake_up.in_background(run, lambda: forever.wait(20) and None) == ENDING
    forever.set()
