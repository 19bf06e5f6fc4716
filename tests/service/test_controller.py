"""controller.py: the service's life, with real processes and a gate that relays to nobody."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.running import service, wait_until
from wrapper import settings, sockets
from wrapper.errors import Busy, CannotStart
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.service import probe, process, procfs, stopping
from wrapper.service.process import Spawner
from wrapper.service.service import Service, Surroundings
from wrapper.service.state import TRANSITIONS, State


class NoUpstream:
    def __init__(self, address):
        self.address = address

    def close(self):
        pass


class Life:
    """A service without a proxy, and everything that happened to it."""

    def __init__(self, *options, command):
        self.feed = Feed()
        self.board = Board(self.feed)
        chosen = settings.read([*options, "--", *command], {})
        around = Surroundings(chosen, os.environ, Spawner(), self.feed, self.board, NoUpstream)
        self.overs = []
        self.service = Service("service", chosen.command, chosen.upstream, around,
                               lambda status, planned: self.overs.append((status, planned)))
        self.controller = self.service.controller

    def states(self):
        return [event["state"] for event in self.feed.after(0) if event["kind"] == "state"]

    def wait_state(self, state):
        wait_until(lambda: self.service.life.state is State(state), what=f"{state}: {self.states()}")

    def ask(self, kind, **options):
        job = self.controller.ask(kind, "test", **options)
        job.wait(20)
        return job.error

    def pid(self):
        return self.service.status()["pid"]


@pytest.fixture
def live():
    lives = []

    def start(*options, command=None):
        life = Life(*options, command=command or service("plain"))
        lives.append(life)
        life.controller.launch()
        return life

    yield start
    for life in lives:
        life.controller.shut_down(signal.SIGKILL)
        assert life.controller.over.wait(20)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith(("process-", "controller-"))])


def test_every_transition_leads_to_a_state_of_the_table():
    assert set(TRANSITIONS) == set(State)
    assert all(states <= set(State) for states in TRANSITIONS.values())


def test_start_to_running(live):
    life = live()
    life.wait_state("running")
    status = life.service.status()
    assert status["ready"] is True
    assert status["generation"] == 1
    assert status["last_exit"] is None
    assert life.service.readiness() is None


def test_stop_and_start_again(live):
    life = live(command=service("plain", "5"))
    life.wait_state("running")
    assert life.ask("stop") is None
    assert life.states() == ["starting", "running", "draining", "stopping", "stopped"]
    assert life.service.status()["last_exit"]["planned"] is True
    assert life.service.status()["last_exit"]["status"] == 5
    assert life.overs == []
    assert "stopped" in life.service.readiness()
    assert life.ask("start") is None
    assert life.service.life.state is State.RUNNING


def test_restart_brings_a_new_run(live):
    life = live()
    life.wait_state("running")
    before = life.pid()
    assert life.ask("restart") is None
    status = life.service.status()
    assert status["pid"] not in (before, None)
    assert (status["generation"], status["restarts"]) == (2, 1)


def test_restarts_that_are_asked_for_together_become_one_more(live):
    life = live()
    life.wait_state("running")
    first = life.controller.ask("restart", "one")
    wait_until(lambda: life.service.life.state is not State.RUNNING)
    others = {life.controller.ask("restart", f"more {n}") for n in range(20)}
    assert len(others) == 1
    assert first.wait(20) and others.pop().wait(20)
    assert life.service.status()["restarts"] == 2


def test_who_sees_what_came_of_an_action_may_ask_for_the_next(live):
    """The action's own end may come later than the state that everybody waits for."""
    life = live("--ready-timeout", "20s")
    asked = []

    def ask_in_turn(event):
        if event["kind"] == "state" and event["state"] == "running":
            asked.append(life.controller.ask("stop", "test"))
        if event["kind"] == "state" and event["state"] == "stopped" and len(asked) == 1:
            asked.append(life.controller.ask("start", "test"))

    life.wait_state("running")
    life.feed.listen(ask_in_turn)
    assert life.ask("restart") is None
    wait_until(lambda: len(asked) == 3)
    assert [job.wait(20) for job in asked] == [True, True, True]
    assert life.states()[-1] == "stopped"


