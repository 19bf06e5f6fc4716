"""traffic.py: every exchange is counted, by all threads; the last seconds are kept, and each restart is one event."""

from __future__ import annotations

import json
import os
import re
import threading
import timeit
from collections import namedtuple

import pytest

from tests.running import wait_until
from wrapper.errors import BadGateway
from wrapper.gate import Peaks
from wrapper.http1.message import Ended
from wrapper.sidecar import traffic as room
from wrapper.sidecar.registry import render
from wrapper.sidecar.traffic import FINE_TIMES, QUIET_SAMPLES, SECONDS_KEPT, SECONDS_TOLD, Traffic

REASONS = BadGateway.REASONS


def ended(method="GET", status=200, seconds=0.02, first_byte=0.01, held=0.0, received=10, sent=500, own=False):
    return Ended(method, "/", status, seconds, first_byte, held, received, sent, own, "127.0.0.1")


def samples(counted):
    """Name with labels -> value, of a scrape."""
    return {name: float(value) for name, value in (
        line.rsplit(" ", 1) for line in render(counted.families()).splitlines() if not line.startswith("#"))}


def test_requests_are_counted_by_road_method_and_class():
    counted = Traffic()
    for one in (ended(), ended(status=204), ended("POST", 502), ended(own=True)):
        counted.observe(one)
    found = {name: value for name, value in samples(counted).items() if name.startswith("wrapper_requests_total")}
    assert found == {
        'wrapper_requests_total{to="service",method="GET",code="2xx"}': 2,
        'wrapper_requests_total{to="service",method="POST",code="5xx"}': 1,
        'wrapper_requests_total{to="sidecar",method="GET",code="2xx"}': 1}


def test_502s_of_ours_are_counted_by_reason_from_the_beginning():
    """Present before the first, so that it is a rise that an alert can see."""
    counted = Traffic()
    counted.observe(ended(status=502)._replace(failure="closed"))
    counted.observe(ended(status=502))  # the service's own
    found = {name: value for name, value in samples(counted).items() if name.startswith("wrapper_bad_gateways")}
    assert found == {f'wrapper_bad_gateways_total{{reason="{reason}"}}': reason == "closed" for reason in REASONS}


def test_requests_that_travelled_twice_are_counted():
    counted = Traffic()
    for is_replayed in (False, True, True):
        counted.observe(ended()._replace(replayed=is_replayed))
    assert samples(counted)["wrapper_requests_replayed_total"] == 2


def test_methods_that_clients_invent_are_counted_together():
    """A label whose values strangers choose would grow without end."""
    counted = Traffic()
    for number in range(1000):
        counted.observe(ended(f"M{number}"))
    assert samples(counted)['wrapper_requests_total{to="service",method="other",code="2xx"}'] == 1000


def test_times_fall_into_their_buckets_and_bytes_are_summed():
    counted = Traffic()
    counted.observe(ended(seconds=0.5, first_byte=0.005, received=0, sent=1024))
    counted.observe(ended(seconds=1.5, first_byte=1.5, received=70, sent=6))
    counted.observe(ended(received=3, sent=5, own=True))
    found = samples(counted)
    assert found['wrapper_request_duration_seconds_bucket{to="service",le="0.25"}'] == 0
    assert found['wrapper_request_duration_seconds_bucket{to="service",le="0.5"}'] == 1
    assert found['wrapper_request_duration_seconds_sum{to="service"}'] == 2
    assert found['wrapper_request_first_byte_seconds_bucket{to="service",le="0.005"}'] == 1
    assert found['wrapper_request_bytes_total{to="service"}'] == 70
    assert found['wrapper_response_bytes_total{to="service"}'] == 1030
    assert found['wrapper_request_bytes_total{to="sidecar"}'] == 3
    assert found['wrapper_response_bytes_total{to="sidecar"}'] == 5


def test_only_those_that_were_held_count_as_held():
    counted = Traffic()
    counted.observe(ended())
    counted.observe(ended(held=3.0))
    found = samples(counted)
    assert found["wrapper_request_held_seconds_count"] == 1
    assert found["wrapper_request_held_seconds_sum"] == 3


def test_the_length_of_an_upgraded_connection_is_no_duration():
    counted = Traffic()
    counted.observe(ended(status=101, seconds=3600))
    assert samples(counted)['wrapper_request_duration_seconds_count{to="service"}'] == 0


