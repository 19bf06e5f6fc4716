"""admission.py: the wait at the gate, and what the gate tells those on the road."""

from __future__ import annotations

import pytest

from tests.loop.driving import End, begin, held, settle, told
from tests.running import wait_until
from wrapper.errors import GatewayTimeout
from wrapper.gate import Gate
from wrapper.loop.loop import NEVER
from wrapper.loop.stream import ClientGone
from wrapper.proxy.admission import Cut, Travelling
from wrapper.settings.address import tcp

PLACE = tcp("127.0.0.1", 1)


class NoUpstream:
    def close(self):
        pass


@pytest.fixture
def client(loop):
    made = End(loop, ClientGone)
    yield made
    made.close()


@pytest.fixture
def gate():
    return Gate(lambda address: NoUpstream(), 1000.0, 10)


def start(loop, client, gate):
    """One that goes through the gate and stays on the road until it is cut; what it was told comes out."""

    def steps():
        try:
            yield from made.enter()
            yield NEVER, made.warning()
            yield (NEVER,)
        except Cut:
            return made.going
        finally:
            made.leave()

    with held(loop):
        task, outcome = begin(loop, steps())
        made = Travelling(task, client.stream, gate)
    return made, outcome


def start_held(loop, client, gate):
    """The same, and it waits at the gate by then."""
    gate.hold("it starts")
    made, outcome = start(loop, client, gate)
    wait_until(lambda: gate.held == 1)
    return made, outcome


def test_one_that_meets_an_open_gate_does_not_wait(loop, client, gate):
    gate.open(PLACE)
    made, _ = start(loop, client, gate)
    wait_until(lambda: gate.in_flight == 1)
    assert made.held == 0.0


def test_one_that_is_held_goes_through_once_the_gate_opens(loop, client, gate, clock):
    made, _ = start_held(loop, client, gate)
    clock.pass_by(3.0)
    gate.open(PLACE)
    wait_until(lambda: made.lane is not None)
    assert made.held == 3.0


def test_one_that_is_held_too_long_is_refused(loop, client, gate, clock):
    _, outcome = start_held(loop, client, gate)
    clock.pass_by(1001.0)
    with pytest.raises(GatewayTimeout):
        outcome.get()
    assert gate.held == 0


def test_one_whose_client_leaves_while_it_is_held_frees_its_place(loop, client, gate):
    _, outcome = start_held(loop, client, gate)
    client.theirs.close()
    with pytest.raises(ClientGone):
        outcome.get()
    assert gate.held == 0
    gate.open(PLACE)
    assert gate.in_flight == 0


def test_one_on_the_road_is_warned_and_then_cut(loop, client, gate):
    gate.open(PLACE)
    made, outcome = start(loop, client, gate)
    wait_until(lambda: gate.in_flight == 1)
    made.warn("restart")
    settle(loop)
    made.cut()
    assert outcome.get() == "restart"
    assert gate.in_flight == 0


def test_a_cut_that_comes_when_it_has_left_harms_nothing(loop, client, gate):
    gate.open(PLACE)
    made, outcome = start(loop, client, gate)
    wait_until(lambda: gate.in_flight == 1)
    with held(loop):
        made.cut()
        made.cut()
    assert outcome.get() == ""
    assert told(loop, lambda: made.lane) is None
