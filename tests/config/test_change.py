"""change.py and steps.py: one change from the check to the service that lives with it, or to the way back.

The service is a real one under a real controller; only the proxy in front is missing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from tests.config.test_history import Bench, whole
from tests.running import PATIENCE, SERVICES, free_port, wait_until
from wrapper.config import journal, steps
from wrapper.config.change import Change, apply, apply_first, check_drift, roll_back
from wrapper.config.journal import Replacement
from wrapper.config.transaction import Fault, Transaction
from wrapper.deadline import Deadline
from wrapper.errors import Busy
from wrapper.events import Feed
from wrapper.problems import Board, Problem
from wrapper.service.output import Output
from wrapper.service.probe import reload_by_call
from wrapper.service.process import Spawner
from wrapper.service.service import Service, Surroundings
from wrapper.service.state import State
from wrapper.settings import address, settings

FINE = [sys.executable, "-c", "pass"]
NO_BAD = [sys.executable, "-c", "import sys; t = open(sys.argv[1]).read(); print('looked at', t); "
          "sys.exit('bad' in t)", "{file}"]


@pytest.fixture(autouse=True)
def _own_index(monkeypatch, tmp_path_factory):
    """Keep the journals from the wrappers of other suites on this machine: each one that starts mends what is left."""
    monkeypatch.setattr(journal, "PLACES", (str(tmp_path_factory.mktemp("index")),))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Less time in which a service is seen to live on, and enough for last words, which end by themselves."""
    monkeypatch.setattr(steps, "SIGNAL_SETTLE", 0.3)
    monkeypatch.setattr(steps, "LAST_WORDS_TIMEOUT", 20.0)
    monkeypatch.setattr("wrapper.config.change.LAST_WORDS_TIMEOUT", 20.0)


class Upstream:
    def close(self):
        pass

    def doubt_kept(self):
        pass


class Stage:
    def __init__(self, folder, *options):
        self.file = folder / "service.conf"
        self.file.write_text("old")
        command = [sys.executable, "-u", str(SERVICES / "configured.py"), "{port}", str(self.file)]
        # The little service answers one request after the other, at once.
        chosen = settings.read(["--capture-output", "--ready-timeout", "20s", "--drain-timeout", "100ms",
                                "--stop-timeout", "1s", "--ready-path", "/", *options, "--", *command], {})
        feed = Feed()
        self.over = threading.Event()
        self.around = Surroundings(chosen, dict(os.environ), Spawner(), feed, Board(feed), lambda address: Upstream())
        self.service = Service("service", chosen.command, None, self.around, lambda *end: self.over.set())

    def start(self):
        self.service.controller.launch()
        wait_until(lambda: self.state is State.RUNNING)
        return self

    @property
    def state(self):
        return self.service.life.state

    def apply(self, content, **options):
        return apply(self.service, {str(self.file): content}, **options)

    def says(self):
        """(how often it read its file, its pid, what it read)."""
        _, body = steps.call(self.service.controller.address, "GET", "/")
        reads, pid, content = body.split(" ", 2)
        return int(reads), int(pid), content

    def stop(self):
        self.service.controller.shut_down(15)
        self.over.wait(5)


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    stage.start()
    yield stage
    stage.stop()


def only(problems):
    assert len(problems) == 1, problems
    return problems[0]


# What goes well


@pytest.mark.parametrize(("action", "is_same_run"), [
    ("restart", False), ("reload", False), ("signal:HUP", True), ("POST /-/reload", True),
])
def test_the_service_takes_the_new_file(stage, action, is_same_run):
    pid = stage.says()[1]
    assert stage.apply("new", action=action) == []
    assert stage.says()[2] == "new"
    assert (stage.says()[1] == pid) is is_same_run
    assert len(stage.around.board) == 0


def test_the_authors_own_action_gets_the_service(stage):
    assert stage.apply("new", action=lambda service: service.controller.signal(1)) == []
    assert stage.says()[2] == "new"


def test_without_an_action_the_file_is_all(stage):
    assert stage.apply("new", action=None) == []
    assert stage.file.read_text() == "new"
    assert stage.says()[0] == 1


def test_files_that_say_this_already_change_nothing(stage):
    assert stage.apply("old") == []
    assert stage.service.life.snapshot()["generation"] == 1