def test_who_sees_that_it_runs_or_is_stopped_sees_no_old_problem(live, tmp_path):
    (tmp_path / "bad").touch()
    life = live("--restart", "always", "--backoff", "1ms..5ms", command=service("slow", "0", str(tmp_path / "bad")))
    wait_until(life.board.list)
    seen = []

    def look(event):
        if event["kind"] == "state" and event["state"] in ("running", "stopped"):
            seen.append((event["state"], life.board.list()))

    life.feed.listen(look)
    (tmp_path / "bad").unlink()
    life.wait_state("running")
    (tmp_path / "bad").touch()
    os.kill(life.pid(), signal.SIGKILL)
    wait_until(life.board.list)
    assert life.ask("stop") is None
    assert seen[:1] + seen[-1:] == [("running", []), ("stopped", [])]


def test_actions_that_contradict_are_busy(live):
    life = live("--stop-timeout", "1s", command=service("deaf"))
    life.wait_state("running")
    job = life.controller.ask("stop", "test")
    for kind in ("start", "restart", "reload"):
        with pytest.raises(Busy, match="stop is under way"):
            life.controller.ask(kind, "test")
    assert life.controller.ask("stop", "again") is job
    assert job.wait(10)


def test_a_stop_contradicts_the_first_start(live):
    life = live(command=service("slow", "60"))
    with pytest.raises(Busy, match="a start is under way"):
        life.controller.ask("stop", "test")


def test_status_never_waits_for_an_action(live):
    life = live("--stop-timeout", "2s", command=service("deaf"))
    life.wait_state("running")
    job = life.controller.ask("stop", "test")
    life.wait_state("stopping")
    for _ in range(1000):
        life.service.status()
    assert not job.is_done


def test_an_exit_nobody_asked_for_is_over_with_its_status(live):
    life = live(command=[sys.executable, "-c", "raise SystemExit(7)", "{port}"])
    assert life.controller.over.wait(10)
    assert life.overs == [(7, False)]
    assert life.service.life.state is State.FAILED
    assert "status 7" in life.board.list()[0]["message"]


def test_an_exit_with_0_is_noticed_too(live):
    life = live(command=[sys.executable, "-c", "pass", "{port}"])
    assert life.controller.over.wait(10)
    assert life.overs == [(0, False)]


def test_a_crash_with_the_status_of_a_stop_is_still_a_crash(live):
    """Told apart by state, not by exit code."""
    life = live()
    life.wait_state("running")
    os.kill(life.pid(), signal.SIGTERM)
    assert life.controller.over.wait(10)
    assert life.overs == [(0, False)]


def test_the_wait_for_readiness_ends_with_the_process(live):
    life = live("--ready-timeout", "60s", command=[sys.executable, "-c", "raise SystemExit(3)", "{port}"])
    assert life.controller.over.wait(10)


def test_a_service_that_is_late_fails_by_name_and_may_still_come(live):
    life = live("--ready-timeout", "300ms", command=service("slow", "1.5"))
    life.wait_state("failed")
    assert "not ready within 0.3 s" in life.board.list()[0]["message"]
    life.wait_state("running")
    assert life.board.list() == []


def test_a_start_of_a_service_that_is_late_says_so(live):
    life = live("--ready-timeout", "100ms", command=service("slow", "60"))
    life.wait_state("failed")
    assert "not ready within 0.1 s" in life.ask("start")


def test_a_reload_of_a_stopped_service_is_refused(live):
    """systemctl(1): a unit that is not active cannot be reloaded."""
    life = live()
    life.wait_state("running")
    assert life.ask("stop") is None
    with pytest.raises(Busy, match="is stopped"):
        life.controller.ask("reload", "test")
    assert life.service.life.state is State.STOPPED


def test_a_reload_that_the_service_dies_of_is_no_success(live):
    life = live("--reload-signal", "HUP", command=[sys.executable, "-c", SILENT, "{port}"])
    life.wait_state("running")
    assert "it ended with status 129" in life.ask("reload")


