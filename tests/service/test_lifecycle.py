"""lifecycle.py: start, stop, restart, reload, end, with real processes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import sys

import pytest

from tests.running import PATIENCE, service, wait_until
from wrapper.service import launcher, probe, process, state
from wrapper.service.state import State


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


def test_the_wait_for_readiness_ends_with_the_process(live):
    life = live("--ready-timeout", "60s", command=[sys.executable, "-c", "raise SystemExit(3)", "{port}"])
    assert life.wait_over() == (3, False)


def test_a_service_that_is_late_fails_by_name_and_may_still_come(live, gated):
    gated.shut.touch()
    life = live("--ready-timeout", "300ms", command=gated.command)
    life.wait_state("failed")
    assert "not ready within 0.3 s" in life.board.list()[0]["message"]
    gated.shut.unlink()
    life.wait_state("running")
    assert life.board.list() == []


DAEMON = """
import os, socket, sys
reading, writing = os.pipe()
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    if os.fork():
        os._exit(len(os.read(reading, 1)) - 1)
    os.setsid()
    os.write(writing, b"1")
    while listener.accept()[0].recv(4) != b"quit":
        pass
"""


def test_a_service_that_becomes_a_daemon_has_not_lost_its_port(live):
    """Where the wrapper is not PID 1 it is out of reach, and each run of another port would leave one more."""
    life = live(command=[sys.executable, "-c", DAEMON, "{port}"])
    assert life.wait_over() == (0, False)
    (message,) = [problem["message"] for problem in life.board.list()]
    port = int(re.search(r"still listens at 127.0.0.1:(\d+): run it", message)[1])
    with socket.create_connection(("127.0.0.1", port)) as daemon:
        daemon.sendall(b"quit")


def test_a_reload_that_makes_a_late_service_ready_has_it_served_at_once(live, tmp_path):
    mood = tmp_path / "mood"
    mood.write_text("503")
    life = live("--ready-path", "/ready", "--ready-timeout", "100ms", command=service("moody", str(mood)))
    life.wait_state("failed")
    assert life.ask("reload", reload=lambda *_: mood.unlink(), ready_timeout=20.0) is None
    assert life.service.status()["state"] == "running"
    assert life.service.gate.is_open


def test_a_start_of_a_service_that_is_late_says_so(live):
    life = live("--ready-timeout", "100ms", command=service("slow", "60"))
    life.wait_state("failed")
    assert "not ready within 0.1 s" in life.ask("start")


def test_a_reload_that_the_service_dies_of_is_no_success(live):
    life = live("--reload", "signal:HUP", command=[sys.executable, "-c", SILENT, "{port}"])
    life.wait_state("running")
    assert "it ended with status 129" in life.ask("reload")


def test_planned_restarts_and_crashes_are_counted_apart(live):
    life = live("--restart", "always", "--backoff", "1ms..1ms")
    life.wait_state("running")
    assert life.ask("restart") is None
    os.kill(life.pid(), signal.SIGKILL)
    wait_until(lambda: life.service.status()["restarts"] == 2)
    status = life.service.status()
    assert (status["restarts_planned"], status["crashes"]) == (1, 1)
    assert (status["last_crash"]["status"], status["last_crash"]["signal"]) == (137, "KILL")


def test_the_problem_of_a_crash_has_the_last_output(live, monkeypatch):
    monkeypatch.setattr(launcher, "LAST_LINES_TIMEOUT", PATIENCE)  # the pipes end with the service
    fails = "import sys; print('no such file', file=sys.stderr); 1 / 0"
    life = live("--capture-output", command=[sys.executable, "-c", fails, "{port}"])
    wait_until(lambda: len(life.board))
    output = life.board.list()[0]["details"]["output"]
    assert output[0] == "no such file"
    assert output[-1].startswith("ZeroDivisionError")


def test_a_second_start_in_one_restart_that_cannot_be_is_one_fall(live, tmp_path, monkeypatch):
    """The run that died of a taken port is on record by then; it was recorded again, from a state that has no fall."""
    broken = tmp_path / "broken"
    life = live("--restart", "always", "--backoff", "60s..60s", command=service("slow", "0", str(broken)))
    life.wait_state("running")
    spawner, spawn = life.service.around.spawner, life.service.around.spawner.spawn

    def spawn_once(*words, **options):
        monkeypatch.setattr(spawner, "spawn", lambda *_, **__: os.fstat(-1))
        return spawn(*words, **options)

    monkeypatch.setattr(spawner, "spawn", spawn_once)
    monkeypatch.setattr(life.controller._lifecycle, "_may_have_its_port", lambda run, *_: run.process.ended.wait(20))
    broken.touch()
    assert "Bad file descriptor" in life.ask("restart")
    assert life.ask("barrier") is not None  # the controller has gone on, and nothing was due
    assert (life.overs, life.service.status()["crashes"]) == ([], 1)
    assert life.service.life.state is State.BACKOFF


def test_shut_down_passes_its_own_signal_on(live):
    life = live()
    life.wait_state("running")
    life.controller.shut_down(signal.SIGINT)
    assert life.wait_over() == (0, True)


def test_shut_down_while_starting_does_not_wait_for_readiness(live):
    life = live(command=[sys.executable, "-c", "import time; time.sleep(60)", "{port}"])
    life.wait_state("starting")
    life.controller.shut_down(signal.SIGTERM)
    assert life.wait_over() == (143, True)


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
    assert life.wait_over() == (143, True)


def is_listening(address):
    with contextlib.suppress(OSError), socket.create_connection((address.host, address.port)):
        return True
    return False


def test_shut_down_while_a_reload_hangs_does_not_wait_for_its_answer(live):
    life = live("--reload", "POST /-/reload", command=[sys.executable, "-c", SILENT, "{port}"])
    life.wait_state("running")
    job = life.controller.ask("reload", "test")
    wait_until(lambda: life.controller._jobs.running is job)
    life.controller.shut_down(signal.SIGTERM)
    assert life.wait_over() == (143, True)
    assert job.is_done


def test_shut_down_of_a_deaf_service_kills_it(live, monkeypatch):
    monkeypatch.setattr(state, "LAST_STOP_TIMEOUT", 600.0)  # what it would have without --stop-timeout
    life = live("--stop-timeout", "300ms", command=service("deaf"))
    life.wait_state("running")
    life.controller.shut_down(signal.SIGTERM)
    assert life.wait_over() == (137, True)


def test_shut_down_during_a_restart_does_not_start_again(live):
    life = live("--stop-timeout", "600s", command=service("deaf"))
    life.wait_state("running")
    pid = life.pid()
    life.controller.ask("restart", "test")
    wait_until(lambda: life.service.life.run.was_stopped)  # a kill before that would be a crash
    life.controller.shut_down(signal.SIGTERM)
    os.kill(pid, signal.SIGKILL)
    assert life.wait_over() == (137, True)
    assert life.service.status()["generation"] == 1


def test_overlap_keeps_the_old_run_until_the_new_one_is_ready(live):
    life = live("--restart-mode", "overlap")
    life.wait_state("running")
    before = life.pid()
    assert life.ask("restart") is None
    assert life.pid() != before
    assert "starting" not in life.states()[2:]
    wait_until(lambda: life.service.life.old is None)
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_overlap_is_told_while_it_happens(live, tmp_path):
    flag, begin = tmp_path / "broken", tmp_path / "begin"
    os.mkfifo(begin)
    start = f"if [ -e {flag} ]; then read line <{begin}; fi; exec {' '.join(service('plain'))}"
    life = live("--restart-mode", "overlap", command=["sh", "-c", start])
    life.wait_state("running")
    assert life.service.status()["next_run"] is None
    flag.touch()
    job = life.controller.ask("restart", "new certificates")
    beside = wait_until(lambda: life.service.status()["next_run"])
    assert life.service.life.pids == [life.pid(), beside["pid"]]
    (told,) = wait_until(lambda: [event for event in life.feed.after(0) if event["kind"] == "next"])
    assert (told["step"], told["pid"], told["reason"]) == ("starting", beside["pid"], "new certificates")
    begin.write_text("go\n")
    assert job.wait(20)
    assert (life.service.status()["next_run"], life.pid()) == (None, beside["pid"])
    assert re.fullmatch(r"the next run, ready after \d+\.\d s, took over: new certificates", life.service.life.reason)


def test_overlap_that_fails_leaves_the_old_run(live, tmp_path):
    flag = tmp_path / "broken"
    life = live("--restart-mode", "overlap", command=service("slow", "0", str(flag)))
    life.wait_state("running")
    before = life.pid()
    flag.touch()
    assert "the earlier run goes on" in life.ask("restart")
    assert life.pid() == before
    assert [event["step"] for event in life.feed.after(0) if event["kind"] == "next"] == ["starting", "failed"]
    assert life.service.status()["next_run"] is None
    assert life.service.life.state is State.RUNNING
    assert len(life.board) == 1
    flag.unlink()
    assert life.ask("restart") is None
    assert life.pid() != before
    assert len(life.board) == 0


@pytest.mark.parametrize("befalls", ["an end", "a death"])
def test_a_deaf_run_that_failed_to_take_over_holds_nothing_up(live, tmp_path, monkeypatch, befalls):
    broken, is_deaf, told = tmp_path / "broken", tmp_path / "is deaf", tmp_path / "told"
    deaf = (f"if [ -e {broken} ]; then trap 'touch {told}' TERM; touch '{is_deaf}'; "
            "while :; do sleep 1 & wait; done; fi; ")
    life = live("--restart-mode", "overlap", "--stop-timeout", "60s",
                command=["sh", "-c", f"{deaf} exec {' '.join(service('plain'))}"])
    life.wait_state("running")
    broken.touch()
    monkeypatch.setattr(life.controller._lifecycle.health, "await_ready",
                        lambda *_: wait_until(is_deaf.exists) and "not ready in time")
    life.controller.ask("restart", "test")
    wait_until(told.exists)
    if befalls == "an end":
        life.controller.shut_down(signal.SIGTERM)
    else:
        os.kill(life.pid(), signal.SIGKILL)
    assert life.wait_over() == ((0, True) if befalls == "an end" else (137, False))


def test_overlap_survives_the_death_of_the_old_run_meanwhile(live, gated):
    life = live("--restart-mode", "overlap", command=gated.command)
    life.wait_state("running")
    gated.shut.touch()
    job = life.controller.ask("restart", "test")
    wait_until(lambda: life.service.life.counts()[0])  # it is under way: a death before that would be the end
    os.kill(life.pid(), signal.SIGKILL)
    wait_until(lambda: not life.service.gate.is_open)  # newcomers wait, though the controller is busy with the new run
    assert not life.service.status()["ready"]
    gated.shut.unlink()
    assert job.wait(20)
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
        assert life.wait_over() == (137, False)
    else:
        wait_until(lambda: life.pid() not in (before, new, None) and life.service.life.state is State.RUNNING)
        os.kill(before, 0)  # it drains, still
        life.service.gate.hurry()
        del lane
        wait_until(lambda: life.service.life.old is None)


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
    third = life.service.life.run.process
    job = life.controller.ask("restart", "test")
    wait_until(lambda: life.service.life.counts()[0].get("planned") == 2)
    if befalls == "an end":
        life.controller.shut_down(signal.SIGTERM)
    else:
        os.kill(third.pid, signal.SIGKILL)
        wait_until(lambda: life.pid() not in (before, third.pid, None))
        assert "ended" in job.error
    assert third.ended.wait(20)
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
    assert life.wait_over() == (0, True)
    assert "signal 2\n" in capfd.readouterr().err


def test_a_crash_in_the_drain_of_a_restart_is_a_crash(live):
    """It was not told to end yet. The restart goes on."""
    life = live("--drain-timeout", "600s")
    life.wait_state("running")
    lane, stays, run = life.service.gate._lane, Stays(), life.service.life.run
    assert life.service.gate.admit(stays) is lane
    job = life.controller.ask("restart", "test")
    life.wait_state("draining")
    os.kill(life.pid(), signal.SIGSEGV)
    assert run.ended.wait(20)
    life.service.gate.leave(lane, stays)
    assert job.wait(20)
    status = life.service.status()
    assert (status["crashes"], status["last_exit"]["signal"], status["last_exit"]["planned"]) == (1, "SEGV", False)


def test_a_crash_is_one_though_what_it_leaves_behind_is_still_there_at_the_stop(live, monkeypatch):
    monkeypatch.setattr(process, "REST_TIMEOUT", 600.0)
    script = f"trap '' TERM; sleep 600 & trap - TERM; exec {' '.join(service('plain'))}"
    life = live("--stop-timeout", "10ms", command=["sh", "-c", script])
    life.wait_state("running")
    run = life.service.life.run
    os.kill(life.pid(), signal.SIGSEGV)
    wait_until(run.process.has_fallen)
    assert life.ask("stop") is None
    status = life.service.status()
    assert (status["crashes"], status["last_exit"]["signal"], status["last_exit"]["planned"]) == (1, "SEGV", False)


@pytest.fixture
def moody(live, tmp_path):
    """A service whose mood is in a file, see tests/services/moody.py."""

    def start(*options):
        life = live(*options, command=service("moody", str(tmp_path / "mood")))
        life.mood = tmp_path / "mood"
        life.wait_state("running")
        return life

    return start


def test_a_service_that_stops_listening_is_not_ready_until_it_listens_again(moody):
    """uvicorn --reload shuts its listener for seconds while its process lives."""
    life = moody()
    life.mood.write_text("shut")
    wait_until(lambda: not is_listening(life.controller.address))
    life.service.gate.doubt()  # what a refused connection does; a probe comes every ten seconds by itself
    wait_until(life.service.readiness)
    assert "nothing listens" in life.service.readiness()
    assert [problem["id"] for problem in life.board.list()] == ["service/readiness"]
    status = life.service.status()
    assert (status["state"], status["ready"]) == ("running", False)
    life.mood.unlink()
    wait_until(lambda: life.service.readiness() is None)
    assert life.board.list() == []


def test_readiness_changes_behind_the_problem_that_it_is_about(moody):
    """Whatever waits for the service to be ready, or not to be, reads the board next."""
    life, seen = moody(), []
    life.feed.listen(lambda event: seen.append((event["kind"], life.service.readiness() is None)))
    life.mood.write_text("shut")
    wait_until(lambda: not is_listening(life.controller.address))
    life.service.gate.doubt()
    wait_until(lambda: life.service.readiness() is not None)
    life.mood.unlink()
    wait_until(lambda: life.service.readiness() is None)
    assert seen == [("problem", True), ("resolved", False)]


def test_a_service_that_answers_badly_again_and_again_is_not_ready(moody, monkeypatch):
    """Once may be a moment of its own, such as a collection of garbage."""
    monkeypatch.setattr(probe, "READY_INTERVAL", 0.01)
    monkeypatch.setattr(probe, "LATE_INTERVAL", 0.01)
    life = moody("--ready-path", "/ready")
    life.mood.write_text("503")
    wait_until(life.service.readiness)
    assert "/ready answers 503" in life.board.list()[0]["message"]
    life.mood.unlink()
    wait_until(lambda: life.service.readiness() is None)
    assert life.board.list() == []


def test_a_probe_for_which_we_have_no_descriptor_says_nothing_of_the_service(moody, monkeypatch):
    life = moody("--live-path", "/live", "--live-interval", "10ms")
    pid, asked = life.pid(), []

    def no_descriptor(address, timeout):
        asked.append(address)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("wrapper.sockets.connect", no_descriptor)
    monkeypatch.setattr(probe, "READY_INTERVAL", 0.01)
    monkeypatch.setattr(probe, "LATE_INTERVAL", 0.01)
    life.service.gate.doubt()
    wait_until(lambda: len(asked) > 20)
    assert (life.states()[-1], life.pid(), life.service.readiness()) == ("running", pid, None)
    assert life.board.list() == []


def test_a_service_that_hangs_leaves_a_problem_with_its_last_output(moody):
    life = moody("--capture-output", "--live-path", "/live", "--live-interval", "10ms", "--backoff", "60s..60s")
    wait_until(lambda: life.service.output.lines(1))  # it is read, not only written
    life.mood.write_text("503")
    life.wait_state("backoff")
    problem = next(each for each in life.board.list() if each["id"] == "service/liveness")
    assert problem["message"] == "the service hangs: /live answers 503, which is none of --ready-status"
    assert "listens at 127.0.0.1" in problem["details"]["output"]
    assert "hangs" in life.service.readiness()
    assert not life.service.gate.is_open
    life.mood.unlink()
    assert life.ask("restart") is None
    assert life.board.list() == []


def test_a_stop_takes_the_problems_of_readiness_with_it(moody):
    life = moody()
    life.mood.write_text("shut")
    wait_until(lambda: not is_listening(life.controller.address))
    life.service.gate.doubt()
    wait_until(life.board.list)
    assert life.ask("stop") is None
    assert life.board.list() == []
