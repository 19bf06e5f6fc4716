"""How long one thread may keep the interpreter while others wait: much shorter while authors' code takes long.

A handler that computes takes a turn whenever the relay waits for a socket, and the relay then waits for the end of that
turn, several times a request. Short turns all the time would cost the relay with 128 clients a third of its p99.
"""

from __future__ import annotations

import sys
import threading

SHORT_TURN = 0.00001  # seconds, for the pool's workers; others wait the kernel's timer slack of 50 us longer


class Turns:
    """The interpreter's switch interval, shortened as long as somebody asks for it."""

    def __init__(self) -> None:
        # Guards both: how many ask for short turns, and the interval to go back to.
        self._lock = threading.Lock()
        self._askers = 0
        self._before = 0.0

    def shorten(self) -> None:
        with self._lock:
            if not self._askers:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(SHORT_TURN, self._before))
            self._askers += 1

    def lengthen(self) -> None:
        """Take one `shorten` back."""
        with self._lock:
            self._askers -= 1
            if not self._askers:
                sys.setswitchinterval(self._before)


turns = Turns()  # one for the process: so is the interpreter