@pytest.mark.parametrize(("mode", "status", "again"), [
    ("always", 0, True), ("always", 1, True), ("on-failure", 1, True), ("on-failure", 0, False), ("never", 1, False)])
def test_restart_policy(live, mode, status, again):
    life = live("--restart", mode, "--backoff", "50ms..1s",
                command=[sys.executable, "-c", f"raise SystemExit({status})", "{port}"])
    if again:
        wait_until(lambda: life.service.status()["generation"] >= 3)
        assert "backoff" in life.states()
        assert life.overs == []
    else:
        assert life.controller.over.wait(10)
        assert life.overs == [(status, False)]


def test_twenty_deaths_leave_nothing_behind(live):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    life = live("--restart", "always", "--backoff", "1ms..5ms",
                command=[sys.executable, "-S", "-c", "raise SystemExit(1)", "{port}"])
    before = descriptors()
    wait_until(lambda: life.service.status()["generation"] >= 20)
    assert life.ask("stop") is None
    wait_until(lambda: descriptors() <= before)
    assert len([t for t in threading.enumerate() if t.name.startswith("process-")]) == 0


def test_stop_in_backoff_stays_stopped(live):
    life = live("--restart", "always", "--backoff", "30s..60s",
                command=[sys.executable, "-c", "raise SystemExit(1)", "{port}"])
    life.wait_state("backoff")
    assert life.ask("stop") is None
    assert life.service.life.state is State.STOPPED
    assert life.overs == []


def test_shut_down_passes_its_own_signal_on(live):
    life = live()
    life.wait_state("running")
    life.controller.shut_down(signal.SIGINT)
    assert life.controller.over.wait(10)
    assert life.overs == [(0, True)]


def test_shut_down_while_starting_does_not_wait_for_readiness(live):
    life = live(command=[sys.executable, "-c", "import time; time.sleep(60)", "{port}"])
    life.wait_state("starting")
    life.controller.shut_down(signal.SIGTERM)
    assert life.controller.over.wait(5)
    assert life.overs == [(143, True)]


SILENT = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
kept = []
while True:
    kept.append(listener.accept())
"""  # takes every connection and never says a word


def test_shut_down_while_a_silent_service_is_probed_does_not_wait_for_the_probe(live, monkeypatch):
    monkeypatch.setattr(probe, "PROBE_TIMEOUT", 60.0)
    life = live("--ready-path", "/ready", command=[sys.executable, "-c", SILENT, "{port}"])
    wait_until(lambda: is_listening(life.controller.address))
    life.controller.shut_down(signal.SIGTERM)
    assert life.controller.over.wait(5)
    assert life.overs == [(143, True)]


def is_listening(address):
    with contextlib.suppress(OSError), socket.create_connection((address.host, address.port)):
        return True
    return False


def test_shut_down_while_a_reload_hangs_does_not_wait_for_its_answer(live):
    life = live("--reload-path", "/-/reload", command=[sys.executable, "-c", SILENT, "{port}"])
    life.wait_state("running")
    job = life.controller.ask("reload", "test")
    wait_until(lambda: life.controller._jobs._jobs[0].is_running)
    life.controller.shut_down(signal.SIGTERM)
    assert life.controller.over.wait(5)
    assert life.overs == [(143, True)]
    assert job.is_done


def test_shut_down_of_a_deaf_service_kills_it(live):
    life = live("--stop-timeout", "300ms", command=service("deaf"))
    life.wait_state("running")
    life.controller.shut_down(signal.SIGTERM)
    assert life.controller.over.wait(5)
    assert life.overs == [(137, True)]


def test_shut_down_during_a_restart_does_not_start_again(live):
    life = live("--stop-timeout", "1s", command=service("deaf"))
    life.wait_state("running")
    life.controller.ask("restart", "test")
    life.wait_state("stopping")
    life.controller.shut_down(signal.SIGTERM)
    assert life.controller.over.wait(10)
    assert life.service.status()["generation"] == 1


def test_a_restart_on_trial_that_fails_is_left_to_the_caller(live, tmp_path):
    flag = tmp_path / "broken"
    life = live(command=service("slow", "0", str(flag)))
    life.wait_state("running")
    life.controller.begin_trial()
    flag.touch()
    assert "status 9" in life.ask("restart")
    assert life.service.life.state is State.FAILED
    assert life.overs == []
    flag.unlink()
    assert life.ask("restart") is None
    assert life.board.list() == []


def test_a_trial_that_ends_while_an_action_is_under_way_stays_ended(live, tmp_path):
    """A flag that the controller's thread read and wrote back stayed set, and no later crash was ever decided."""
    life = live()
    life.wait_state("running")
    life.controller.begin_trial()
    life.feed.listen(lambda event: event.get("state") == "starting" and life.controller.end_trial())
    assert life.ask("restart") is None
    os.kill(life.pid(), signal.SIGKILL)
    assert life.controller.over.wait(10)
    assert life.overs == [(137, False)]


