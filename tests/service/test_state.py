"""state.py: the states, and the transitions between them."""

from __future__ import annotations

from wrapper.service.state import TRANSITIONS, State


def test_every_transition_leads_to_a_state_of_the_table():
    assert set(TRANSITIONS) == set(State)
    assert all(states <= set(State) for states in TRANSITIONS.values())
