"""--helper: a second process with its own route, gate and controller; what happens to it happens to it alone."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.restarts.raw import Raw, get
from tests.running import SERVICES, Wrapper, service, wait_until

PLAIN = f"{sys.executable} -u {SERVICES}/plain.py {{port}}"


@pytest.fixture
def run(tmp_path):
    started = []

    def start(helper, *options):
        started.append(Wrapper("--helper", f"second=/second={helper}", *options, command=service("plain")))
        return started[-1]

    yield start
    for wrapper in started:
        wrapper.__exit__(None, None, None)


def helper(wrapper):
    return wrapper.status()["helpers"]["second"]


def wait_ready(wrapper):
    wait_until(lambda: helper(wrapper)["ready"], what=str(wrapper.status()))


def test_each_path_has_its_own_service(run):
    wrapper = run(PLAIN)
    wait_ready(wrapper)
    assert int(wrapper.get("/second/any")) == helper(wrapper)["pid"]
    assert int(wrapper.get("/second")) == helper(wrapper)["pid"]
    assert int(wrapper.get("/secondary")) == int(wrapper.get("/")) == wrapper.status()["pid"]


@pytest.mark.parametrize("command", ["false {port}", "/no/such/program {port}"])
def test_a_helper_that_fails_is_a_problem_and_never_the_end(run, command):
    wrapper = run(command)
    wait_until(lambda: helper(wrapper)["state"] == "failed")
    assert wrapper.get("/")
    assert wrapper.request("GET", "/second")[0] == 503
    assert wrapper.request("GET", "/sidecar/readyz")[0] == 200
    problems = wrapper.command("GET", "/sidecar/api/problems")[1]
    assert [problem["source"] for problem in problems] == ["second"]
    assert wrapper.command("POST", "/sidecar/api/restart?service=second&wait=1")[0] == 500
    assert wrapper.end(signal.SIGTERM) == 0


def test_a_helper_that_dies_takes_nobody_along(run):
    wrapper = run(PLAIN)
    wait_ready(wrapper)
    main = wrapper.status()["pid"]
    os.kill(helper(wrapper)["pid"], signal.SIGKILL)
    wait_until(lambda: helper(wrapper)["state"] == "failed")
    assert int(wrapper.get("/")) == main
    assert wrapper.process.poll() is None
    (problem,) = wrapper.command("GET", "/sidecar/api/problems")[1]
    assert (problem["source"], "status 137" in problem["message"]) == ("second", True)


def test_a_helper_that_failed_can_be_started(run):
    wrapper = run(PLAIN)
    wait_ready(wrapper)
    os.kill(helper(wrapper)["pid"], signal.SIGKILL)
    wait_until(lambda: helper(wrapper)["state"] == "failed")
    assert wrapper.command("POST", "/sidecar/api/start?service=second&wait=1")[0] == 200
    assert int(wrapper.get("/second")) == helper(wrapper)["pid"]
    assert wrapper.command("GET", "/sidecar/api/problems")[1] == []


def test_a_helper_whose_command_comes_later_is_tried_again(run, tmp_path):
    wrapper = run(f"{tmp_path}/later {{port}}", "--restart", "always", "--backoff", "20ms..50ms")
    wait_until(lambda: helper(wrapper)["state"] == "backoff")
    (tmp_path / "new").write_text(f"#!/bin/sh\nexec {sys.executable} {SERVICES}/plain.py $1\n")
    (tmp_path / "new").chmod(0o755)
    (tmp_path / "new").rename(tmp_path / "later")
    wait_ready(wrapper)
    assert wrapper.command("GET", "/sidecar/api/problems")[1] == []


def test_a_helper_comes_back_under_restart_always(run):
    wrapper = run(PLAIN, "--restart", "always", "--backoff", "10ms..20ms")
    wait_ready(wrapper)
    before = helper(wrapper)["pid"]
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: helper(wrapper)["ready"] and helper(wrapper)["pid"] != before)
    assert int(wrapper.get("/second")) == helper(wrapper)["pid"]
    assert wrapper.status()["generation"] == 1


def test_a_planned_restart_of_a_helper_holds_its_own_requests_alone(run, tmp_path):
    os.mkfifo(tmp_path / "go")
    (tmp_path / "log").touch()
    wrapper = run(f"{sys.executable} -S -u {SERVICES}/counting.py {{port}} {tmp_path}/log {tmp_path}/go")
    (tmp_path / "go").write_text("")
    wait_ready(wrapper)
    assert wrapper.command("POST", "/sidecar/api/restart?service=second")[0] == 202
    wait_until(lambda: helper(wrapper)["state"] == "starting")
    with Raw(wrapper.port, get("/second")) as held:
        wait_until(lambda: helper(wrapper)["held"] == 1)
        assert wrapper.get("/")
        assert wrapper.status()["held"] == 0
        assert wrapper.request("GET", "/sidecar/readyz")[0] == 200
        (tmp_path / "go").write_text("")
        status, fields, _ = held.read_response()
        assert (status, "wrapper-held" in fields) == (200, True)


def test_helpers_end_with_the_wrapper(run):
    wrapper = run(PLAIN)
    wait_ready(wrapper)
    pid = helper(wrapper)["pid"]
    assert wrapper.end(signal.SIGTERM) == 0
    assert not os.path.exists(f"/proc/{pid}")
