"""What holds for every test."""

import signal
import types

import hypothesis
import pytest

from tests import inner_ports
from tests.guard import guard
from tests.loop.driving import settle
from wrapper.loop import loop as loop_room, poller as poller_room
from wrapper.loop.loop import Loop
from wrapper.loop.workers import Workers

# How long an example takes, and making it up, says more about the machine than about the code.
hypothesis.settings.register_profile("untimed", deadline=None,
                                     suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


def pytest_configure(config):
    if getattr(config.option, "dist", None) == "load":
        # What -n alone comes to: tests go out by the hundred, and a worker may be left with the long ones at the end.
        config.option.dist = "worksteal"
    guard.install()
    inner_ports.install()
    _find_signals_as_usual()


@pytest.fixture(autouse=True)
def _nothing_blocks_a_loop():
    """It begins before a test's other fixtures, and so ends after them."""
    guard.take()
    yield
    offences = guard.take()
    assert not offences, "this blocked a loop, and with it everybody: " + "\n".join(offences)


def _find_signals_as_usual():
    """Let a suite under nohup, or behind a script's `&`, find the signals as a terminal gives them.

    What came ignored stays ignored through fork and exec (POSIX, exec), and the wrapper keeps to that.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture
def loop():
    """One that runs in its own thread, and knows threads for what may block."""
    made = Loop("a test's port", Workers("a test's worker", 4))
    made.start()
    yield made
    made.stop()
    made.workers.stop()


@pytest.fixture
def clock(loop, monkeypatch):
    """The loop's time: it stands still until a test moves it. `clock.pass_by(seconds)` returns once that was seen."""
    made = types.SimpleNamespace(now=1000.0, monotonic=lambda: made.now)
    for room in (loop_room, poller_room):
        monkeypatch.setattr(room, "time", made)

    def pass_by(seconds):
        made.now += seconds
        settle(loop)

    made.pass_by = pass_by
    settle(loop)
    return made