def test_many_threads_lose_no_count():
    counted = Traffic()
    threads = [threading.Thread(target=lambda: [counted.observe(ended()) for _ in range(5000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(counted)['wrapper_requests_total{to="service",method="GET",code="2xx"}'] == 40_000


def test_a_second_holds_what_was_relayed_only():
    counted = Traffic()
    for one in (ended(), ended(status=404), ended(status=500), ended(status=503), ended(own=True)):
        counted.observe(one)
    assert counted.close_second([Peaks(3, 2), Peaks(1, 0)], usage=None) == 1
    (second,) = counted.seconds_after(0)
    assert (second["requests"], second["denied"], second["errors"], second["failed"]) == (4, 1, 2, 1)
    assert (second["in_flight"], second["held"], second["usage"]) == (4, 2, None)
    assert sum(second["latency"].values()) == 4
    assert second["seconds"] >= 0


@pytest.mark.parametrize("seconds", [0.0, 0.00015, 0.0123, 3.004, 99.0, 250.0])
def test_a_time_is_known_by_an_eighth_and_the_longest_exactly(seconds):
    """One request of 3.004 s must not look like one of 5 s."""
    counted = Traffic()
    counted.observe(ended(first_byte=seconds))
    counted.close_second([])
    (second,) = counted.seconds_after(0)
    (place,) = second["latency"]
    assert second["slowest"] == seconds
    bounds = (0.0, *FINE_TIMES, float("inf"))
    assert bounds[place] <= seconds <= bounds[place + 1]
    assert place in (0, len(FINE_TIMES)) or bounds[place + 1] / bounds[place] < 1.125


def test_the_seconds_are_bounded_and_in_order_and_told_once():
    counted = Traffic()
    for _ in range(SECONDS_KEPT + 20):
        counted.close_second([])
    assert [one["number"] for one in counted.seconds_after(0)] == list(range(21, SECONDS_KEPT + 21))
    assert [one["number"] for one in counted.seconds_after(SECONDS_KEPT + 18)] == [SECONDS_KEPT + 19, SECONDS_KEPT + 20]
    assert counted.seconds_after(SECONDS_KEPT + 20) == []


def test_the_seconds_are_told_so_many_at_a_time_from_any_on():
    """All of a quarter of an hour were 650 KB, which `json` wrote anew for each client: with 64 clients that asked
    for nothing else a relayed request took two seconds."""
    counted = Traffic()
    counted.observe(ended())
    for _ in range(SECONDS_TOLD + 5):
        counted.close_second([], usage={"wrapper_cores": 0.5})
    kept = json.loads(json.dumps(counted.seconds_after(0)))
    assert json.loads(counted.told_after(0)) == kept[:SECONDS_TOLD]
    assert json.loads(counted.told_after(SECONDS_TOLD)) == kept[SECONDS_TOLD:]
    assert json.loads(counted.told_after(SECONDS_TOLD + 5)) == []


def test_a_second_begins_with_nothing():
    counted = Traffic()
    counted.observe(ended(status=502))
    counted.close_second([])
    counted.close_second([])
    second = counted.seconds_after(1)[0]
    assert (second["requests"], second["failed"], second["latency"], second["slowest"]) == (0, 0, {}, 0)


@pytest.mark.soak
def test_an_exchange_costs_less_than_two_microseconds():
    """At 10,000 requests a second that is 2% of one core. 1.0 on CPython 3.11; the rest is for a busy machine."""
    counted, one = Traffic(), ended()
    seconds = min(timeit.repeat(lambda: counted.observe(one), number=20_000, repeat=5)) / 20_000
    assert seconds < 2e-6


# Second by second, and restarts


Process, Run = namedtuple("Process", "pid"), namedtuple("Run", "process")


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(room, "SETTLE_SECONDS", 0.0)


def state(site, name, reason="", before=""):
    site.around.feed.publish("state", service="service", state=name, before=before, reason=reason)


def crash(site, **facts):
    site.around.feed.publish("exit", service="service", **{"status": 3, "signal": None, "planned": False, **facts})


def told(site):
    site.dashboard.sampler.sample()
    return [event for event in site.around.feed.after(0) if event["kind"] == "restarted"]


def tell(site, status):
    site.ended(Ended("GET", "/", status, 0.1, 0.1, 0.0, 0, 5, False, None))


def hold(site, *seconds):
    for one in seconds:
        with pytest.raises(Exception, match="held for"):
            site.services[0].gate.collect(object(), one)


def test_a_planned_restart_is_one_event_with_what_it_cost(site):
    tell(site, 503)  # before it
    hold(site, 20.0)
    state(site, "draining", "deploying the hotfix")
    hold(site, 0.5, 3.5)
    tell(site, 502)
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
    site.services[0].life.begin(Run(Process(os.getpid())))
    site.dashboard.sampler.sample()
    assert site.dashboard.traffic.seconds_after(1)[0]["usage"]["service_bytes"] > 1e6


def test_a_thread_samples_while_something_happens_and_until_the_end(site, monkeypatch):
    monkeypatch.setattr(room, "SAMPLE_INTERVAL", 0.001)
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
    monkeypatch.setattr(room, "SAMPLE_INTERVAL", 0.0)
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
