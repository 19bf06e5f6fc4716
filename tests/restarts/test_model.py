"""Requests, restarts, crashes, pauses and signals in any order, against the gate, the controller and the exchanges.

No request is lost, none is sent twice that must not be, and every state has a way out. FUZZ_EXAMPLES says how many
orders are tried; `.ci/run fuzz` asks for 10,000.
"""

from __future__ import annotations

import itertools
import os
import re
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.restarts.simulation import Schedule, World
from wrapper.gate import Gate
from wrapper.log import log
from wrapper.proxy import relay
from wrapper.service.jobs import JobQueue
from wrapper.service.restart import RestartPolicy
from wrapper.service.state import Run, State, Stopping, WakeUp

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
LINES = ("GET", "POST", "POST Idempotency-Key: a", "PUT")
# What may happen; the number behind a word chooses among several.
DEEDS = {
    "request": lambda world, number: world.ask(LINES[number % len(LINES)]),
    "restart": lambda world, _: world.order("restart"),
    "stop": lambda world, _: world.order("stop"),
    "start": lambda world, _: world.order("start"),
    "pause": lambda world, _: world.pause(),
    "resume": lambda world, _: world.gate.resume(),
    "TERM": lambda world, _: world.terminate(),
    "crash": lambda world, number: _some_run(world, number, lambda run: run.fall(number % 2)),
    "crash at work": lambda world, number: _crash_at_work(world, number),  # noqa: PLW0108  it comes later
    "listen": lambda world, number: _some_run(world, number, _listen),
    "go deaf": lambda world, number: _some_run(world, number, _go_deaf),
    "read": lambda world, number: _some_run(world, number, lambda run: run.read()),
    "answer": lambda world, number: _some_run(world, number, lambda run: run.answer(number)),
    "obey": lambda world, number: _some_run(world, number, lambda run: run.was_told and run.fall(0)),
    "step": lambda world, number: world.schedule.step(number),
    "steps": lambda world, number: all(world.schedule.step(number) for _ in range(number * 4)),
    "calm": lambda world, number: world.calm_down(number),
    "time": lambda world, number: world.schedule.advance((0.01, 1.0, 100.0, 100.0)[number % 4]),
}
# The rare end comes rarely, and what lets things go on comes often.
WORDS = [word for word in DEEDS for _ in range({"TERM": 1, "stop": 1, "step": 8, "steps": 10, "request": 8, "time": 4,
                                                "listen": 4, "crash": 4, "restart": 3, "calm": 3}.get(word, 2))]
# Two bytes for each deed: a list of tuples takes hypothesis as long to make up as the model to play.
SCRIPTS = st.binary(min_size=30, max_size=120).map(
    lambda data: [(WORDS[one % len(WORDS)], other % 8) for one, other in zip(data[::2], data[1::2])])


def _some_run(world, number, act):
    if runs := world.live_runs:
        act(runs[-1 - number % len(runs)])


def _crash_at_work(world, number):
    """With all that could reach it; again and again, as each next run is up."""
    for _ in range(1 + number % 4):
        world.calm_down(number)
        _some_run(world, 0, lambda run: run.fall(-11))
        world.pass_time(5.0, number)  # the pauses between starts grow to 4 s


def _listen(run):
    run.listens = True


def _go_deaf(run):
    run.listens = False


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(mode=st.sampled_from(("replace", "overlap")), script=SCRIPTS)
def test_no_request_is_lost_none_sent_twice_and_every_state_has_a_way_out(mode, script):
    _try(mode, script)


