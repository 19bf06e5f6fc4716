"""sampler.py: each second with its peaks and what the processes take, and each restart in one event."""

from __future__ import annotations

import os
import re
import threading
from collections import namedtuple

import pytest

from tests.running import wait_until
from wrapper.http1.message import Ended
from wrapper.sidecar import sampler
from wrapper.sidecar.sampler import QUIET_SAMPLES

Process = namedtuple("Process", "pid")


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(sampler, "SETTLE_SECONDS", 0.0)


def state(site, name, reason="", before=""):
    site.around.feed.publish("state", service="service", state=name, before=before, reason=reason)


def crash(site, **facts):
    site.around.feed.publish("exit", service="service", **{"status": 3, "signal": None, "planned": False, **facts})


def told(site):
    site.dashboard.sampler.sample()
    return [event for event in site.around.feed.after(0) if event["kind"] == "restarted"]


def ended(site, status):
    site.ended(Ended("GET", "/", status, 0.1, 0.1, 0.0, 0, 5, False, None))


def hold(site, *seconds):
    for one in seconds:
        with pytest.raises(Exception, match="held for"):
            site.services[0].gate.collect(object(), one)


def test_a_planned_restart_is_one_event_with_what_it_cost(site):
    ended(site, 503)  # before it
    hold(site, 20.0)
    state(site, "draining", "deploying the hotfix")
    hold(site, 0.5, 3.5)
    ended(site, 502)
    state(site, "stopping")
    state(site, "starting")
    assert told(site) == []
    hold(site, 1.0)
    state(site, "running", "ready")
    (event,) = told(site)
    cost = "3 held, longest 3\\.5 s, 1 failed"
    assert re.fullmatch(rf"restarted in \d+\.\d s: deploying the hotfix; {cost}", event["message"])
    assert (event["held"], event["longest"], event["failed"], event["planned"]) == (3, 3.5, 1, True)
    first = next(one for one in site.around.feed.after(0) if one["id"] == event["first"])
    assert first["state"] == "draining"
    assert len(told(site)) == 1, "once"


@pytest.mark.parametrize(("facts", "words"), [({}, "exit 3"), ({"status": 137, "signal": "KILL"}, "signal KILL")])
def test_a_crash_that_healed_is_one_event(site, facts, words):
    crash(site, **facts)
    state(site, "backoff")
    state(site, "starting")
    state(site, "running")
    (event,) = told(site)
    assert re.fullmatch(rf"crashed, {words}; back after \d+\.\d s; 0 held, 0 failed", event["message"])
    assert event["planned"] is False


def test_an_overlapped_restart_begins_with_the_next_run(site):
    site.around.feed.publish("next", service="service", step="starting", pid=7, reason="new certificates")
    state(site, "running", "the next run took over", before="running")
    assert "new certificates; 0 held, 0 failed" in told(site)[0]["message"]


@pytest.mark.parametrize("end", ["stopped", "failed"])
def test_what_does_not_come_back_is_no_restart(site, end):
    state(site, "draining", "a stop")
    state(site, end)
    state(site, "starting")
    state(site, "running")
    assert told(site) == []


def test_a_next_run_that_fails_is_no_restart(site):
    site.around.feed.publish("next", service="service", step="starting", pid=7, reason="a test")
    site.around.feed.publish("next", service="service", step="failed", reason="it ended with status 9")
    crash(site)
    state(site, "running")
    assert told(site)[0]["message"].startswith("crashed")


def test_a_helper_is_not_the_service(site):
    site.around.feed.publish("exit", service="mail", status=3, signal=None, planned=False)
    site.around.feed.publish("state", service="mail", state="running", before="starting", reason="")
    assert told(site) == []


def test_what_the_wrapper_takes_is_there_in_the_first_second_and_each_fifth(site):
    for _ in range(11):
        site.dashboard.sampler.sample()
    seconds = site.dashboard.traffic.seconds_after(0)
    assert [one["number"] for one in seconds if "usage" in one] == [1, 6, 11]
    usage = seconds[-1]["usage"]
    assert 1e6 < usage["wrapper_bytes"] < 4e9
    assert usage["wrapper_cores"] >= 0
    assert (usage["service_cores"], usage["service_bytes"]) == (None, None), "it does not run"


def test_what_a_new_run_takes_is_there_in_its_first_second(site):
    site.dashboard.sampler.sample()
    site.services[0].life.begin(Process(os.getpid()))
    site.dashboard.sampler.sample()
    assert site.dashboard.traffic.seconds_after(1)[0]["usage"]["service_bytes"] > 1e6


def test_a_thread_samples_while_something_happens_and_until_the_end(site, monkeypatch):
    monkeypatch.setattr(sampler, "INTERVAL", 0.001)
    traffic = site.dashboard.traffic
    site.dashboard.sampler.start()
    wait_until(lambda: len(traffic.seconds_after(0)) >= QUIET_SAMPLES)
    for _ in range(5):
        before = len(traffic.seconds_after(0))
        traffic.stirred.set()  # as an exchange does that ends
        wait_until(lambda before=before: len(traffic.seconds_after(0)) > before)
    site.finish()
    wait_until(lambda: not any(thread.name == "sampler" for thread in threading.enumerate()))


def test_a_thread_that_samples_sleeps_where_nothing_happens(site, monkeypatch):
    monkeypatch.setattr(sampler, "INTERVAL", 0.0)
    waits = threading.Semaphore(0)
    monkeypatch.setattr(site.dashboard.traffic, "stirred", Stirred(waits))
    site.dashboard.sampler.start()
    assert waits.acquire(timeout=10)
    assert len(site.dashboard.traffic.seconds_after(0)) == QUIET_SAMPLES
    site.finish()


class Stirred(threading.Event):
    """It says when it is waited for."""

    def __init__(self, waits):
        super().__init__()
        self._waits = waits

    def wait(self, timeout=None):
        self._waits.release()
        return super().wait(timeout)
