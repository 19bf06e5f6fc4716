"""host.py: tasks, hooks, watches and helpers of a sidecar, in a running wrapper."""

from __future__ import annotations

import sys
import threading

from wrapper import Problem, threads
from wrapper.sidecar.isolation import Guard
from wrapper.testing import FakeService, running


def test_a_task_has_a_thread_and_hears_of_the_end(sidecar):
    told = []

    @sidecar.task
    def work(service, stopping):
        told.append(service.wait_ready(5))
        stopping.wait()
        told.append("over")

    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: told == [True])
    assert wrapper.wait_until(lambda: told == [True, "over"])


def test_a_task_that_crashes_is_a_problem_and_is_called_again(sidecar, monkeypatch):
    monkeypatch.setattr("wrapper.sidecar.host.FIRST_PAUSE", 0.01)
    runs = []

    @sidecar.task
    def work():
        runs.append(1)
        if len(runs) < 3:
            sys.exit(1)

    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: len(runs) == 3)
        wrapper.wait_until(lambda: not wrapper.problems())


def test_a_task_that_goes_on_for_long_after_a_crash_is_well(sidecar, monkeypatch):
    monkeypatch.setattr("wrapper.sidecar.host.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("wrapper.sidecar.host.STEADY_SECONDS", 0.2)
    runs = []

    @sidecar.task
    def work(service, stopping):
        runs.append(1)
        if len(runs) == 1:
            raise ValueError
        stopping.wait()

    with running(sidecar) as wrapper:
        def told(kind):
            return [event["message"] for event in wrapper.events(kind) if event["source"] == "sidecar:mine"]

        wrapper.wait_until(lambda: told("resolved"))
        assert len(told("resolved")) == len(told("problem")) == 1 and "task work failed" in told("problem")[0]
        wrapper.wait_until(lambda: len(runs) == 2)


def test_a_task_that_fails_before_its_declaration_is_through_is_a_problem(sidecar, monkeypatch):
    """What starts the task has gone well, and says nothing of the task."""
    start, failed, has_failed = threads.start, Guard.failed, threading.Event()

    def start_and_see_it_fail(name, work, *arguments):
        thread = start(name, work, *arguments)
        assert "task" not in name or has_failed.wait(10)
        return thread

    def fail(guard, *arguments):
        failed(guard, *arguments)
        has_failed.set()

    monkeypatch.setattr("wrapper.sidecar.host.FIRST_PAUSE", 60.0)
    monkeypatch.setattr(threads, "start", start_and_see_it_fail)
    monkeypatch.setattr(Guard, "failed", fail)

    @sidecar.task
    def work():
        raise ValueError

    with running(sidecar) as wrapper:
        assert "task work failed" in wrapper.wait_problem()["message"]
        assert wrapper.events("resolved") == []


def test_a_task_without_a_thread_is_a_problem_and_keeps_nothing_from_its_end(sidecar, refuse_threads):
    sidecar.task(lambda: None)
    refuse_threads("task <lambda>")
    with running(sidecar) as wrapper:
        assert "task <lambda> failed: NoThread" in wrapper.wait_problem()["message"]


def test_who_looks_on_is_not_needed(sidecar, refuse_threads, monkeypatch):
    monkeypatch.setattr("wrapper.sidecar.host.FIRST_PAUSE", 0.01)
    runs, heard = [], []

    @sidecar.task
    def work():
        runs.append(1)
        if len(runs) < 3:
            raise ValueError

    sidecar.on_ready(lambda: heard.append("ready"))
    refuse_threads("steady", "slow")
    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: len(runs) == 3 and heard)


def test_hooks_follow_the_service_from_its_beginning(sidecar):
    heard = []
    sidecar.on_start(lambda service: heard.append("start"))
    sidecar.on_ready(lambda: heard.append("ready"))

    @sidecar.on_exit
    def ended(service, facts):
        heard.append((facts["status"], facts["planned"]))

    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: heard == ["start", "ready"])
        wrapper.service.restart("test")
        wrapper.wait_until(lambda: len(heard) == 4)
    # The exit that the wrapper's own end brings is heard too.
    assert heard == ["start", "ready", (143, True), "ready", (143, True)]


def test_the_first_hook_may_come_while_the_sidecar_runs(sidecar):
    heard = []
    with running(sidecar) as wrapper:
        sidecar.on_ready(lambda: heard.append("ready"))
        wrapper.wait_until(lambda: heard == ["ready"])


