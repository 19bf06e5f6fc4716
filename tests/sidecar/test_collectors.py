"""collectors.py: services, configuration and this process, as a scrape shows them."""

from __future__ import annotations

import time

from tests.sidecar.parts import make_service, make_site
from wrapper.sidecar import collectors
from wrapper.sidecar.registry import render


def samples(families):
    return {name: float(value) for name, value in (
        line.rsplit(" ", 1) for line in render(families).splitlines() if line and not line.startswith("#"))}


def test_one_state_is_1_and_the_others_are_0():
    found = samples(collectors.of_services(make_site().services))
    states = {name: value for name, value in found.items() if name.startswith("wrapper_service_state{")}
    assert len(states) == 7
    true = [name for name, value in states.items() if value]
    assert true == ['wrapper_service_state{service="service",state="stopped"}']


def test_helpers_have_series_of_their_own():
    site = make_site()
    site.add_service(make_service(site.around, "mail", route="/mail"))
    found = samples(collectors.of_services(site.services))
    assert 'wrapper_requests_in_flight{service="mail"}' in found
    assert 'wrapper_service_ready{service="service"}' in found


def test_restarts_are_there_before_the_first_one():
    """A counter that appears with its first rise hides that rise from rate() and increase()."""
    site, name = make_site(), 'wrapper_service_restarts_total{service="service",reason="exit"}'
    assert samples(collectors.of_services(site.services))[name] == 0
    site.services[0].life.count_restart("exit")
    assert samples(collectors.of_services(site.services))[name] == 1


def test_what_a_service_takes_is_there():
    found = samples(collectors.of_services(make_site().services))
    assert found['wrapper_service_crashes_total{service="service"}'] == 0
    assert found['wrapper_service_resident_memory_bytes{service="service"}'] == 0, "it does not run"
    assert 'wrapper_service_cpu_seconds_total{service="service"}' in found


class Subscription:
    def __init__(self, **facts):
        self._facts = facts

    def status(self):
        return {"name": "rules", "source": "http://config/rules", **self._facts}


def test_a_subscription_that_never_succeeded_has_no_time_of_success():
    found = samples(collectors.of_configuration([Subscription(failures=3, stale_since="2026-01-31T12:00:00Z")]))
    assert found == {'wrapper_config_failures_total{subscription="rules"}': 3,
                     'wrapper_config_pending{subscription="rules"}': 0,
                     'wrapper_config_stale{subscription="rules"}': 1}


def test_replicas_that_differ_can_be_told_apart():
    """A change that waits for its --config-splay, and what is in force: alertmanager_config_hash does it so too."""
    found = samples(collectors.of_configuration([Subscription(hash_applied="00000000000f", pending=True)]))
    assert found['wrapper_config_hash{subscription="rules"}'] == 0xF
    assert found['wrapper_config_pending{subscription="rules"}'] == 1


def test_a_subscription_shows_its_last_success_and_the_age_of_what_is_applied():
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    found = samples(collectors.of_configuration([Subscription(last_success="2026-01-31T12:00:00Z", applied_at=moment)]))
    assert found['wrapper_config_last_success_timestamp_seconds{subscription="rules"}'] == 1769860800
    assert 59 <= found['wrapper_config_hash_age_seconds{subscription="rules"}'] < 3600
    assert found['wrapper_config_stale{subscription="rules"}'] == 0


def test_problems_are_counted():
    site = make_site()
    site.around.board.report("service", "it hurts")
    assert samples(collectors.of_board(site.around.board)) == {"wrapper_problems": 1}


def test_the_process_is_this_one():
    found = samples(collectors.of_process())
    assert found["wrapper_process_open_fds"] >= 3
    assert found["wrapper_process_threads"] >= 1
    assert 1e6 < found["wrapper_process_resident_memory_bytes"] < 4e9
    assert found["wrapper_process_cpu_seconds_total"] > 0
    assert time.time() - 3600 * 24 < found["wrapper_process_start_time_seconds"] <= time.time() + 1
