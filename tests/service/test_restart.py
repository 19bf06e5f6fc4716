"""restart.py: what follows an exit. No thread, no process."""

from __future__ import annotations

import pytest

from wrapper.service.restart import JITTER, Next, RestartPolicy


def test_pauses_double_up_to_the_longest_and_begin_again_after_steadiness():
    policy = RestartPolicy("always", (1.0, 4.0))
    pauses = [policy.record_exit(1, 0.0)[1] for _ in range(5)]
    for pause, expected in zip(pauses, (1, 2, 4, 4, 4)):
        assert expected * (1 - JITTER) <= pause <= min(expected * (1 + JITTER), 4.0)
    assert policy.record_exit(1, 31.0)[1] <= 1 + JITTER


def test_a_request_begins_with_the_first_pause_again():
    policy = RestartPolicy("always", (1.0, 4.0))
    for _ in range(3):
        policy.record_exit(1, 0.0)
    assert policy.next_start_in() > 2
    policy.reset()
    assert policy.next_start_in() is None
    assert policy.record_exit(1, 0.0)[1] <= 1 + JITTER


@pytest.mark.parametrize(("mode", "status", "following"), [
    ("never", 1, Next.END), ("on-failure", 0, Next.END), ("on-failure", 1, Next.START), ("always", 0, Next.START)])
def test_policies(mode, status, following):
    policy = RestartPolicy(mode, (1.0, 2.0))
    assert policy.record_exit(status, 0.0)[0] is following
    assert policy.final_status == (status if following is Next.END else None)
    assert (policy.next_start_in() is not None) is (following is Next.START)


def test_an_exit_on_trial_is_decided_when_the_trial_is_over():
    policy = RestartPolicy("never", (1.0, 2.0))
    policy.begin_trial()
    assert policy.record_exit(3, 0.0)[0] is Next.TRIAL
    assert not policy.is_undecided
    assert policy.final_status is None
    policy.end_trial()
    assert policy.is_undecided
    assert policy.decide()[0] is Next.END
    assert policy.final_status == 3
    assert not policy.is_undecided


def test_what_is_started_again_on_trial_needs_no_decision():
    policy = RestartPolicy("never", (1.0, 2.0))
    policy.begin_trial()
    policy.record_exit(3, 0.0)
    policy.forget()
    policy.end_trial()
    assert not policy.is_undecided