def test_a_barrier_waits_for_its_turn_and_starts_what_is_down(live):
    life = live()
    life.wait_state("running")
    restart, barrier = life.controller.ask("restart", "test"), life.controller.ask("barrier", "test")
    assert barrier.wait(20)
    assert restart.is_done
    assert (restart.has_started_run, barrier.has_started_run) == (True, False)
    life.controller.begin_trial()
    os.kill(life.pid(), signal.SIGKILL)
    life.wait_state("failed")
    barrier = life.controller.ask("barrier", "test")
    assert barrier.wait(20)
    assert barrier.has_started_run


def test_overlap_keeps_the_old_run_until_the_new_one_is_ready(live):
    life = live("--restart-mode", "overlap")
    life.wait_state("running")
    before = life.pid()
    assert life.ask("restart") is None
    assert life.pid() != before
    assert "starting" not in life.states()[2:]
    wait_until(lambda: life.controller._lifecycle.stopping.old is None)
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_overlap_that_fails_leaves_the_old_run(live, tmp_path):
    flag = tmp_path / "broken"
    life = live("--restart-mode", "overlap", command=service("slow", "0", str(flag)))
    life.wait_state("running")
    before = life.pid()
    flag.touch()
    assert "the earlier run goes on" in life.ask("restart")
    assert life.pid() == before
    assert life.service.life.state is State.RUNNING
    assert len(life.board) == 1
    flag.unlink()
    assert life.ask("restart") is None
    assert life.pid() != before
    assert len(life.board) == 0


@pytest.mark.parametrize("befalls", ["an end", "a death"])
def test_a_deaf_run_that_failed_to_take_over_holds_nothing_up(live, tmp_path, befalls):
    broken, told = tmp_path / "broken", tmp_path / "told"
    deaf = f"if [ -e {broken} ]; then trap 'touch {told}' TERM; while :; do sleep 1 & wait; done; fi; "
    life = live("--restart-mode", "overlap", "--stop-timeout", "60s",
                command=["sh", "-c", f"{deaf} exec {' '.join(service('plain'))}"])
    life.wait_state("running")
    broken.touch()
    life.controller.ask("restart", "test", ready_timeout=0.5)
    wait_until(told.exists)
    if befalls == "an end":
        life.controller.shut_down(signal.SIGTERM)
    else:
        os.kill(life.pid(), signal.SIGKILL)
    assert life.controller.over.wait(10)
    assert life.overs == [(0, True) if befalls == "an end" else (137, False)]


def test_overlap_survives_the_death_of_the_old_run_meanwhile(live):
    life = live("--restart-mode", "overlap", command=service("slow", "0.5"))
    life.wait_state("running")
    job = life.controller.ask("restart", "test")
    wait_until(lambda: life.service.life.counts()[0])  # it is under way: a death before that would be the end
    os.kill(life.pid(), signal.SIGKILL)
    wait_until(lambda: not life.service.gate.is_open)  # newcomers wait, though the controller is busy with the new run
    assert job.wait(10)
    assert life.service.gate.is_open
    assert life.service.life.state is State.RUNNING
    assert life.overs == []


class Stays:
    """A request that is under way for as long as it is let."""

    def warn(self, going):
        pass

    def cut(self):
        pass