def test_a_restart_that_overlaps_is_ready_before_it_is_over(sidecar):
    heard = []
    sidecar.on_ready(lambda: heard.append("ready"))
    sidecar.on_exit(lambda service, facts: heard.append(facts["planned"]))
    service = FakeService()
    with running(sidecar, service=service, restart_mode="overlap") as wrapper:
        wrapper.wait_until(lambda: heard == ["ready"])
        wrapper.service.restart("test")
        wrapper.wait_until(lambda: len(heard) == 3)
        service.crash()
        wrapper.wait_until(lambda: len(heard) == 4)
    assert heard == ["ready", "ready", True, False]


def test_a_hook_that_fails_does_not_silence_the_others(sidecar):
    heard = []

    @sidecar.on_ready
    def fails():
        sys.exit(1)

    sidecar.on_ready(lambda: heard.append("ready"))
    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: heard == ["ready"])
        assert "on_ready fails failed: SystemExit" in wrapper.wait_problem()["message"]


def test_watches_of_one_name_are_told_apart(sidecar):
    """Python's `_` is a common one."""
    for _ in range(2):
        @sidecar.watch(lambda: 1, every=10)
        def _(value):
            pass

    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: {"mine._", "mine._-2"} == {
            one["name"] for one in wrapper.get("/sidecar/api/config").json()})


def test_a_hook_that_hangs_is_a_problem_until_it_comes_back(sidecar, monkeypatch):
    monkeypatch.setattr("wrapper.sidecar.host.SLOW_SECONDS", 0.01)
    go_on = threading.Event()
    sidecar.on_start(lambda service: go_on.wait())
    with running(sidecar) as wrapper:
        assert "has not returned" in wrapper.wait_problem("on_start")["message"]
        go_on.set()
        wrapper.wait_until(lambda: not wrapper.problems())


def test_a_watch_is_called_with_what_changed(sidecar):
    document, seen = {"alerts": [1], "noise": 0}, []

    @sidecar.watch(lambda: dict(document), every=0.01, select=lambda found: found["alerts"])
    def on_alerts(alerts, service):
        seen.append((alerts, service.state))
        return [Problem("three is too many", "many")] if len(alerts) == 3 else None

    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: len(seen) == 1)
        document.update(noise=1)
        document.update(alerts=[1, 2, 3])
        assert wrapper.wait_problem()["message"] == "three is too many"
        assert [alerts for alerts, _ in seen] == [[1], [1, 2, 3]]
        (status,) = wrapper.get("/sidecar/api/config").json()
        assert status["name"] == "mine.on_alerts"
        document.update(alerts=[2])
        wrapper.wait_until(lambda: not wrapper.problems())


def test_a_watch_selects_by_a_path_too(sidecar):
    document, seen = {"a": {"b": [1]}}, []
    sidecar.watch(lambda: dict(document), every=0.01, select="a.b", name="picked")(seen.append)
    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: seen == [[1]])
        document.update(a={"c": 1})
        message = wrapper.wait_problem()["message"]
        assert "cannot select a.b: there is no 'b'" in message


def helper_command(text):
    program = ("import http.server, sys\n"
               "class Handler(http.server.BaseHTTPRequestHandler):\n"
               "    def do_GET(self):\n"
               f"        body = ({text!r} + self.path).encode()\n"
               "        self.send_response(200)\n"
               "        self.send_header('Content-Length', str(len(body)))\n"
               "        self.end_headers()\n"
               "        self.wfile.write(body)\n"
               "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n")
    return [sys.executable, "-c", program, "{port}"]


def test_a_helper_runs_beside_the_service_under_its_own_path(sidecar):
    helper = sidecar.service("second", helper_command("helper "), route="/second")
    with running(sidecar) as wrapper:
        assert helper.wait_ready(10)
        assert wrapper.get("/second/page").text == "helper /second/page"
        assert wrapper.get("/").text == "a fake service\n"
        status = wrapper.get("/sidecar/api/status").json()["helpers"]["second"]
        assert status["state"] == helper.state == "running"
        first = status["pid"]
        helper.restart("test")
        assert helper.status()["pid"] != first


def test_a_helper_that_cannot_run_is_a_problem_and_nothing_else(sidecar):
    sidecar.service("second", ["/does/not/exist", "{port}"], route="/second", restart="never")
    with running(sidecar) as wrapper:
        assert "not found" in wrapper.wait_problem()["message"]
        assert len(wrapper.problems()) == 1
        assert "/does/not/exist" not in wrapper.get("/sidecar/api/problems", token=True).text  # its words are not told
        assert wrapper.get("/second/").status == 503
        assert wrapper.get("/").status == 200
