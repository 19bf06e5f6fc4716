"""What holds for every test."""

import signal

import hypothesis
import pytest

from wrapper.loop.loop import Loop
from wrapper.loop.workers import Workers

# How long one example takes says more about the machine than about the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_configure():
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