@pytest.mark.parametrize(("policy", "over"), [("never", True), ("always", False)])
def test_a_new_run_that_falls_while_the_old_one_drains_is_noticed_at_once(live, policy, over):
    life = live("--restart-mode", "overlap", "--overlap-drain-timeout", "600s", "--restart", policy, "--backoff",
                "1ms..2ms")
    life.wait_state("running")
    before = life.pid()
    lane = life.service.gate.admit(Stays())
    assert life.ask("restart") is None  # the old run leaves by itself
    os.kill(new := life.pid(), signal.SIGKILL)
    if over:
        assert life.controller.over.wait(5)
        assert life.overs == [(137, False)]
    else:
        wait_until(lambda: life.pid() not in (before, new, None) and life.service.life.state is State.RUNNING)
        os.kill(before, 0)  # it drains, still
        life.service.gate.hurry()
        del lane
        wait_until(lambda: life.controller._lifecycle.stopping.old is None)


@pytest.mark.parametrize("befalls", ["an end", "a death"])
def test_a_restart_that_waits_for_a_run_to_retire_holds_nothing_up(live, befalls):
    life = live("--restart-mode", "overlap", "--overlap-drain-timeout", "600s", "--restart", "always", "--backoff",
                "1ms..2ms")
    life.wait_state("running")
    before = life.pid()
    assert life.service.gate.admit(Stays())
    life.controller.ask("restart", "test")
    wait_until(lambda: life.pid() != before)
    os.kill(new := life.pid(), signal.SIGKILL)
    wait_until(lambda: life.pid() not in (before, new, None) and life.service.life.state is State.RUNNING)
    run = life.controller._lifecycle.run.process
    job = life.controller.ask("restart", "test")
    wait_until(lambda: life.service.life.counts()[0].get("planned") == 2)
    if befalls == "an end":
        life.controller.shut_down(signal.SIGTERM)
    else:
        os.kill(run.pid, signal.SIGKILL)
        wait_until(lambda: life.pid() not in (before, run.pid, None))
        assert "ended" in job.error
    assert run.ended.wait(5)
    os.kill(before, 0)  # it drains, still
    life.service.gate.hurry()


def test_a_signal_in_the_drain_of_a_restart_is_what_the_service_gets(live, capfd):
    life = live("--drain-timeout", "600s")
    life.wait_state("running")
    lane, stays = life.service.gate._lane, Stays()
    assert life.service.gate.admit(stays) is lane
    life.controller.ask("restart", "test")
    life.wait_state("draining")
    life.controller.shut_down(signal.SIGINT)
    life.service.gate.leave(lane, stays)
    assert life.controller.over.wait(5)
    assert "signal 2\n" in capfd.readouterr().err


def test_a_command_that_cannot_be_run_raises_at_launch(live):
    life = Life(command=["/no/such/program", "{port}"])
    with pytest.raises(CannotStart) as error:
        life.controller.launch()
    assert error.value.exit_status == 127
    assert life.controller.over.is_set()
    assert "/no/such/program" not in str(life.board.list())


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("can't start new thread"),
                                   subprocess.SubprocessError("Exception occurred in preexec_fn.")])
def test_whatever_keeps_it_from_starting_is_a_failure_with_a_name(live, monkeypatch, error):
    """And the next start works: nothing is left half done."""
    life = live()
    life.wait_state("running")
    spawn = life.service.around.spawner.spawn

    def refuse(*words, **options):
        raise error

    monkeypatch.setattr(life.service.around.spawner, "spawn", refuse)
    life.controller.begin_trial()  # else it would be the end
    assert str(error) in life.ask("restart")
    assert life.service.life.state is State.FAILED
    monkeypatch.setattr(life.service.around.spawner, "spawn", spawn)
    assert life.ask("restart") is None
    assert life.service.life.state is State.RUNNING
    assert life.overs == []


def test_whatever_keeps_it_from_starting_again_ends_with_126(live, monkeypatch):
    life = live()
    life.wait_state("running")
    monkeypatch.setattr(sockets, "free_port", lambda: os.fstat(-1))
    assert "Bad file descriptor" in life.ask("restart")
    assert life.controller.over.wait(10)
    assert life.overs == [(126, False)]


