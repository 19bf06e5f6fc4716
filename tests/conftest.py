"""What holds for every test."""

import signal

import hypothesis

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