# What would be wrong, and what shows it.
FAULTS = {
    "a POST travels twice": (relay.Exchange, "_may_repeat", lambda _: True, "calm, request 1, crash at work"),
    "a request travels three times": (relay, "SENDS_MAX", 9, "calm, request, crash at work 2"),
    "a pause has no end": (Gate, "_begin_release", lambda _: None, "calm, pause, request, step, resume"),
    "a request that was cut stays": (Gate, "leave", lambda *_: None, "calm, request, steps 7, answer"),
    "a lane stays": (Run, "cut", lambda *_: None, "calm, request, steps 7, answer, steps 7, restart"),
    "the end is not heard": (Stopping, "hear_signal", lambda *_: None, "calm, TERM"),
    "a job has no end": (JobQueue, "finish", lambda *_: None, "calm, restart"),
    "a job that waits has no end": (JobQueue, "close", lambda *_: None, "calm, restart, steps 1, restart, TERM"),
    "a fall has no end": (RestartPolicy, "_schedule", lambda *_: 1.0, "calm, request, crash"),
    "a pause holds nothing": (Gate, "_has_room", lambda *_: True, "calm, pause, request, steps 7, read"),
    "a stop does not stay": (RestartPolicy, "reset", lambda _: None, "calm, crash, steps 7, stop"),
    "news is forgotten": (WakeUp, "pause", lambda event, seconds: (event.clear(), event.wait(seconds)),
                          "request, request 1, request 1"),
    "a restart refuses": (Gate, "hold", lambda gate, reason: gate.refuse(reason), "calm, restart, steps 1, request"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_model_finds_what_is_wrong(fault):
    owner, name, wrong, line = FAULTS[fault]
    script = [(word.rstrip(" 0123456789"), int((re.findall(r"\d+", word) or [0])[0])) for word in line.split(", ")]
    _try("replace", script)
    with mock.patch.object(owner, name, wrong), pytest.raises(AssertionError):
        _try("replace", script)


def _try(mode, script):
    log.configure("error", "text")
    try:
        with Schedule() as schedule:
            world = World(schedule, mode)
            try:
                _play(world, script)
            finally:
                world.close()
    finally:
        log.configure("info", "text")


def _play(world, script):
    for word, number in script:
        DEEDS[word](world, number)
    world.gate.resume()
    choices = itertools.cycle([number for _, number in script] or [0])
    world.come_to_rest(choices)
    for asked in world.asked:
        _judge(world, asked)
    if world.is_ending:
        assert len(world.overs) == 1
    else:
        _find_the_way_out(world, choices)
    assert (world.gate.in_flight, world.gate.held, world.gate._draining) == (0, 0, set())
    assert [run for run in world.live_runs if run is not _current(world)] == []


def _current(world):
    run = world.life.run
    return None if run is None else run.process


def _find_the_way_out(world, choices):
    """Whatever came of it all: a start leads to a service that answers."""
    if world.life.state is State.STOPPED:
        world.pass_time(60.0, 0)
        assert world.life.state is State.STOPPED, "a stop does not stay"
    if world.life.state is not State.RUNNING:
        world.order("start")
        world.come_to_rest(choices)
    assert world.life.state is State.RUNNING
    assert (world.life.is_restarting, world.life.unready) == (False, None)
    last = [world.ask(line) for line in LINES]
    world.come_to_rest(choices)
    for asked in last:
        assert (asked.outcome, len(world.delivered[asked.number])) == (200, 1)
        assert asked.body() == b"%d" % asked.number


def _judge(world, asked):
    """How the request ended is what is promised for its kind."""
    runs = world.delivered[asked.number]
    assert len(runs) <= (2 if asked.is_repeatable else 1), f"{asked} reached the service {len(runs)} times"
    states = {event["state"] for event in world.feed.after(asked.events) if event["kind"] == "state"}
    may_be_refused = asked.may_be_refused or states & {"stopped", "failed"}
    if asked.outcome == 200:
        assert asked.body() == b"%d" % asked.number
    elif asked.outcome == 503 and may_be_refused:
        pass
    elif asked.is_repeatable:  # it ended the service twice
        assert asked.outcome == 502 and (len(runs) == 2 or world.is_ending), (asked.outcome, runs, may_be_refused)
    else:  # it was there, and the run that had it ended
        assert asked.outcome in (502, 503) and len(runs) == 1, (asked.outcome, runs, may_be_refused)
        assert asked.number in runs[0].lost
