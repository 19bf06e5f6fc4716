"""testing.py: the kit that sidecar authors write their tests with."""

from __future__ import annotations

import sys
import threading

import pytest

from tests.running import wait_until
from wrapper import Response, Sidecar, testing
from wrapper.service.jobs import JobQueue
from wrapper.testing import FakeService, running


@pytest.fixture
def sidecar():
    sidecar = Sidecar()

    @sidecar.route("GET", "/sidecar/api/hello")
    def hello(request):
        return {"hello": request.query.get("name", "world")}

    @sidecar.route("POST", "/alerts", guarded=True)
    def alerts(request, service):
        service.restart(f"{len(request.json())} alerts")
        return "restarted"

    return sidecar


def test_the_example_of_its_docstring(sidecar):
    with running(sidecar) as wrapper:
        assert wrapper.get("/sidecar/api/hello?name=you").json() == {"hello": "you"}
    service = FakeService({"GET /": "hello"})
    with running(sidecar, service=service) as wrapper:
        wrapper.post("/alerts", json=["cpu"], token=True)
        wrapper.wait_until(lambda: service.starts == 2)


def test_a_fake_service_answers_what_it_was_told():
    service = FakeService({"/text": "text", "GET /json": {"a": 1}, "/bytes": b"\x00", "/status": (418, "tea"),
                           "POST /echo": lambda asked: asked.body, "/empty": (204, None)})
    with running(service=service) as wrapper:
        assert wrapper.get("/text").text == "text"
        assert wrapper.get("/json?x=1").json() == {"a": 1}
        assert wrapper.get("/bytes").body == b"\x00"
        assert wrapper.get("/status").status == 418
        assert wrapper.get("/empty").status == 204
        assert wrapper.post("/echo", body=b"body").body == b"body"
        assert wrapper.post("/echo", body=iter([b"in ", b"pieces"])).body == b"in pieces"
        assert wrapper.get("/echo").status == 404
        assert wrapper.request("HEAD", "/text").headers["content-length"] == "4"
        service.answers["/new"] = "new"
        assert wrapper.get("/new").text == "new"
        assert [asked.path for asked in service.requests][:2] == ["/text", "/json?x=1"]
        assert service.requests[0].headers["X-Forwarded-For"]


def test_the_probe_is_no_request_of_a_client():
    service = FakeService({"/ready": "yes"})
    with running(service=service, ready_path="/ready"):
        assert not service.requests


def test_a_fake_service_can_crash_and_come_back():
    service = FakeService()
    with running(service=service, restart="always", backoff="10ms..10ms") as wrapper:
        service.crash(3)
        wrapper.wait_until(lambda: service.starts == 2 and wrapper.service.is_ready)
        assert wrapper.service.status()["last_exit"]["status"] == 3
        assert wrapper.get("/").status == 200


def test_a_fake_service_may_not_start():
    service = FakeService()
    service.fails_to_start = True
    with running(service=service, wait=False, hold="0s") as wrapper:
        wrapper.wait_problem("status 1")
        assert wrapper.get("/").status == 503


def test_what_is_sent_to_a_fake_service_is_known():
    service = FakeService()
    with running(service=service) as wrapper:
        wrapper.service.signal("HUP")
        assert service.signals == ["HUP"]
    assert service.signals == ["HUP", "TERM"]


def test_the_environment_of_a_fake_service_is_known():
    service = FakeService()
    with running(service=service) as wrapper:
        assert wrapper.service.apply({}, environment={"LEVEL": 3, "PATH": None}) == []
        assert service.environment["LEVEL"] == "3"
        assert "PATH" not in service.environment
        assert service.starts == 2
        assert wrapper.service.apply({}, environment={"PATH": None, "LEVEL": 3}) == []
        assert service.starts == 2, "nothing has changed"


def test_a_real_service_runs_as_well():
    command = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1", "--directory", "/etc"]
    with running(command=command, ready_path="/hostname") as wrapper:
        assert wrapper.get("/hostname").status == 200


def test_a_file_or_module_is_loaded_as_the_option_would(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from wrapper import Sidecar\nsidecar = Sidecar()\nsidecar.route('GET', '/x')(lambda: 'x')\n")
    with running(str(file)) as wrapper:
        assert wrapper.get("/x").text == "x"


def test_events_and_metrics_can_be_looked_at(sidecar):
    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: [event["state"] for event in wrapper.events("state")] == ["starting", "running"])
        assert "wrapper_service_ready" in wrapper.metrics()


def test_a_wait_that_fails_says_what_is_wrong(sidecar):
    with running(sidecar) as wrapper:
        sidecar.problem("the disk is full")
        with pytest.raises(AssertionError, match="the disk is full"):
            wrapper.wait_until(lambda: False, timeout=0.01)
        with pytest.raises(AssertionError):
            wrapper.wait_problem("another", timeout=0.01)


def test_a_stream_is_read_line_by_line_and_its_end_is_noticed(capfd):
    """A silent stream asks with an empty piece whether its client is still there."""
    sidecar, left, looks = Sidecar(), threading.Event(), threading.Event()

    @sidecar.route("GET", "/lines")
    def lines_():
        def pieces():
            try:
                yield "one\n"
                while True:
                    looks.wait(0.01)
                    yield b""
            finally:
                left.set()
        return Response(pieces())

    with running(sidecar) as wrapper:
        with wrapper.stream("/lines") as lines:
            assert next(lines) == "one"
        assert left.wait(5)
    assert "failed" not in capfd.readouterr().err


def test_nothing_is_left_behind(sidecar):
    def ours():
        return {thread for thread in threading.enumerate() if thread not in before
                and thread.name.startswith(("fake-service", "controller", "gate"))}

    before = set(threading.enumerate())
    with running(sidecar) as wrapper:
        assert wrapper.get("/").status == 200
    wait_until(lambda: not ours())


def test_settings_are_those_of_the_command_line():
    with running(prefix="/-/mine", hold="1s", capture_output=True, trusted_proxies="10.0.0.0/8") as wrapper:
        assert wrapper.get("/-/mine/healthz").status == 200
    assert testing._words({"sidecar": ["a", "b"], "capture_output": False}) == [
        "--sidecar=a", "--sidecar=b", "--capture-output=false"]


def test_a_test_may_begin_with_a_stop(monkeypatch):
    """The service is ready a moment before its first start is off the queue."""
    finish = JobQueue.finish

    def finish_late(*arguments):
        threading.Event().wait(0.1)
        finish(*arguments)

    monkeypatch.setattr(JobQueue, "finish", finish_late)
    with running() as wrapper:
        wrapper.service.stop()
        assert wrapper.service.state == "stopped"
