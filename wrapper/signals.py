"""Signals in, messages out. The only room with `signal.signal`, and the first one that a run imports.

As PID 1 the kernel drops signals that nobody handles yet, so handlers stand before anything slow is imported. They
post to one queue and do nothing else. The service inherits no handler, only what came blocked or ignored with us.
"""

from __future__ import annotations

import signal
import threading
from queue import SimpleQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Not for handlers: the first four would repeat for ever where they are a fault of our own, PIPE and XFSZ come from our
# own writes, TTIN and TTOU from our own use of the terminal. The kernel sends all those to the thread that is to blame;
# blocked everywhere, only what others send to the process as a whole reaches `sigwait`.
WAITED = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGPIPE, signal.SIGXFSZ,
                    signal.SIGTTIN, signal.SIGTTOU})
UNCATCHABLE = frozenset({signal.SIGKILL, signal.SIGSTOP})


class Signals:
    """Posts ("signal", number) for every signal that arrives. `blocked`: what a child must unblock for itself.

    `ignored`: what came ignored and has to be caught all the same, so that a child must ignore it anew.
    """

    def __init__(self) -> None:
        self.inbox: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
        self.blocked = WAITED - before
        # An ignored CHLD would make the kernel throw the status of every child away (wait(2), NOTES).
        self.ignored = frozenset({signal.SIGCHLD} if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN else ())
        for number in signal.valid_signals() - WAITED - UNCATCHABLE:
            if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
                self._catch(number)

    def _catch(self, number: int) -> None:
        try:
            signal.signal(number, self._post)
        except (OSError, ValueError):
            pass  # the C library keeps a few real-time signals for itself

    def _post(self, number: int, frame: object) -> None:
        self.inbox.put(("signal", number))

    def await_blocked(self) -> None:
        """Start the thread that takes what no handler can."""
        threading.Thread(target=self._take, name="signals", daemon=True).start()

    def _take(self) -> None:
        while True:
            self.inbox.put(("signal", int(signal.sigwait(WAITED))))
