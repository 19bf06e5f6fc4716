"""threads.py: threads with a name that end with the process, and what is done where none can be had."""

from __future__ import annotations

import threading

import pytest

from wrapper import threads
from wrapper.threads import BoundedCall, NoThread, matter_of_caller


@pytest.fixture
def scarce(monkeypatch):
    """No thread can be had, as at a limit on processes."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_a_thread_has_its_name_and_does_not_keep_the_process_alive():
    seen = []
    thread = threads.start("a name", lambda *given: seen.append((threading.current_thread(), *given)), 1, 2)
    thread.join(20)
    assert seen == [(thread, 1, 2)]
    assert (thread.name, thread.daemon) == ("a name", True)


def test_where_no_thread_can_be_had_the_caller_is_told(scarce):
    with pytest.raises(NoThread, match="can't start new thread"):
        threads.start("a name", bool)
    with pytest.raises(NoThread):
        threads.start_timer("a name", 0, bool)


def test_work_that_may_wait_for_no_thread_is_done_here(scarce):
    seen = []
    threads.start_or_do("a name", lambda: seen.append(threading.current_thread()))
    assert seen == [threading.current_thread()]


def test_a_timer_does_its_work_unless_it_is_cancelled():
    done = threading.Event()
    threads.start_timer("cancelled", 60, pytest.fail).cancel()
    timer = threads.start_timer("a name", 0, done.set)
    assert done.wait(20)
    assert (timer.name, timer.daemon) == ("a name", True)


def test_what_is_watched_goes_on_without_a_watchdog(scarce, capfd):
    threads.start_watchdog("a name", 0, pytest.fail).cancel()
    assert "no thread can be had to look on name='a name'" in capfd.readouterr().err


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
