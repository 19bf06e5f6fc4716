"""Planned restarts under load: nobody fails, nobody is answered twice, nobody waits longer than the service is away."""

from __future__ import annotations

import time

import pytest

from tests.restarts.load import Load, Noted, counting
from tests.running import PATIENCE, Wrapper

MARGIN = 0.5  # seconds a request may wait longer than the service is away
# The interpreter's own start counts as the service's, so a run's outage is measured by the service itself.


def restarts(mode, log, *, rounds, connections, start, between):
    """The load, the spans of the restarts, and what the service noted."""
    spans = []
    with Wrapper("--restart-mode", mode, command=counting(log, start)) as wrapper, \
            Load(wrapper.port, connections) as load:
        load.wait(between, 60)
        for _ in range(rounds):
            begin = time.monotonic()
            status, answer = wrapper.command("POST", "/sidecar/api/restart?wait=1")
            spans.append((begin, time.monotonic()))
            assert status == 200, answer
            load.wait(between, 60)
        assert wrapper.status()["restarts"] == rounds
    return load, spans, Noted(log)


def check(load, noted):
    assert not load.failed, load.failed[:3]
    assert not noted.repeated
    assert len(noted.of("whole")) == len(load.answered)


def test_replace(tmp_path):
    load, _, noted = restarts("replace", tmp_path / "log", rounds=3, connections=16, start=0.3, between=500)
    check(load, noted)
    assert load.held
    assert load.longest < noted.longest_outage + PATIENCE


def test_overlap(tmp_path):
    load, _, noted = restarts("overlap", tmp_path / "log", rounds=3, connections=16, start=0.3, between=500)
    check(load, noted)
    assert not load.held


@pytest.mark.soak
def test_replace_ten_times_with_64_clients(tmp_path):
    load, _, noted = restarts("replace", tmp_path / "log", rounds=10, connections=64, start=2, between=5000)
    check(load, noted)
    assert len(load.answered) >= 50_000
    assert load.longest < noted.longest_outage + MARGIN
    print(f"{len(load.answered)} answered, longest {load.longest:.2f} s, outage {noted.longest_outage:.2f} s")


@pytest.mark.soak
def test_overlap_ten_times_with_64_clients(tmp_path):
    load, spans, noted = restarts("overlap", tmp_path / "log", rounds=10, connections=64, start=2, between=5000)
    check(load, noted)
    assert len(load.answered) >= 50_000
    within, outside = load.p99(spans, inside=True), load.p99(spans, inside=False)
    print(f"{len(load.answered)} answered, p99 {within * 1000:.1f} ms within restarts, {outside * 1000:.1f} ms outside")
    assert within < 3 * outside
