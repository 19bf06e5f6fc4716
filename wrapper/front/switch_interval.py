"""How long one thread may keep the interpreter while others wait: much shorter while authors' code takes long.

A handler that computes takes the interpreter whenever the loop waits for a socket, and the loop then waits for one
interval, several times a request. A short one all the time would cost the relay with 128 clients a third of its p99.
"""

from __future__ import annotations

import sys
import threading

SHORT = 0.00001  # seconds, for the loop; others wait the kernel's timer slack of 50 us longer


class SwitchInterval:
    """The interpreter's switch interval, shortened as long as one call or more asks for it."""

    def __init__(self) -> None:
        # Guards both: how many ask for a short one, and the interval to go back to.
        self._lock = threading.Lock()
        self._askers = 0
        self._before = 0.0

    def shorten(self) -> None:
        with self._lock:
            if not self._askers:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(SHORT, self._before))
            self._askers += 1

    def lengthen(self) -> None:
        """Take one `shorten` back."""
        with self._lock:
            self._askers -= 1
            if not self._askers:
                sys.setswitchinterval(self._before)


switch_interval = SwitchInterval()  # one for the process: so is the interpreter
