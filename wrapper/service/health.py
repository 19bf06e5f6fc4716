"""Is the run ready, is it still ready, is it still alive? Asked by the controller's thread, judged here."""

from __future__ import annotations

from wrapper.deadline import Deadline
from wrapper.service import procfs
from wrapper.service.probe import NOTHING_LISTENS, Probe
from wrapper.service.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.problems import Board
    from wrapper.service.run import Run
    from wrapper.service.state import Life
    from wrapper.service.wakeup import WakeUp
    from wrapper.settings import Settings

READY_INTERVAL = 10.0  # seconds between two probes of a service that is ready, as kubelet's default
LATE_INTERVAL = 1.0  # the same for one that is not
READY_FAILURES = 3  # probes in a row that fail, but for a refused connection


class Health:
    """`live_path` None: readiness only."""

    def __init__(self, name: str, life: Life, board: Board, wake_up: WakeUp, ready: Probe, live_path: str | None,
                 settings: Settings) -> None:
        self.ready = ready
        self._live = None if live_path is None else Probe(live_path, settings.ready_status)
        self._name = name
        self._life = life
        self._board = board
        self._wake_up = wake_up
        self._settings = settings
        self._next_ready = self._next_live = Deadline(0.0)
        self._failed_ready = self._failed_live = 0  # probes in a row

    def await_ready(self, run: Run, timeout: float) -> str | None:
        """What keeps the run from being ready within `timeout` seconds, None where nothing does."""
        fault = self._wake_up.in_background(run, lambda: self.ready.await_ready(
            run, timeout, lambda: self._wake_up.ending is not None, lambda fault: self._tell_where(run, fault)))
        self._next_ready = Deadline(READY_INTERVAL if fault is None else LATE_INTERVAL)
        self._next_live = Deadline(self._settings.live_interval)
        self._failed_ready = self._failed_live = 0
        return fault

    def _tell_where(self, run: Run, fault: str) -> None:
        """A wrong port is seen at once where it is said which one is right."""
        found = procfs.listening({run.process.pid} | run.process.family.members())
        where = f"it listens at {', '.join(map(str, found))}" if found else "it listens nowhere"
        self._board.report(self._name, f"the service is not ready: {fault}; {where}", "listening")

    def ready_probe_in(self, run: Run | None) -> float | None:
        """Seconds until the run is to be probed again; None where that is for an action to do."""
        is_due = run is not None and self._life.state in (State.RUNNING, State.FAILED)
        return self._next_ready.remaining() if is_due else None

    def doubt(self) -> None:
        """Probe the run now: a connection to it was refused. Any thread may call it."""
        self._next_ready = Deadline(0.0)
        self._wake_up.set()

    def probe_ready(self, run: Run) -> str | None:
        """Probe it, and put on record what that says of a service that was ready.

        A refused connection says it at once; what is slow or answers badly may do so once, and once more.
        """
        fault = self._wake_up.in_background(run, lambda: self.ready.fault_of(run))
        self._next_ready = Deadline(READY_INTERVAL if fault is None else LATE_INTERVAL)
        self._failed_ready = 0 if fault is None else self._failed_ready + 1
        if self._life.state is not State.RUNNING or run.has_ended:
            return fault
        if fault is None:
            self._life.unready = None
            self._board.resolve(self._name, "readiness")
        elif fault.startswith(NOTHING_LISTENS) or self._failed_ready >= READY_FAILURES:
            self._life.unready = fault
            self._board.report(self._name, f"the service is not ready any more: {fault}", "readiness")
        return fault

    def live_probe_in(self, run: Run | None) -> float | None:
        """Seconds until the run is to be asked whether it lives; None where it is not."""
        is_asked = self._live is not None and run is not None and self._life.state is State.RUNNING
        return self._next_live.remaining() if is_asked else None

    def probe_live(self, run: Run) -> str | None:
        """Why the run hangs, None while it does not."""
        live = self._live
        assert live is not None
        fault = self._wake_up.in_background(run, lambda: live.fault(run.address))
        self._next_live = Deadline(self._settings.live_interval)
        self._failed_live = 0 if fault is None else self._failed_live + 1
        is_hung = self._failed_live >= self._settings.live_failures and self._wake_up.interruption(run) is None
        return f"the service hangs: {fault}" if is_hung else None