def test_files_that_are_put_back_reach_a_service_that_has_read_what_a_crash_left(tmp_path):
    """A new container on an old volume starts with it, and the index of journals was in the old one."""
    stage = Stage(tmp_path)
    cut_short = Transaction({str(stage.file): "half done"}, None)
    cut_short.stage()
    cut_short.replace()
    os.close(cut_short._journal._file)  # the lock goes with the process
    stage.start()
    assert stage.says()[2] == "half done"
    assert stage.apply("old") == []
    assert stage.says()[2] == "old"
    assert stage.apply("old") == []
    assert stage.service.life.snapshot()["generation"] == 2
    stage.stop()


def test_files_that_could_not_be_put_back_at_once_reach_the_service_with_the_next_change(stage, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error", "x")

    with monkeypatch.context() as patch:
        patch.setattr(Replacement, "restore", fail)
        problems = stage.apply("new", action="signal:HUP", ready_timeout=0.1, probe=lambda service: "no")
    assert [problem.details["step"] for problem in problems] == ["probe", "rollback"]
    assert "undone" not in problems[0].message
    assert "rolled_back" not in problems[0].details
    assert stage.says()[2] == "new"
    assert stage.apply("old", action="POST /-/reload") == []
    assert stage.says()[2] == "old"


def test_where_the_service_falls_behind_a_new_file_its_permissions_are_named(stage):
    """A service that has dropped root cannot read what is root's alone, and says so at most in its own words."""
    stage.file.unlink()
    problem = stage.apply("broken", mode=0o600)[0]
    assert f"; {stage.file} is new, with mode 0600 and uid 0: do these permissions" in problem.message
    stage.file.write_text("old")
    problem = stage.apply("broken", mode=0o600)[0]
    assert "permissions" not in problem.message
    problem, = stage.apply("broken", mode=0o1600)
    assert "mode is a number from 0 to 0o777" in problem.message


def test_what_a_check_prints_and_a_service_answers_is_in_the_details_only(stage):
    """The message is for more readers than they are; a faulty line may hold a password."""
    says = [sys.executable, "-c", "import sys; sys.exit('line 3: DB_PASSWORD=hunter2')", "{file}"]
    for problem in (*stage.apply("new", check=says), *stage.apply("broken hunter2", action="POST /-/reload"),
                    *stage.apply("broken hunter2")):
        assert problem.details["output"]
        assert "PASSWORD" not in problem.message
        assert "this configuration" not in problem.message


def test_a_new_file_has_the_mode_that_was_asked_for(stage, tmp_path):
    new = tmp_path / "new"
    for mode, found in ((None, 0o644), (0o600, 0o600), (0o640, 0o600)):
        assert apply(stage.service, {str(new): str(mode)}, action=None, mode=mode) == []
        assert new.stat().st_mode & 0o777 == found, "the mode of a file that is there stays"
        if mode is None:
            new.unlink()


def test_a_stopped_service_reads_it_when_it_is_started(stage):
    stage.service.controller.ask("stop", "test").wait()
    assert stage.apply("broken") == []
    assert stage.state is State.STOPPED
    assert stage.file.read_text() == "broken"


def test_a_service_that_has_failed_is_started_with_it(tmp_path):
    stage = Stage(tmp_path, "--restart", "always", "--backoff", "10s..10s")
    stage.file.write_text("broken")
    stage.service.controller.launch()
    wait_until(lambda: stage.state is State.BACKOFF)
    assert stage.apply("new", action="POST /-/reload") == []
    assert stage.says()[2] == "new"
    stage.stop()


def test_transactions_of_one_service_come_one_after_the_other(stage):
    results = []
    threads = [threading.Thread(target=lambda text=text: results.append(stage.apply(text, action="POST /-/reload")))
               for text in ("broken 1", "good 1", "broken 2", "good 2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(len(problems) for problems in results) == [0, 0, 1, 1]
    assert stage.says()[2].startswith("good")
    assert stage.file.read_text() == stage.says()[2]


# What does not


@pytest.mark.parametrize("check", ["sh -c 'echo more >>\"$0\"' {file}", "rm {file}", "ln -sf /dev/null {file}"])
def test_a_check_that_writes_to_the_new_file_is_named_and_the_old_one_stays(stage, check):
    """What it makes of the file would be in force, and drift from the version of the source at once."""
    problem = only(stage.apply("new", check=check))
    assert "the check has changed the new file" in problem.message
    assert problem.details["step"] == "check"
    assert "retry" not in problem.details
    assert stage.says()[2] == stage.file.read_text() == "old"
    assert os.listdir(stage.file.parent) == [stage.file.name]


def test_a_check_after_which_no_descriptor_is_left_has_changed_nothing(stage):
    def exhaust(files):
        patch.setattr("wrapper.config.folder.Folder.read", no_descriptor)

    def no_descriptor(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pytest.MonkeyPatch.context() as patch:
        problem = only(stage.apply("new", check=exhaust))
    assert "Too many open files" in problem.message
    assert problem.details["retry"] is True
    assert stage.says()[2] == stage.file.read_text() == "old"


def test_what_the_check_rejects_never_reaches_the_service(stage):
    problem = only(stage.apply("bad", check=NO_BAD))
    assert "rejects the new file with status 1" in problem.message
    assert problem.details["output"] == ["looked at bad"]
    assert problem.details["rejected"] != problem.details["kept"]
    assert stage.file.read_text() == "old"
    assert stage.says()[0] == 1
    assert stage.apply("good", check=NO_BAD) == []


@pytest.mark.parametrize(("content", "action"), [
    # Not there: HUP with "broken", which a service answers with nothing and goes on as before; POST with "late-fatal",
    # which says that it has reloaded and falls later, when it is the policy's again.
    *((content, "restart") for content in ("broken", "fatal", "late-fatal")), ("broken", "reload"),
    ("fatal", "signal:HUP"), ("late-fatal", "signal:HUP"), ("broken", "POST /-/reload"), ("fatal", "POST /-/reload"),
])
def test_what_does_not_work_is_put_back_and_the_service_goes_on(stage, monkeypatch, action, content):
    with monkeypatch.context() as patch:
        patch.setattr(steps, "SIGNAL_SETTLE", 20.0)  # which the end of the service cuts short
        patch.setattr("wrapper.config.change.WORDS_TIMEOUT", PATIENCE)  # as does its silence, once all is read
        problem = only(stage.apply(content, action=action))
    assert problem.message.startswith("the new configuration is undone: ")
    assert problem.details["rolled_back"]
    assert problem.details["output"]
    assert stage.file.read_text() == "old"
    assert stage.state is State.RUNNING
    assert stage.says()[2] == "old"
    assert not stage.over.is_set(), "--restart never is no reason to end when a change is tried out"
    assert len(stage.around.board) == 0
    assert stage.apply("new", action=action) == []
    assert stage.says()[2] == "new"


def test_what_ends_the_service_when_it_is_told_is_not_tried_again(stage):
    """Only where nothing was sent may the same content do at another time."""
    assert "retry" not in only(stage.apply("fatal", action="POST /-/reload")).details


def test_a_call_that_is_refused_is_tried_again(stage, monkeypatch):
    def refuse(*_):
        raise steps.Unsent("Connection refused")

    with pytest.raises(steps.Unsent):
        steps.call(address.tcp("127.0.0.1", free_port()), "POST", "/")
    monkeypatch.setattr(steps, "call", refuse)
    assert only(stage.apply("new", action="POST /-/reload")).details["retry"]


def test_what_an_action_may_have_the_service_close_is_known_behind_it_too(stage, monkeypatch):
    """It may close connections once it has answered; before, what is known has grown old by then."""
    told = []

    def doubt(upstream):
        told.append(upstream)

    monkeypatch.setattr(Upstream, "doubt_kept", doubt)
    assert stage.apply("new", action=lambda service: told.clear()) == []
    assert told == [stage.service.gate.upstream]


def test_a_query_is_not_shown(stage):
    """It may hold a token."""
    problem = only(stage.apply("broken", action="POST /-/reload?token=secret-1"))
    assert "POST /-/reload answers 500" in problem.message
    assert "secret-1" not in str(vars(problem))
    assert "secret-1" not in reload_by_call("POST", "/x?token=secret-1")(None, address.tcp("127.0.0.1", free_port()))


def test_a_call_that_drips_meets_one_deadline(serve, monkeypatch):
    monkeypatch.setattr(steps, "CALL_TIMEOUT", 0.3)
    stop, is_dry = threading.Event(), threading.Event()

    def drip(connection, head):
        for _ in range(600):
            if stop.wait(0.05):
                return
            connection.sendall(b"H")
        is_dry.set()

    server = serve(drip)
    with pytest.raises(OSError):
        steps.call(address.tcp("127.0.0.1", server.port), "POST", "/")
    assert not is_dry.is_set()
    stop.set()


@pytest.mark.parametrize(("verb", "state"), [("restart", State.RUNNING), ("stop", State.STOPPED)])
def test_an_end_that_was_asked_for_is_not_the_configurations_fault(stage, monkeypatch, verb, state):
    monkeypatch.setattr(steps, "SIGNAL_SETTLE", 20.0)
    results = []
    thread = threading.Thread(target=lambda: results.append(stage.apply("new", action="signal:HUP")))
    thread.start()
    # The reload itself refuses a stop; what comes behind it is meant.
    wait_until(lambda: stage.says()[2] == "new" and stage.service.controller._jobs.running is None)
    stage.service.controller.ask(verb, "an operator").wait()
    thread.join(20)
    assert results == [[]]
    assert stage.state is state
    assert stage.file.read_text() == "new"


@pytest.mark.parametrize("action", ["POST /-/reload", "signal:HUP", lambda service: service.controller.signal(1)])
def test_a_run_that_was_on_its_way_before_the_files_is_told_of_them(tmp_path, monkeypatch, action):
    """In a restart that overlaps it has read the old ones, and takes over later."""
    stage = Stage(tmp_path, "--restart-mode", "overlap").start()
    controller, free = stage.service.controller, threading.Event()
    probe = controller._lifecycle.health.ready
    monkeypatch.setattr(probe, "fault", lambda address, fault=probe.fault: fault(address) if free.is_set() else "busy")
    controller.ask("restart", "an operator")
    wait_until(lambda: stage.service.output.lines(9) == ["reads old"] * 2)
    problems = []
    change = threading.Thread(target=lambda: problems.append(stage.apply("new", action=action)))
    change.start()
    wait_until(lambda: controller._jobs.waiting)
    free.set()
    change.join(20)
    assert problems == [[]]
    wait_until(lambda: stage.says()[2] == "new")
    stage.stop()


def test_a_restart_that_is_asked_for_on_trial_fails_for_the_trial_to_mend(stage, monkeypatch):
    """--restart never would otherwise end the container with files that were to be put back."""
    monkeypatch.setattr(steps, "SIGNAL_SETTLE", 20.0)
    found = []
    thread = threading.Thread(target=lambda: found.append(stage.apply("broken", action="signal:HUP")))
    thread.start()
    wait_until(lambda: stage.file.read_text() == "broken" and "reads broken" in stage.service.output.lines(5))
    assert not stage.service.controller.ask("restart", "an operator").wait(20)
    thread.join(20)
    assert "undone" in only(found[0]).message
    assert not stage.over.is_set()
    assert stage.says()[2] == "old"


def test_requests_are_held_while_it_is_put_back(stage):
    held = []
    stage.around.feed.listen(lambda event: held.append(not stage.service.gate._refusal))
    only(stage.apply("fatal", action="POST /-/reload"))
    assert held
    assert all(held)


def test_the_words_of_the_service_are_in_the_problem(stage, monkeypatch):
    monkeypatch.setattr("wrapper.config.change.WORDS_TIMEOUT", PATIENCE)  # its silence, once all is read, ends it
    problem = only(stage.apply("broken", action="POST /-/reload"))
    assert problem.details["output"] == ["cannot reload: this configuration is broken"]
    problem = only(stage.apply("broken", action="restart"))
    assert problem.details["output"][-1] == "this configuration is broken"


def test_the_last_words_are_awaited_where_reading_them_takes_long(stage, monkeypatch):
    take = Output._take

    def slow(*words):
        assert not threading.Event().wait(0.3)
        take(*words)

    monkeypatch.setattr(Output, "_take", slow)
    problem = only(stage.apply("broken", action="restart"))
    assert problem.details["output"][-1] == "this configuration is broken"


def test_a_probe_of_the_authors_has_the_last_word(stage, monkeypatch):
    allowed, asked = Deadline(60), []

    def refuse(service):
        asked.append(service)
        allowed._end = 0.0 if len(asked) == 3 else allowed._end  # over
        return "the rule is not there"

    with monkeypatch.context() as patch:
        patch.setattr("wrapper.config.change.Deadline", lambda seconds: allowed)
        problem = only(stage.apply("new", probe=refuse))
    assert len(asked) == 3
    assert "the probe failed: the rule is not there" in problem.message
    assert stage.says()[2] == "old"
    answers = iter([False, "not yet", True])
    assert stage.apply("new", probe=lambda service: next(answers)) == []


class Passing(Deadline):
    """One that is over once the pause behind a probe is."""

    def sooner(self, seconds):
        self._end = 0.0
        return 0.0


def test_no_probe_is_begun_that_has_no_time_left(stage, monkeypatch):
    """It would hide what the one before it said."""
    monkeypatch.setattr("wrapper.config.change.Deadline", lambda seconds: Passing(60))
    asked, free = [], threading.Event()

    def refuse(service):
        asked.append(service)
        assert len(asked) == 1 or free.wait(20)
        return "the rule is not there"

    problem = only(stage.apply("new", probe=refuse))
    free.set()
    assert "the probe failed: the rule is not there" in problem.message
    assert len(asked) == 1


def test_a_service_that_falls_while_it_is_probed_is_put_back(stage):
    def kill(service):
        service.controller.signal(9)
        return "not yet"

    problem = only(stage.apply("new", probe=kill))
    assert "ended" in problem.message
    assert stage.says()[2] == "old"
    assert stage.state is State.RUNNING


def test_an_action_of_the_authors_that_raises_is_a_fault(stage):
    problem = only(stage.apply("new", action=lambda service: sys.exit(3)))
    assert "the action failed: SystemExit at test_change.py:" in problem.message
    assert stage.file.read_text() == "old"


@pytest.mark.parametrize("how", ["probe", "action"])
def test_what_an_authors_code_raises_is_for_the_log_only(stage, how, capfd, monkeypatch):
    """All may read the board, and messages hold what the code was called with."""
    monkeypatch.setattr("wrapper.config.change.Deadline", lambda seconds: Passing(60))  # one probe is enough

    def leak(service):
        raise RuntimeError("login with secret-1 failed")

    problem = only(stage.apply("new", **{"action": "signal:HUP", how: leak}))
    assert f"the {how} failed: RuntimeError at test_change.py:" in problem.message
    assert "secret-1" not in str(vars(problem))
    assert "secret-1" in capfd.readouterr().err


@pytest.mark.parametrize("how", ["probe", "action"])
def test_an_authors_code_that_hangs_is_late_and_the_change_is_undone(stage, how):
    """A service that falls is not restarted while a change is on trial, so a trial must end."""
    free = threading.Event()
    problem = only(stage.apply("new", ready_timeout=1, **{"action": "signal:HUP", how: lambda service: free.wait(20)}))
    free.set()
    assert f"the {how} has not come back within" in problem.message
    assert stage.says()[2] == "old"


def test_a_check_of_the_authors_that_hangs_is_late(stage, monkeypatch):
    monkeypatch.setattr(steps, "CHECK_TIMEOUT", 0.1)
    free = threading.Event()
    assert "has not come back" in only(stage.apply("new", check=lambda staged: free.wait(20))).message
    free.set()
    assert stage.file.read_text() == "old"


def test_a_change_from_within_a_change_is_refused(stage):
    """It would wait for the one that waits for it."""
    inner = []
    assert stage.apply("new", action=lambda service: inner.extend(stage.apply("inner"))) == []
    assert "from within" in only(inner).message
    assert stage.file.read_text() == "new"


def test_where_even_the_old_files_do_not_start_the_policy_decides(stage):
    """Both are said, and the wrapper ends as it would for any service that ended."""

    def harm(service):
        stage.service.around.environment["PATH"] = ""
        stage.service.controller._lifecycle._launcher._command = ("/bin/false",)
        service.controller.signal(9)
        return "no"

    problems = stage.apply("new", action=harm)
    assert [problem.details["step"] for problem in problems] == ["action", "rollback"]
    assert stage.over.wait(20)


def test_a_service_that_falls_after_the_trial_is_the_policys(stage):
    assert stage.apply("new") == []
    stage.service.controller.signal(9)
    assert stage.over.wait(20)


@pytest.mark.parametrize(("files", "reason"), [
    ({"/nowhere/file": "x"}, "cannot write"), ({"/proc/version": "x"}, "cannot write"),
])
def test_a_place_that_cannot_be_written_is_named(stage, files, reason):
    problem = only(apply(stage.service, files))
    assert reason in problem.message
    assert problem.details["retry"]


def test_after_the_way_back_the_service_has_its_time_to_become_ready(stage, monkeypatch):
    """A moment behind a reload in which it is not ready is no reason to restart it."""
    late, probe, call = [], stage.service.controller._lifecycle.health.ready, steps.call
    monkeypatch.setattr(probe, "fault", lambda address, fault=probe.fault: late.pop() if late else fault(address))
    monkeypatch.setattr(steps, "call", lambda *words: (call(*words), late.extend(["loading"] * 3))[0])
    only(stage.apply("broken", action="POST /-/reload"))
    assert stage.service.life.snapshot()["generation"] == 1


def test_the_files_of_a_service_that_is_gone_for_good_stay_as_they_were(stage):
    stage.service.controller.signal(9)
    assert stage.over.wait(20)
    assert only(stage.apply("new"))
    assert stage.file.read_text() == "old"


def test_an_unknown_action_is_named(stage):
    assert "no such action: 'dance'" in only(stage.apply("new", action="dance")).message
    assert stage.file.read_text() == "old"


def test_a_shutdown_in_the_middle_leaves_the_old_files(stage):
    began = threading.Event()

    def shut_down(service):
        service.controller.shut_down(15)
        began.set()
        stage.over.wait(5)
        return "too late"

    problems = stage.apply("new", action=shut_down)
    assert began.is_set()
    assert problems
    assert stage.file.read_text() == "old"


# Before the first start


def first(stage, content, check=None, seconds=20.0):
    return apply_first(stage.service, {str(stage.file): content}, check, Deadline(seconds))


def test_a_check_holds_the_first_start_up_no_longer_than_allowed(tmp_path):
    stage, begin = Stage(tmp_path), time.monotonic()
    problems, change = first(stage, "new", ["sleep", "20"], 0.1)
    assert only(problems).details["retry"]
    assert change is None
    assert time.monotonic() - begin < 15, "the check takes 20 s"


def test_a_first_start_with_new_files(tmp_path):
    stage = Stage(tmp_path)
    problems, change = first(stage, "new", NO_BAD)
    assert problems == []
    stage.start()
    assert change.settle() == []
    assert stage.says()[2] == "new"
    stage.stop()


def test_a_first_start_that_fails_with_new_files_is_done_with_the_old_ones(tmp_path):
    """A file the check likes and the service does not would otherwise keep the container from ever starting again."""
    stage = Stage(tmp_path)
    _, change = first(stage, "broken")
    stage.service.controller.launch()
    problem = only(change.settle())
    assert problem.details["rolled_back"]
    assert stage.state is State.RUNNING
    assert stage.says()[2] == "old"
    stage.stop()


def test_a_first_file_the_check_rejects_is_not_used(tmp_path):
    stage = Stage(tmp_path)
    problems, change = first(stage, "bad", NO_BAD)
    assert change is None
    assert "rejects" in only(problems).message
    assert stage.file.read_text() == "old"


def test_a_service_that_was_stopped_meanwhile_holds_up_no_other_change(tmp_path):
    stage = Stage(tmp_path)
    _, change = first(stage, "first")
    stage.start()
    stage.service.controller.ask("stop", "test").wait()
    assert change.settle() == []
    assert stage.file.read_text() == "first"
    stage.stop()


# Whatever it is given, it never raises


@pytest.mark.parametrize("files", [None, [], "x", {1: "x"}, {b"/x": "x"}])
def test_files_that_are_no_mapping_of_paths_are_said_and_not_tried_again(stage, files):
    problem = only(apply(stage.service, files, action=None))
    assert problem.message == "files is a mapping from paths, each a str or os.PathLike, to contents"
    assert "retry" not in problem.details


def test_a_path_may_be_an_object(stage):
    """As of pathlib; it was a fault of the wrapper's, tried again for ever."""
    assert apply(stage.service, {stage.file: "new"}, action=None) == []
    assert stage.file.read_text() == "new"


@pytest.mark.parametrize("check", ["/bin/false {file}", "grep -q ^old$ '{file}'"])
def test_a_check_may_be_one_text(stage, check):
    assert "rejects the new file" in only(stage.apply("new", check=check)).message
    assert stage.file.read_text() == "old"


def test_a_check_may_be_the_authors_own_code(stage):
    """It is called with where each new file is."""
    read = lambda staged: Path(staged[str(stage.file)]).read_text()  # noqa: E731
    assert "the check failed: bad" in only(stage.apply("bad", check=read)).message
    assert stage.apply("good", check=lambda staged: read(staged) == "good") == []
    assert stage.says()[2] == "good"


def test_a_mapping_of_any_kind_has_a_check_for_a_path(stage):
    check = types.MappingProxyType({str(stage.file): "/bin/false {file}"})
    assert "rejects the new file" in only(stage.apply("new", check=check)).message


@pytest.mark.parametrize("odd", [{"check": []}, {"check": 5}, {"check": {"/x": [1]}}, {"check": "'"}, {"action": 5},
                                 {"ready_timeout": "60s"}, {"ready_timeout": -1}, {"probe": "/ready"}])
def test_what_makes_no_sense_is_named_before_anything_is_done(stage, odd):
    assert only(stage.apply("new", **odd)).details["step"] == "settings"
    assert stage.file.read_text() == "old"
    assert stage.service.life.snapshot()["generation"] == 1
    assert "text, bytes or None, not int" in only(stage.apply(5)).message


def test_a_destination_that_is_a_pipe_is_named(stage, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in only(apply(stage.service, {str(tmp_path / "pipe"): "x"})).message


@pytest.mark.parametrize("step", ["_verify", "_check"])
def test_a_fault_of_ours_undoes_the_change(stage, monkeypatch, step):
    def fail(*_):
        raise KeyError("oh")

    with monkeypatch.context() as patch:
        patch.setattr(Change, step, fail)
        problem = only(stage.apply("new"))
    assert "the change failed: KeyError at" in problem.message
    assert stage.file.read_text() == "old"
    assert stage.apply("new") == []


# Checks


def run_check(command, timeout=60.0):
    steps.run_check(command, dict(os.environ), Spawner(), timeout)


def test_a_check_that_hangs_is_ended(monkeypatch):
    begin = time.monotonic()
    with pytest.raises(Fault, match=r"sleep took longer than 0\.2 s") as caught:
        run_check(["sleep", "60"], 0.2)
    assert caught.value.retry, "it had less time than a check has"
    monkeypatch.setattr(steps, "CHECK_TIMEOUT", 0.2)
    with pytest.raises(Fault) as caught:
        run_check(["sleep", "60"], 0.2)
    assert not caught.value.retry, "it would take as long again, and again"
    assert time.monotonic() - begin < 50, "it would take 60 s"


def test_a_check_that_cannot_run_is_named():
    with pytest.raises(Fault, match="the check cannot run: cannot run 'no-such-thing': not found"):
        run_check(["no-such-thing"])


def test_a_check_that_talks_without_end_costs_no_memory():
    with pytest.raises(Fault) as caught:
        run_check(["sh", "-c", "yes | head -c 50000000; echo the end; exit 9"])
    assert caught.value.output[-1] == "the end"
    assert len(caught.value.output) == 20


DAEMON = """
import os, signal, sys
reading, writing = os.pipe()
pid = os.fork()
if not pid:
    os.setsid()
    os.write(writing, b"x")
    signal.pause()
open(sys.argv[1], "w").write(str(pid))
os.read(reading, 1)
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("status", [0, 1])
def test_a_check_whose_offspring_holds_the_pipe_is_not_waited_for(tmp_path, monkeypatch, status):
    """Nor listened to any longer: that would be a thread and a descriptor for each change."""
    monkeypatch.setattr(steps, "LAST_WORDS_TIMEOUT", 0.1)
    with pytest.raises(Fault) if status else contextlib.nullcontext():
        run_check([sys.executable, "-c", DAEMON, str(tmp_path / "pid"), str(status)])
    wait_until(lambda: "check-output" not in [thread.name for thread in threading.enumerate()])
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_check_that_was_killed_has_not_judged():
    """As the kernel does for want of memory: the same content may do at another time."""
    with pytest.raises(Fault, match="sh was ended by KILL") as caught:
        run_check(["sh", "-c", "kill -9 $$"])
    assert caught.value.retry


def test_a_check_for_which_there_is_no_room_is_tried_again_and_leaves_nothing(monkeypatch):
    spawner, descriptors = Spawner(), len(os.listdir("/proc/self/fd"))

    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(spawner, "spawn", refuse)
        with pytest.raises(Fault, match="the check cannot run") as caught:
            steps.run_check(FINE, dict(os.environ), spawner)
    assert caught.value.retry
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Fault, match="the check cannot run"):
            steps.run_check(FINE, dict(os.environ), spawner)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_the_check_runs_once_for_each_file_it_names():
    staged = {"/a": "/.a.new", "/b": "/.b.new"}
    assert list(steps.commands(["x", "{file}"], staged)) == [["x", "/.a.new"], ["x", "/.b.new"]]
    assert list(steps.commands(["x"], staged)) == [["x"]]
    assert list(steps.commands({"/b": ["y", "-f={file}"]}, staged)) == [["y", "-f=/.b.new"]]
    assert list(steps.commands(None, staged)) == []


def test_a_callable_checks_the_new_files(stage):
    seen = {}

    def judge(staged):
        seen.update({path: Path(new).read_text() for path, new in staged.items()})
        return Problem("I do not like it")

    assert "I do not like it" in only(stage.apply("new", check=judge)).message
    assert seen == {str(stage.file): "new"}
    assert stage.file.read_text() == "old"


# The way back to an earlier version, and what to do about a file that something else has changed


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PLACES", (str(tmp_path),))
    return Bench(tmp_path)


def test_a_secret_file_that_comes_back_is_no_more_readable_than_it_was(bench):
    os.chmod(bench.files[0], 0o600)
    before = whole(bench.files[0])
    bench.apply((None,))
    bench.apply(("public",))
    os.chmod(bench.files[0], 0o644)
    assert roll_back(bench.service, 0, []) == []
    assert whole(bench.files[0]) == before


class Source:
    """A subscription whose change is under way."""

    def __init__(self, is_bringing):
        self.name, self.hash_seen, self.skipped = "source", "abc", None
        self.bringing = threading.Lock()
        if is_bringing:
            self.bringing.acquire()

    def skip(self, which, reason):
        self.skipped = which


def test_no_way_back_while_a_change_of_a_source_is_under_way(bench):
    """It would come behind the way back, and undo it."""
    bench.apply(("new",))
    bench.apply(("newer",))
    source = Source(is_bringing=True)
    with pytest.raises(Busy, match="a change from source is under way"):
        roll_back(bench.service, 1, [source])
    source.bringing.release()
    assert roll_back(bench.service, 1, [source]) == []
    assert source.skipped == "abc"
    bench.apply((), {"A": "1"})
    assert bench.past.newest().skipped == {"source": "abc"}, "another change forgets no skip"


def problems(bench):
    return bench.service.around.board.list()


def test_a_changed_file_is_a_problem_until_it_is_as_it_was(bench):
    bench.apply(("good\n", "other\n"))
    check_drift(bench.service)
    assert problems(bench) == []
    bench.files[0].write_text("by hand\n")
    bench.files[1].unlink()
    for _ in range(2):
        check_drift(bench.service)
    found, = problems(bench)
    assert found["details"]["difference"] == [
        str(bench.files[0]), "--- then", "+++ now", "@@ -1 +1 @@", "-good", "+by hand",
        str(bench.files[1]), "--- then", "+++ nothing", "@@ -1 +0,0 @@", "-other"]
    bench.apply(("good\n", "other\n"))
    check_drift(bench.service)
    assert problems(bench) == []


def test_new_rights_are_no_drift(bench):
    """An image's own start script may give files to its user; and the next change keeps what it finds."""
    bench.apply(("good",))
    os.chmod(bench.files[0], 0o600)
    check_drift(bench.service)
    assert problems(bench) == []


def test_what_comes_back_twice_in_a_minute_is_only_reported(bench):
    bench.start("--config-drift", "repair")
    bench.apply(("good",))
    bench.files[0].write_text("by hand")
    check_drift(bench.service)
    assert bench.files[0].read_text() == "good"
    assert problems(bench) == []
    bench.files[0].write_text("by hand")
    check_drift(bench.service)
    assert bench.files[0].read_text() == "by hand"
    assert len(problems(bench)) == 1
    assert bench.past.numbers() == [1], "a repair is no version"


def test_it_does_not_look_in_the_middle_of_a_change(bench):
    bench.apply(("good",))
    bench.files[0].write_text("half done")
    with bench.service.changing:
        check_drift(bench.service)
    assert problems(bench) == []


def test_a_file_that_cannot_be_read_is_no_end_of_the_watch(bench):
    bench.apply(("good",))
    bench.files[0].unlink()
    bench.files[0].mkdir()
    check_drift(bench.service)
    assert "cannot look at the managed files: Is a directory" in problems(bench)[0]["message"]
    bench.files[0].rmdir()
    bench.files[0].write_text("by hand")
    check_drift(bench.service)
    assert ["something else has changed" in problem["message"] for problem in problems(bench)] == [True]
