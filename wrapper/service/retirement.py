"""An old run that drains and stops beside the new one that serves."""

from __future__ import annotations

import threading

from wrapper.deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.gate import Gate, Lane
    from wrapper.service.policy import Timeouts
    from wrapper.service.process import Process
    from wrapper.service.state import Life


class Retirement:
    """Goes on by itself: whoever waits for it may have to end the new run meanwhile."""

    def __init__(self, gate: Gate, lane: Lane | None, process: Process, timeouts: Timeouts,
                 stop_signal: int) -> None:
        self.process = process
        self._was_alive = not process.ended.is_set()
        self._gate = gate
        self._lane = lane
        self._timeouts = timeouts
        self._stop_signal = stop_signal
        try:
            threading.Thread(target=self._run, name=f"retirement-{process.pid}", daemon=True).start()
        except RuntimeError:  # no thread to be had: then here
            self._run()

    def _run(self) -> None:
        if self._lane is not None:
            self._gate.drain(self._lane, Deadline(self._timeouts.drain), "restart")
        self.process.stop(self._stop_signal, self._timeouts.stop)

    def finish(self, life: Life) -> None:
        """Wait for its end, and put that on record."""
        self.process.ended.wait()
        life.end(self.process, planned=self._was_alive)
