"""reload: a signal or an HTTP call instead of a restart, with a look at the readiness after it."""

from __future__ import annotations

import pytest

from tests.running import Wrapper, service, wait_until


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_text("first")
    return path


def reads(wrapper):
    count, pid, *content = wrapper.get("/").split()
    return int(count), int(pid), b" ".join(content).decode()


def reload(wrapper):
    return wrapper.command("POST", "/sidecar/api/reload?wait=1")


@pytest.mark.parametrize("option", [("--reload", "signal:HUP"), ("--reload", "POST /-/reload")], ids=["signal", "call"])
def test_a_reload_keeps_the_run(file, option):
    with Wrapper(*option, command=service("configured", str(file))) as wrapper:
        before = reads(wrapper)
        file.write_text("second")
        assert reload(wrapper)[0] == 200
        wait_until(lambda: reads(wrapper) == (2, before[1], "second"))
        assert wrapper.status()["generation"] == 1


def test_without_a_way_to_reload_it_is_a_restart(file):
    with Wrapper(command=service("configured", str(file))) as wrapper:
        before = reads(wrapper)
        file.write_text("second")
        assert reload(wrapper)[0] == 200
        count, pid, content = reads(wrapper)
        assert (count, content) == (1, "second")
        assert pid != before[1]


def test_a_refused_reload_is_a_problem_and_the_service_goes_on(file):
    with Wrapper("--reload", "POST /-/reload", command=service("configured", str(file))) as wrapper:
        file.write_text("broken")
        status, answer = reload(wrapper)
        assert (status, "answers 500" in answer["error"]) == (500, True)
        assert "first" in reads(wrapper)[2]
        assert "answers 500" in str(wrapper.command("GET", "/sidecar/api/problems")[1])
        file.write_text("third")
        assert reload(wrapper)[0] == 200
        assert wrapper.command("GET", "/sidecar/api/problems")[1] == []


def test_a_reload_that_ends_the_service_is_left_to_the_policy(file):
    with Wrapper("--reload", "signal:HUP", "--restart", "always", "--backoff", "10ms..20ms",
                 command=service("configured", str(file))) as wrapper:
        file.write_text("fatal")
        reload(wrapper)
        wait_until(lambda: wrapper.status()["last_exit"])
        file.with_name("new").write_text("mended")
        file.with_name("new").replace(file)  # the service may be about to read it
        wrapper.wait_state("running")
        wait_until(lambda: reads(wrapper)[2] == "mended")


def test_requests_go_on_through_a_reload(file):
    with Wrapper("--reload", "signal:HUP", command=service("configured", str(file))) as wrapper:
        for number in range(20):
            assert wrapper.command("POST", "/sidecar/api/reload")[0] == 202
            status, fields, _ = wrapper.request("GET", f"/{number}")
            assert (status, "wrapper-held" in fields) == (200, False)
