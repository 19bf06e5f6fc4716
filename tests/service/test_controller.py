"""controller.py: who may ask for what, and what is next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.running import service, wait_until
from tests.service.life import Life
from wrapper import sockets
from wrapper.errors import Busy, CannotStart
from wrapper.service.probe import Probe
from wrapper.service.state import State


def test_restarts_that_are_asked_for_together_become_one_more(live, gated):
    life = live(command=gated.command)
    life.wait_state("running")
    gated.shut.touch()
    first = life.controller.ask("restart", "one")
    life.wait_state("starting")
    others = {life.controller.ask("restart", f"more {n}") for n in range(20)}
    assert len(others) == 1
    gated.shut.unlink()
    assert first.wait(20) and others.pop().wait(20)
    assert life.service.status()["restarts"] == 2


def test_who_sees_what_came_of_an_action_may_ask_for_the_next(live):
    """The action's own end may come later than the state that the test waits for."""
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
    life = live("--stop-timeout", "600s", command=service("deaf"))
    life.wait_state("running")
    pid = life.pid()
    job = life.controller.ask("stop", "test")
    for kind in ("start", "restart", "reload"):
        with pytest.raises(Busy, match="stop is under way"):
            life.controller.ask(kind, "test")
    assert life.controller.ask("stop", "again") is job
    life.wait_state("stopping")  # else it may be a crash, and the job is dropped
    os.kill(pid, signal.SIGKILL)
    assert job.wait(20)


def test_a_stop_contradicts_the_first_start(live):
    life = live(command=service("slow", "60"))
    with pytest.raises(Busy, match="a start is under way"):
        life.controller.ask("stop", "test")


def test_status_never_waits_for_an_action(live):
    life = live("--stop-timeout", "600s", command=service("deaf"))
    life.wait_state("running")
    pid = life.pid()
    job = life.controller.ask("stop", "test")
    life.wait_state("stopping")
    for _ in range(1000):
        life.service.status()
    assert not job.is_done
    os.kill(pid, signal.SIGKILL)
    assert job.wait(20)


def test_an_exit_that_was_not_asked_for_is_over_with_its_status(live):
    life = live(command=[sys.executable, "-c", "raise SystemExit(7)", "{port}"])
    assert life.wait_over() == (7, False)
    assert life.service.life.state is State.FAILED
    assert "status 7" in life.board.list()[0]["message"]


def test_an_exit_with_0_is_noticed_too(live):
    life = live(command=[sys.executable, "-c", "pass", "{port}"])
    assert life.wait_over() == (0, False)


def test_a_crash_with_the_status_of_a_stop_is_still_a_crash(live):
    """Told apart by state, not by exit code."""
    life = live()
    life.wait_state("running")
    os.kill(life.pid(), signal.SIGTERM)
    assert life.wait_over() == (0, False)


def test_a_reload_of_a_stopped_service_is_refused(live):
    """systemctl(1): a unit that is not active cannot be reloaded."""
    life = live()
    life.wait_state("running")
    assert life.ask("stop") is None
    with pytest.raises(Busy, match="is stopped"):
        life.controller.ask("reload", "test")
    assert life.service.life.state is State.STOPPED


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
        assert life.wait_over() == (status, False)


def test_twenty_deaths_leave_nothing_behind(live):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    life = live("--restart", "always", "--backoff", "1ms..5ms",
                command=[sys.executable, "-S", "-c", "raise SystemExit(1)", "{port}"])
    before = descriptors()
    wait_until(lambda: life.service.status()["generation"] >= 20)
    assert life.ask("stop") is None
    wait_until(lambda: descriptors() <= before)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("process-")])


def test_stop_in_backoff_stays_stopped(live):
    life = live("--restart", "always", "--backoff", "30s..60s",
                command=[sys.executable, "-c", "raise SystemExit(1)", "{port}"])
    life.wait_state("backoff")
    assert life.ask("stop") is None
    assert life.service.life.state is State.STOPPED
    assert life.overs == []


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
    assert life.wait_over() == (137, False)


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


@pytest.mark.parametrize("tell", [
    lambda life: life.ask("reload", reload=lambda *_: None), lambda life: life.ask("barrier"),
    lambda life: life.controller.signal(signal.SIGWINCH)], ids=["reload", "barrier", "signal"])
def test_what_may_have_the_service_close_connections_is_known_before(live, tell):
    life = live()
    life.wait_state("running")
    tell(life)
    assert life.service.gate.upstream.is_doubted


def listens(address):
    try:
        sockets.connect(address, 5.0).close()
    except OSError:
        return False
    return True


def test_what_took_long_to_have_the_service_close_connections_is_known_behind_it_too(live):
    """It may close them once it has answered; before, what is known has grown old by then."""
    life = live()
    life.wait_state("running")
    upstream = life.service.gate.upstream

    def take_long(*_):
        upstream.is_doubted = False

    assert life.ask("reload", reload=take_long) is None
    assert upstream.is_doubted


def test_a_barrier_does_not_wait_for_what_answers_and_is_late(live, tmp_path):
    """It may wait for just what comes behind the barrier: a configuration that is taken by a call."""
    mood = tmp_path / "mood"
    mood.write_text("503")
    life = live("--ready-path", "/ready", "--ready-timeout", "100ms", command=service("moody", str(mood)))
    life.wait_state("failed")
    wait_until(lambda: listens(life.controller.address))
    assert life.ask("barrier") is None


def test_a_barrier_waits_for_what_is_late_and_does_not_listen(live, gated):
    gated.shut.touch()
    life = live("--ready-timeout", "100ms", command=gated.command)
    life.wait_state("failed")
    assert "not ready within 0.1 s" in life.ask("barrier")


def test_a_barrier_fails_where_the_service_ends_while_it_is_asked(live, tmp_path, monkeypatch):
    """What comes behind the barrier would find no service to tell."""
    mood, asked, over, fault_of = tmp_path / "mood", threading.Event(), threading.Event(), Probe.fault_of

    def ask(probe, run):
        if life.service.life.jobs.running is None:
            return fault_of(probe, run)
        asked.set()
        return over.wait(20) and None

    mood.write_text("503")
    life = live("--ready-path", "/ready", "--ready-timeout", "100ms", command=service("moody", str(mood)))
    life.wait_state("failed")
    monkeypatch.setattr(Probe, "fault_of", ask)
    barrier = life.controller.ask("barrier", "test")
    assert asked.wait(20)
    os.kill(life.pid(), signal.SIGKILL)
    assert not barrier.wait(20)
    over.set()
    assert barrier.error == "it ended with status 137"


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
    assert life.wait_over() == (126, False)


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

    def overflow(*_):
        monkeypatch.undo()
        raise OverflowError("timestamp too large")

    monkeypatch.setattr(life.service.gate, "warn", overflow)
    assert "too large" in life.ask("restart")
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
    if policy == "never":
        assert life.wait_over() == (137, False)
    else:
        life.wait_state("running")
        assert life.ask("restart") is None


def test_a_fault_of_ours_between_actions_ends_the_service(live, monkeypatch):
    life = live("--restart", "always")
    life.wait_state("running")
    before = life.pid()
    monkeypatch.setattr(life.controller, "_do_next", lambda: os.fstat(-1))
    life.controller.end_trial()  # wakes it
    assert life.wait_over() == (70, False)
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
    jobs = life.controller._jobs
    wait_until(lambda: not jobs.waiting and jobs.running is None)
    assert life.ask("start") is None
    assert life.service.life.state is State.RUNNING
