"""The guard itself: it sees what blocks a loop, and nothing else."""

import gc
import itertools
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.guard import LONGEST, _allowed, guard
from tests.loop.driving import begin, done, settle, told
from tests.running import ROOT, Wrapper, service
from wrapper.loop.loop import NEVER, NEXT_TURN, Notice


@pytest.fixture(autouse=True)
def _undisturbed(monkeypatch):
    """No step counts as preempted, however busy the machine is."""
    monkeypatch.setattr("tests.guard._preemptions", int)


def compute(seconds):
    """Keep the processor for that long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def opens():
    with open(__file__, encoding="utf-8"):
        pass


def looks_up():
    socket.getaddrinfo("127.0.0.1", 80)


def lists():
    os.listdir(".")


def runs():
    subprocess.run(["true"], check=True)


def sleeps():
    time.sleep(0)  # that it is done at all is the offence


@pytest.mark.parametrize(("call", "event"), [
    (opens, "open"), (looks_up, "socket.getaddrinfo"), (lists, "os.listdir"), (runs, "subprocess.Popen"),
    (sleeps, "time.sleep"),
])
def test_what_waits_for_something_is_an_offence_on_a_loop_and_nowhere_else(loop, call, event):
    call()
    done(loop, loop.in_thread(call))
    assert guard.take() == []
    told(loop, call)
    offence = guard.take()[0]
    assert offence.startswith(event) and f"test_guard.py:{call.__code__.co_firstlineno + 1} {call.__name__}" in offence


def step(call):
    call()
    yield NEXT_TURN


@pytest.fixture
def at_rest(monkeypatch):
    """What a task may take is not stretched, as it is where the machine is found busy."""
    monkeypatch.setattr("tests.guard._allowed", lambda: LONGEST)
    monkeypatch.setattr("tests.guard._is_hurried", lambda: False)


def test_a_busy_machine_stretches_what_a_task_may_take(monkeypatch):
    monkeypatch.setattr("tests.guard.time.thread_time", iter([1.0, 1.004]).__next__)
    assert _allowed() == pytest.approx(2 * LONGEST)


def test_a_task_that_computes_for_long_is_an_offence(loop, at_rest):
    done(loop, step(lambda: compute(LONGEST * 1.5)))
    settle(loop)
    offence, = guard.take()
    assert "ms of the processor" in offence and "test_guard.py" in offence


def test_so_is_what_an_interrupt_makes_it_compute(loop, at_rest):
    def steps():
        try:
            yield NEVER, Notice(loop)
        except KeyError:
            compute(LONGEST * 1.5)

    task, _ = begin(loop, steps())
    loop.post(task.interrupt, KeyError())
    settle(loop)
    assert len(guard.take()) == 1


def test_computing_within_bounds_or_elsewhere_or_waiting_is_none(loop):
    def steps():
        compute(LONGEST / 4)
        yield NEXT_TURN
        compute(LONGEST / 4)
        yield from loop.in_thread(lambda: compute(LONGEST * 2))
        threading.Event().wait(LONGEST * 2)  # no time on the processor: a busy machine looks like this

    done(loop, steps())
    compute(LONGEST * 2)
    assert guard.take() == []


def test_what_a_task_makes_another_one_compute_is_told_once(loop, at_rest):
    def inner():
        compute(LONGEST * 1.5)
        yield NEVER, Notice(loop)

    done(loop, step(lambda: loop.begin(loop.task(inner(), "an inner one"))))
    settle(loop)
    assert len(guard.take()) == 1


def test_the_collection_of_garbage_is_not_the_tasks_fault(loop):
    """Most of what it goes through are the tests'."""
    kept = [[] for _ in range(400_000)]
    done(loop, step(gc.collect))
    settle(loop)
    assert kept and guard.take() == []


@pytest.mark.parametrize("was_preempted", [True, False])
def test_a_task_that_was_preempted_gets_twice_as_much(loop, monkeypatch, was_preempted):
    """A turn of a download, 1 MiB, took 10.1 ms once on a machine with thirty busy processes."""
    monkeypatch.setattr("tests.guard.YARDSTICK", 0)
    if was_preempted:
        monkeypatch.setattr("tests.guard._preemptions", itertools.count().__next__)
    done(loop, step(lambda: compute(LONGEST * 1.2)))
    settle(loop)
    assert bool(guard.take()) != was_preempted


def test_the_test_that_ran_fails(pytester_file):
    said = pytester_file("""
        from tests.loop.driving import told
        def blocks():
            open(__file__).close()
        def test_good(loop):
            told(loop)
        def test_bad(loop):
            told(loop, blocks)
        def test_good_again(loop):
            told(loop)
    """)
    assert "3 passed, 1 error" in said and "ERROR" in said and "::test_bad" in said and "blocked a loop" in said


def test_a_wrapper_whose_loop_was_blocked_is_a_failure():
    made = Wrapper(command=service("plain"), environment={"GUARD_LONGEST": "0"})
    with pytest.raises(AssertionError, match="this blocked a loop"):
        made.close()


@pytest.fixture
def pytester_file(tmp_path):
    def run(text):
        file = tmp_path / "test_it.py"
        file.write_text("from tests.conftest import _nothing_blocks_a_loop, loop\n"
                        + "\n".join(line[8:] for line in text.splitlines()))
        program = ("import sys, pytest; from tests.guard import guard; guard.install(); "
                   "sys.exit(pytest.main(sys.argv[1:]))")
        words = ("-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", os.devnull, str(file))
        return subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True,
                              check=False).stdout

    return run
