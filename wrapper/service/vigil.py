"""What a controller's thread waits for, all in one place: a run that ended, an action, work that is done, the end."""

from __future__ import annotations

import queue
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.service.process import Process


class Vigil:
    """One thread waits, anybody wakes it.

    A wake-up says nothing: what happened is read off the things themselves, so late news of an earlier run changes
    nothing, and news that came while something else was awaited is not lost.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        # Held by `begin_end` alone, so that of two callers one is the second.
        self._lock = threading.Lock()
        self.last_signal: int | None = None  # what the service is to end with, once the wrapper shuts down

    def wake(self) -> None:
        self._news.put(None)

    def begin_end(self, number: int) -> bool:
        """The wrapper shuts down with signal `number`; True for the first who says so."""
        with self._lock:
            is_first = self.last_signal is None
            self.last_signal = number if self.last_signal is None else self.last_signal
        return is_first

    def is_ending(self) -> bool:
        return self.last_signal is not None

    def wait(self, timeout: float | None) -> None:
        """Until somebody calls `wake`, or for `timeout` seconds."""
        try:
            self._news.get(timeout=timeout)
        except queue.Empty:
            pass  # something is due

    def until(self, is_enough: Callable[[], bool]) -> None:
        """Until something is so, or the wrapper shuts down. Whoever makes it so calls `wake`."""
        while not is_enough() and not self.is_ending():
            self._news.get()

    def apart(self, process: Process, work: Callable[[], str | None]) -> str | None:
        """What `work` says went wrong. It may take long; once the process or the wrapper ends, it is left alone."""
        errand = Errand(work, self.wake, f"errand-{self._name}")
        self.until(lambda: errand.is_done or process.ended.is_set())
        return errand.fault if errand.is_done else self.cut_short(process)

    def cut_short(self, process: Process) -> str | None:
        """Why nothing more can be done with the process, None where it can."""
        if process.ended.is_set():
            return process.fault
        return "the wrapper is shutting down" if self.is_ending() else None


class Errand:
    """Work in a thread of its own; `fault` says what went wrong once it `is_done`. One left alone changes nothing."""

    def __init__(self, work: Callable[[], str | None], on_done: Callable[[], None], name: str) -> None:
        self.fault: str | None = None
        self.is_done = False
        self._work = work
        self._on_done = on_done
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError:  # no thread to be had: then here
            self._run()

    def _run(self) -> None:
        try:
            self.fault = self._work()
        except Exception as error:  # noqa: BLE001  whoever waits must hear of it
            self.fault = f"internal error {error!r}"
        self.is_done = True
        self._on_done()
