"""state.py: the states and their transitions, waits that end with a run or the wrapper, and how a run is stopped.

The whole road of a stop: tests/restarts/test_stopping.py.
"""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import pytest

from tests.running import service, wait_until
from wrapper.service import process, procfs, state
from wrapper.service.process import Process
from wrapper.service.state import ENDING, TRANSITIONS, Run, State, WakeUp
from wrapper.settings.address import tcp


def test_every_transition_leads_to_a_state_of_the_table():
    assert set(TRANSITIONS) == set(State)
    assert all(states <= set(State) for states in TRANSITIONS.values())


# Waits

class Ending:
    """A run that ends when it is told to."""

    process = SimpleNamespace(fault="it ended with status 1")

    def __init__(self):
        self.ended = threading.Event()


def test_work_in_the_background_says_what_went_wrong():
    wake_up = WakeUp("test")
    assert wake_up.in_background(Ending(), lambda: "broken") == "broken"
    assert wake_up.in_background(Ending(), lambda: None) is None
    assert "ZeroDivisionError" in wake_up.in_background(Ending(), lambda: 1 // 0)


def test_work_is_left_alone_once_the_run_or_the_wrapper_ends():
    wake_up, run, forever = WakeUp("test"), Ending(), threading.Event()

    def end():
        run.ended.set()
        wake_up.set()
        return forever.wait(20) and None

    assert wake_up.in_background(run, end) == "it ended with status 1"
    wake_up.ending = 15
    assert wake_up.in_background(Ending(), lambda: forever.wait(20) and None) == ENDING
    forever.set()


# Stops

def test_a_planned_stop_has_more_time_than_the_containers_end(live, monkeypatch):
    """RabbitMQ needs 6.3 s to stop; docker stop kills after 10 s."""
    assert (state.STOP_TIMEOUT, state.LAST_STOP_TIMEOUT) == (30.0, 6.0)
    monkeypatch.setattr(state, "STOP_TIMEOUT", 600.0)
    monkeypatch.setattr(state, "LAST_STOP_TIMEOUT", 0.3)
    life = live(command=service("deaf"))
    life.wait_state("running")
    life.controller.ask("restart", "test")
    life.wait_state("stopping")
    life.controller.shut_down(signal.SIGTERM)  # the end comes while the planned stop waits, and leaves less time
    assert life.wait_over() == (137, True)


class Deaf:
    """A traveller that cannot be told to leave, such as an HTTP/2 connection that is passed through."""

    def __init__(self, gate):
        self.gate, self.lane = gate, gate.admit(self)
        gate.mark_lasting(self.lane, self, is_deaf=True)

    def warn(self, going):
        pass

    def cut(self):
        self.gate.leave(self.lane, self)


def test_what_hears_the_service_alone_has_its_time_to_drain_behind_the_signal(live, monkeypatch):
    """The service's own goodbye (GOAWAY) is all it hears, so the signal is not kept back, and nothing is lost by that.
    """
    timeouts, stop = [], Run.stop

    def noting(of, number, timeout):
        timeouts.append(timeout)
        return stop(of, number, timeout)

    monkeypatch.setattr(Run, "stop", noting)
    life = live("--drain-timeout", "50s")
    life.wait_state("running")
    assert life.ask("restart") is None
    Deaf(life.service.gate)
    assert life.ask("restart") is None
    assert timeouts[0] == state.STOP_TIMEOUT
    assert timeouts[1] > state.STOP_TIMEOUT + 20


@pytest.mark.parametrize(("returncode", "who"), [(-signal.SIGKILL, "the helper mail"),
                                                  (0, "what was left by the helper mail")])
def test_the_log_says_what_of_which_service_was_killed(returncode, who, capfd):
    """A service that ended as it was told is not to blame for what it left behind."""
    ended = threading.Event()
    ended.set()
    killed = Process.__new__(Process)
    killed.pid, killed.ended, killed.returncode = 4711, ended, returncode
    killed.has_fallen, killed.begin_stop, killed.await_stop = lambda: False, lambda *_: None, lambda: False
    assert Run(killed, tcp("127.0.0.1", 1), "the helper mail").stop(signal.SIGTERM, 0.0) is None
    assert f"warning: {who} did not end in time and was killed pid=4711 signal=TERM" in capfd.readouterr().err


def test_what_does_not_end_at_all_is_a_failure_and_not_a_wait_without_end(live, monkeypatch):
    """A process that the kernel holds, as behind a dead NFS server, ends of nothing."""
    life = live("--stop-timeout", "100ms", command=service("deaf"))
    life.wait_state("running")
    pid = life.pid()
    monkeypatch.setattr(process, "KILL_TIMEOUT", 0.1)
    monkeypatch.setattr(process.Process, "_send", lambda *_, **__: None)
    assert "does not end" in life.ask("restart")
    life.service.gate.doubt()  # a probe comes every ten seconds by itself
    life.wait_state("running")  # it still answers, and so it serves
    assert life.pid() == pid
    assert "does not end" in str(life.feed.after(0))
    monkeypatch.undo()  # the time to be seen to end, too: this one is killed in earnest
    assert life.ask("restart") is None


def test_a_kill_for_memory_is_named(live, monkeypatch, tmp_path):
    """cgroup's memory.events tells it from any other SIGKILL."""
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 1\n")
    monkeypatch.setattr(procfs, "MEMORY_EVENTS", (str(events),))
    life = live("--restart", "always", "--backoff", "1ms..2ms")
    life.wait_state("running")
    os.kill(life.pid(), signal.SIGKILL)
    wait_until(lambda: life.service.status()["generation"] == 2)
    assert "memory" not in str(life.feed.after(0))
    life.wait_state("running")
    events.write_text("oom_kill 2\n")
    os.kill(life.pid(), signal.SIGKILL)
    wait_until(lambda: "its memory was used up" in str(life.feed.after(0)))
