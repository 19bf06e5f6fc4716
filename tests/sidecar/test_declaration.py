"""declaration.py: what may not be declared is refused at the author's line."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("wrong", [
    lambda sidecar: sidecar.route("GET", "no/slash"),
    lambda sidecar: sidecar.route("get", "/x"),
    lambda sidecar: sidecar.route("GET", "/x", timeout="soon"),
    lambda sidecar: sidecar.route("GET", "/x", limit="much"),
    lambda sidecar: sidecar.service("Big Name", ["x", "{port}"]),
    lambda sidecar: sidecar.service("x", []),
    lambda sidecar: sidecar.service("x", ["x"]),
    lambda sidecar: sidecar.service("x", ["x", "{port}"], route="no"),
    lambda sidecar: sidecar.watch("ftp://x"),
    lambda sidecar: sidecar.watch("/x", every="often"),
    lambda sidecar: sidecar.counter("no name", "Help."),
    lambda sidecar: sidecar.counter("wrapper_mine", "Help."),
    lambda sidecar: sidecar.route("GET", "/x", timeout=-1),
    lambda sidecar: sidecar.route("GET", "/x", timeout="0s"),
    lambda sidecar: sidecar.route("GET", "/x", limit=-1),
    lambda sidecar: sidecar.mount("/x", dict, timeout=0),
    lambda sidecar: sidecar.mount("/x/{name}", dict),
    lambda sidecar: sidecar.mount("/", dict),
    lambda sidecar: sidecar.service("x", ["x", "{port}"], restart="sometimes"),
    lambda sidecar: sidecar.service("x", "x --port {port}"),
    lambda sidecar: sidecar.service("x", ["x"], upstream="no address"),
    lambda sidecar: sidecar.service("service", ["x", "{port}"]),
    lambda sidecar: [sidecar.service("x", ["x", "{port}"]) for _ in range(2)],
    lambda sidecar: sidecar.problem("it hurts", source="me"),
    lambda sidecar: sidecar.problem("disk", "the disk is full"),
    lambda sidecar: sidecar.resolve("dsik"),
    lambda sidecar: sidecar.watch("/x", select="a..b"),
])
def test_a_malformed_declaration_is_said_at_the_authors_line(sidecar, wrong):
    with pytest.raises(ValueError, match="."):
        wrong(sidecar)


async def waits(request):
    return {}


async def yields_and_waits(request):
    yield {}


def yields(service):
    """Called, it does nothing yet."""
    yield


@pytest.mark.parametrize("declare", [
    lambda sidecar: sidecar.route("GET", "/x")(waits), lambda sidecar: sidecar.task(waits),
    lambda sidecar: sidecar.on_ready(waits), lambda sidecar: sidecar.watch(dict)(waits),
    lambda sidecar: sidecar.task("not a function"), lambda sidecar: sidecar.task(yields),
    lambda sidecar: sidecar.on_ready(yields), lambda sidecar: sidecar.watch(dict)(yields),
    lambda sidecar: sidecar.route("GET", "/x")(yields_and_waits)])
def test_what_a_thread_cannot_call_is_said_at_the_authors_line(sidecar, declare):
    with pytest.raises(TypeError, match="plain function"):
        declare(sidecar)


def test_what_is_no_application_is_said_at_the_authors_line(sidecar):
    with pytest.raises(TypeError, match="WSGI"):
        sidecar.mount("/x", None)
