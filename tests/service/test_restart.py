"""restart.py: what follows an exit. No thread, no process."""

from __future__ import annotations

import time

import pytest

from wrapper.service.process import NEVER
from wrapper.service.restart import JITTER, RestartPolicy


def test_pauses_double_up_to_the_longest_and_begin_again_after_steadiness():
    policy = RestartPolicy("always", (1.0, 4.0))
    pauses = [policy.record_exit(1, 0.0) for _ in range(5)]
    for pause, expected in zip(pauses, (1, 2, 4, 4, 4)):
        assert expected * (1 - JITTER) <= pause <= min(expected * (1 + JITTER), 4.0)
    assert policy.record_exit(1, 31.0) <= 1 + JITTER


def test_a_request_begins_with_the_first_pause_again():
    policy = RestartPolicy("always", (1.0, 4.0))
    for _ in range(3):
        policy.record_exit(1, 0.0)
    assert policy.next_start > time.monotonic() + 2
    policy.reset()
    assert policy.next_start == NEVER
    assert policy.record_exit(1, 0.0) <= 1 + JITTER


@pytest.mark.parametrize(("mode", "status", "again"), [
    ("never", 1, False), ("on-failure", 0, False), ("on-failure", 1, True), ("always", 0, True)])
def test_policies(mode, status, again):
    policy = RestartPolicy(mode, (1.0, 2.0))
    assert (policy.record_exit(status, 0.0) is not None) is again
    assert policy.final_status == (None if again else status)
    assert (policy.next_start < NEVER) is again


def test_what_hangs_is_started_at_once_and_then_after_pauses():
    policy = RestartPolicy("never", (1.0, 4.0))
    assert policy.schedule(31.0) == 0.0
    assert policy.next_start <= time.monotonic()
    assert policy.schedule(2.0) <= 1 + JITTER
    assert policy.schedule(2.0) >= 2 - 2 * JITTER
    assert policy.final_status is None


def test_an_exit_on_trial_is_decided_when_the_trial_is_over():
    policy = RestartPolicy("never", (1.0, 2.0))
    policy.begin_trial()
    assert policy.record_exit(3, 0.0) is None
    assert (policy.is_on_trial, policy.undecided, policy.final_status) == (True, 3, None)
    policy.end_trial()
    assert (policy.is_on_trial, policy.undecided) == (False, 3)
    assert policy.record_exit(policy.undecided, 0.0) is None
    assert policy.final_status == 3
    assert policy.undecided is None


def test_what_is_started_again_on_trial_needs_no_decision():
    policy = RestartPolicy("never", (1.0, 2.0))
    policy.begin_trial()
    policy.record_exit(3, 0.0)
    policy.forget()
    policy.end_trial()
    assert policy.undecided is None
