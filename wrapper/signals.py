"""Signals in, messages out. The only room with `signal.signal`, and the first one that a run imports.

To PID 1 the kernel drops signals that have no handler yet, so handlers stand before anything slow is imported. They
do nothing: what counts is the byte that CPython writes for each signal, from whichever thread the kernel interrupts.
The service inherits no handler, only what came blocked or ignored with us.
END_SIGNALS end the container; all others but CHLD are passed on to the service.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections import deque

from wrapper import poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Not for handlers: the first four would repeat for ever where they are a fault of our own, PIPE and XFSZ come from our
# own writes, TTIN and TTOU from our own use of the terminal. The kernel sends all those to the thread that is to blame;
# blocked everywhere, only what others send to the process as a whole reaches `sigwait`.
WAITED = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGPIPE, signal.SIGXFSZ,
                    signal.SIGTTIN, signal.SIGTTOU})
PIPE_BYTES = 1024 * 1024  # fs.pipe-max-size for users without privileges, pipe(7)
F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ, there since CPython 3.10
END_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})  # they end us, and so does --stop-signal
UNCATCHABLE = frozenset({signal.SIGKILL, signal.SIGSTOP})


def wide_pipe() -> tuple[int, int]:
    """A pipe that takes as much as can be had; over the user's share it has the default of 64 KiB."""
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass
    return reading, writing


class Inbox:
    """Messages for one reader, in order; those of signals are bytes of a pipe.

    Python runs handlers in the main thread only, and does not wake it where the kernel interrupted another one (it does
    so when the main thread has a signal pending already: kernel/signal.c, `wants_signal`). So a handler may run never.
    """

    def __init__(self) -> None:
        # What does not fit is lost, and behind a STOP of ours more may be pending than 64 KiB (RLIMIT_SIGPENDING).
        self._reading, writing = wide_pipe()
        os.set_blocking(writing, False)  # set_wakeup_fd wants it so
        self._writing = writing
        self._messages: deque[tuple[Any, ...]] = deque()
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def put(self, message: tuple[Any, ...]) -> None:
        self._messages.append(message)
        os.write(self._writing, b"\0")

    def get(self, timeout: float | None) -> tuple[Any, ...] | None:
        """The next message; waits for it up to `timeout` seconds, or 24 days, and then is None."""
        if timeout is not None and not poll.is_ready(self._reading, poll.READABLE, timeout):
            return None
        number = os.read(self._reading, 1)[0]
        return ("signal", number) if number else self._messages.popleft()


class Signals:
    """Posts ("signal", number) for every signal that arrives. `mask`: what came blocked, and a child must find so.

    `ignored`: what came ignored and has to be caught all the same, so that a child must ignore it anew.
    """

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.mask = frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, WAITED))
        # An ignored CHLD would make the kernel throw the status of every child away (wait(2), NOTES).
        self.ignored = frozenset({signal.SIGCHLD} if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN else ())
        self._before: dict[int, Any] = {}
        for number in signal.valid_signals() - WAITED - UNCATCHABLE:
            if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
                self._catch(number)
        # The program that started us may have blocked the rest; what is pending comes now, and is heard.
        signal.pthread_sigmask(signal.SIG_SETMASK, WAITED)
        os.register_at_fork(after_in_child=self._let_go)

    def _catch(self, number: int) -> None:
        try:
            self._before[number] = signal.signal(number, _heard)
        except (OSError, ValueError):
            pass  # the C library keeps a few real-time signals for itself

    def _let_go(self) -> None:
        """In a fork of us, as multiprocessing makes them: what it is sent must not reach our pipe, and ends it."""
        signal.set_wakeup_fd(-1)
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def await_blocked(self) -> None:
        """Start the thread that takes what no handler can."""
        from wrapper import threads  # start-up: not before the signals are caught

        threads.start("signals", self._take)

    def _take(self) -> None:
        while True:
            self.inbox.put(("signal", int(signal.sigwait(WAITED))))


def plug_closed_stdio() -> None:
    """Keep numbers 0 to 2 from becoming our pipe or a client's socket that a log line is written into.

    Comes before anything that opens a descriptor. The service finds closed what came closed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number; not inheritable (PEP 446)


def _heard(number: int, frame: object) -> None:
    """The byte in the pipe says it all."""
