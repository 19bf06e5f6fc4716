"""The wake-up event of one controller's thread, and the waits that end with a run or with the wrapper."""

from __future__ import annotations

import threading

from wrapper import threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.service.run import Run

ENDING = "the wrapper is shutting down"


class WakeUp(threading.Event):
    """Set by whatever may have made something due: what that is, is read off the things themselves, so that late news
    of an earlier run changes nothing, and news that came while something else was awaited is not lost.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.ending: int | None = None  # the signal to end the service with, once the wrapper shuts down
        self._name = name

    def pause(self, seconds: float | None) -> None:
        """Wait for a wake-up, `seconds` at most."""
        self.wait(seconds)
        self.clear()

    def until(self, is_enough: Callable[[], bool]) -> None:
        """Wait until something is so, or the wrapper shuts down."""
        while not is_enough() and self.ending is None:
            self.pause(None)

    def interruption(self, run: Run) -> str | None:
        """Why nothing more can be done with the run, None where it can."""
        if run.has_ended:
            return run.process.fault
        return None if self.ending is None else ENDING

    def in_background(self, run: Run, work: Callable[[], str | None]) -> str | None:
        """What `work` says went wrong. It may take long; once the run or the wrapper ends, it is left alone."""
        faults: list[str | None] = []

        def do() -> None:
            try:
                faults.append(work())
            except Exception as error:  # noqa: BLE001  the controller waits for it
                faults.append(f"internal error {error!r}")
            self.set()

        threads.start_or_do(f"background-{self._name}", do)
        self.until(lambda: bool(faults) or run.has_ended)
        return faults[0] if faults else self.interruption(run)
