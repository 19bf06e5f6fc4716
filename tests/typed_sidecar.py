"""A sidecar whose author checks types: `.ci/run lint` has `mypy --strict` judge it, as an author's own run would."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any, Callable

from wrapper import Problem, Request, Response, ServiceHandle, Sidecar
from wrapper.testing import FakeService, running

sidecar = Sidecar("typed")
jobs = sidecar.counter("jobs_total", "Jobs.", ["kind"])
depth = sidecar.gauge("depth", "How many wait.")
seconds = sidecar.histogram("job_seconds", "How long.", buckets=[0.1, 1])


@sidecar.route("GET", "/sidecar/things/{name}", guarded=True)
def thing(request: Request) -> dict[str, str]:
    jobs.inc(kind="a")
    depth.set(1)
    seconds.observe(0.5)
    return {"name": request.params["name"], "agent": request.headers.get("User-Agent", "")}


@sidecar.route("POST", "/sidecar/json", limit="64KiB", timeout=None)
def post(request: Request, service: ServiceHandle) -> tuple[int, dict[str, Any]]:
    return 201, {"got": request.json(), "state": service.state}


@sidecar.route("GET", "/sidecar/bytes")
def raw(request: Request) -> Response:
    return Response(b"x", 200, {"X-A": "b"}.items())


@sidecar.route("GET", "/sidecar/events")
def events(request: Request) -> Iterator[tuple[str, Any]]:
    yield "tick", {"n": 1}


@sidecar.route("GET", "/sidecar/wrong")
def wrong(request: Request) -> list[str]:
    problems: list[Problem] = sidecar.problems()
    return [f"{problem.source}: {problem.message}" for problem in problems]


@sidecar.task
def work(service: ServiceHandle, stopping: threading.Event) -> None:
    while not stopping.wait(5):
        if service.wait_ready(1):
            sidecar.resolve("state", missing_ok=True)
        else:
            sidecar.problem("not running", key="state", state=service.state)


@sidecar.watch("/etc/hostname", every="5s", select=lambda document: document)
def changed(value: Any, service: ServiceHandle) -> list[Problem]:
    return service.apply({"/tmp/x": value}, check=["true", "{file}"], action="signal:HUP",
                         environment={"LEVEL": 3, "OLD": None})


@sidecar.on_exit
def gone(service: ServiceHandle, facts: dict[str, Any]) -> None:
    service.restart("it ended")


@sidecar.on_ready
def ready(service: ServiceHandle) -> None:
    answer = service.request("GET", "/", headers={"a": "b"}, timeout=3)
    assert answer.status == 200 and answer.json()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"x"]


sidecar.mount("/sidecar/app", application)
helper = sidecar.service("mail", command=["x", "{port}"], route="/mail")


def judge() -> None:
    """How its test would look."""
    with running(sidecar, service=FakeService({"GET /": "hello"})) as wrapper:
        assert wrapper.get("/sidecar/things/x", token=True).json() == {"name": "x"}
        with wrapper.stream("/sidecar/events") as lines:
            assert next(lines) == "event: tick"
        wrapper.wait_until(lambda: wrapper.service.state == "running")
