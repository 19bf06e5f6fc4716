"""signals.py: no signal is lost, whichever thread the kernel hands it to."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import signal
import subprocess
import sys

from tests.running import ROOT

# Says a byte for every USR1, with idle and busy threads around, as the wrapper has them.
LISTENER = """
import os, signal, threading
from wrapper.signals import Signals
signals = Signals()
signals.await_blocked()
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
os.write(1, b"r")
while (message := signals.inbox.get(None))[0] == "signal" and message[1] != signal.SIGTERM:
    if message[1] == signal.SIGUSR1:
        os.write(1, b"u")
"""


def hear(process):
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    assert poll.poll(10_000), "a signal was lost"
    return os.read(process.stdout.fileno(), 100)


def test_a_signal_close_behind_another_is_heard_at_once():
    """signal(7): a thread with a signal pending gets no second one, another thread of the process does.

    Python's handlers run in the main thread, and nothing wakes that where another one was interrupted.
    """
    process = subprocess.Popen([sys.executable, "-c", LISTENER], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert hear(process) == b"r"
        for _ in range(2000):
            os.kill(process.pid, signal.SIGCHLD)
            os.kill(process.pid, signal.SIGUSR1)
            assert hear(process) == b"u"
        os.kill(process.pid, signal.SIGCHLD)
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


FORKER = """
import os, signal
from wrapper.signals import Signals
signals = Signals()
if (pid := os.fork()) == 0:
    os.write(1, b"m" if signal.pthread_sigmask(signal.SIG_BLOCK, ()) else b"r")
    while True:
        signal.pause()
while (message := signals.inbox.get(None)) != ("signal", signal.SIGUSR1):
    if message == ("signal", signal.SIGCHLD):
        os.write(1, b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    else:
        os.write(1, b"?")
"""


def test_what_a_fork_of_ours_is_sent_is_not_for_us():
    """Sidecar code may use multiprocessing: TERM ends its process, not the container."""
    process = subprocess.Popen([sys.executable, "-c", FORKER], cwd=ROOT, stdout=subprocess.PIPE,
                               start_new_session=True)
    try:
        assert hear(process) == b"r"
        (child,) = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert hear(process) == b"-15"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(10) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.communicate()[0] == b""


def test_nothing_slow_comes_before_the_handlers():
    """Until they stand PID 1 is deaf."""
    code = ("import sys; sys.path.insert(0, '.'); import collections, fcntl, os, select, signal; "
            "before = set(sys.modules); import wrapper.cli, wrapper.signals; print(*(set(sys.modules) - before))")
    found = subprocess.run([sys.executable, "-IS", "-c", code], cwd=ROOT, timeout=20, stdout=subprocess.PIPE, text=True)
    assert set(found.stdout.split()) <= {
        "__future__", "wrapper", "wrapper.cli", "wrapper.errors", "wrapper.poll", "wrapper.signals"}


def test_a_wait_of_any_length_can_be_asked_for():
    """Two of the longest durations together are more than poll(2) takes."""
    code = ("from wrapper.signals import Inbox; inbox = Inbox(); inbox.put(('here',)); "
            "raise SystemExit(inbox.get(2 * 24 * 24 * 3600.0) != ('here',))")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=20).returncode == 0


def test_more_messages_than_fit_into_a_plain_pipe_are_kept():
    """As many real-time signals may be pending behind a STOP of the wrapper, and a TERM behind them."""
    code = ("from wrapper.signals import Inbox; inbox = Inbox(); several = range(100_000)\n"
            "for number in several: inbox.put((number,))\n"
            "raise SystemExit([inbox.get(0.0)[0] for _ in several] != [*several])")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=20).returncode == 0