def test_a_first_start_without_a_thread_leaves_nothing_running(monkeypatch):
    life = Life(command=service("plain"))
    start, pids = threading.Thread.start, []

    def scarce(thread):
        if thread.name.startswith("controller"):
            pids.append(life.pid())
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    with pytest.raises(CannotStart, match="new thread") as error:
        life.controller.launch()
    assert error.value.exit_status == 126
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


@pytest.mark.parametrize("policy", ["never", "always"])
def test_a_fault_of_ours_in_an_action_leaves_nothing_halfway(live, monkeypatch, policy):
    life = live("--restart", policy, "--backoff", "1ms..2ms")
    life.wait_state("running")
    before = life.pid()

    def overflow(lane, going):
        monkeypatch.undo()
        raise OverflowError("timestamp too large")

    monkeypatch.setattr(life.service.gate, "warn", overflow)
    assert "too large" in life.ask("restart")
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    if policy == "never":
        assert life.controller.over.wait(5)
        assert life.overs == [(137, False)]
    else:
        life.wait_state("running")
        assert life.ask("restart") is None


def test_a_fault_of_ours_between_actions_ends_the_service(live, monkeypatch):
    life = live("--restart", "always")
    life.wait_state("running")
    before = life.pid()
    monkeypatch.setattr(life.controller, "_do_next", lambda: os.fstat(-1))
    life.controller.end_trial()  # wakes it
    assert life.controller.over.wait(5)
    assert life.overs == [(70, False)]
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_five_hundred_rounds_of_everything_at_once_end(live):
    """Actions from many threads at the same time: whatever is refused is refused at once, and nothing hangs."""
    life = live("--drain-timeout", "0", "--ready-timeout", "10s", "--restart-mode", "replace",
                command=["/bin/sh", "-c", "exec sleep 60", "{port}"])
    life.controller._lifecycle.health.ready.fault = lambda address: None
    life.wait_state("running")

    def rounds(kind):
        for _ in range(125):
            try:
                life.controller.ask(kind, "round").wait(0.02)
            except Busy:
                pass

    threads = [threading.Thread(target=rounds, args=(kind,)) for kind in ("restart", "restart", "stop", "start")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    wait_until(lambda: life.controller._jobs.is_empty)
    assert life.ask("start") is None
    assert life.service.life.state is State.RUNNING


def test_a_planned_stop_has_more_time_than_the_containers_end(live, monkeypatch):
    """RabbitMQ needs 6.3 s to stop; docker stop kills after 10 s."""
    assert (stopping.STOP_TIMEOUT, stopping.LAST_STOP_TIMEOUT) == (30.0, 6.0)
    monkeypatch.setattr(stopping, "STOP_TIMEOUT", 600.0)
    monkeypatch.setattr(stopping, "LAST_STOP_TIMEOUT", 0.3)
    life = live(command=service("deaf"))
    life.wait_state("running")
    life.controller.ask("restart", "test")
    life.wait_state("stopping")
    life.controller.shut_down(signal.SIGTERM)  # the end comes while the planned stop waits, and leaves less time
    assert life.controller.over.wait(10)
    assert life.overs == [(137, True)]


def test_what_does_not_end_at_all_is_a_failure_and_not_a_wait_without_end(live, monkeypatch):
    """A process that the kernel holds, as behind a dead NFS server, ends of nothing."""
    monkeypatch.setattr(process, "KILL_TIMEOUT", 0.1)
    life = live("--stop-timeout", "100ms", command=service("deaf"))
    life.wait_state("running")
    pid, send = life.pid(), process.Process._send
    monkeypatch.setattr(process.Process, "_send", lambda *_, **__: None)
    assert "does not end" in life.ask("restart")
    life.wait_state("running")  # it still answers, and so it serves
    assert life.pid() == pid
    assert "does not end" in str(life.feed.after(0))
    monkeypatch.setattr(process.Process, "_send", send)
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
