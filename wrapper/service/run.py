"""One run of the service: its process, where it listens, its lane in the gate, and how it is stopped."""

from __future__ import annotations

import contextlib
import time

from wrapper import threads
from wrapper.deadline import Deadline
from wrapper.log import log
from wrapper.service import procfs
from wrapper.service.probe import is_free
from wrapper.service.process import KILL_TIMEOUT, Process, cannot_signal
from wrapper.service.state import Life, State
from wrapper.settings.values import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.settings.address import Address
    from wrapper.gate import Gate, Lane
    from wrapper.problems import Board
    from wrapper.service.wakeup import WakeUp
    from wrapper.settings.settings import Settings

STOP_TIMEOUT = 30.0  # seconds from the stop signal to SIGKILL, in a planned stop or restart
LAST_STOP_TIMEOUT = 6.0  # the same at the container's end: with --drain-timeout it fits into docker stop's 10 s
HUNG_STOP_TIMEOUT = 2.0  # the same for a service that hangs, while requests are held
FOREGROUND = "as nginx is with -g 'daemon off;'"
LAST_BYTES_TIMEOUT = 2.0  # seconds for the last of its responses to reach clients, at the container's end


class Run:
    """`lane` is its lane once the gate leads elsewhere, `ready_since` on the monotonic clock."""

    def __init__(self, process: Process, address: Address, title: str = "the service") -> None:
        self.process = process
        self.address = address
        self._title = title
        self.other_addresses: tuple[Address, ...] = ()  # where it may listen as well, while it is not ready yet
        self.port_was_free = True  # before the spawn, for any service
        self._memory_kills = procfs.memory_kills()
        self.lane: Lane | None = None
        self.ready_since: float | None = None
        self.was_stopped = False  # its end was asked for
        self.is_immortal = False  # it did not end, and nothing more can be done about it

    @property
    def has_ended(self) -> bool:
        return self.process.ended.is_set()

    @property
    def ready_seconds(self) -> float:
        return 0.0 if self.ready_since is None else time.monotonic() - self.ready_since

    @property
    def fault(self) -> str:
        """Its end as what went wrong, where that was not asked for."""
        fault = f"{self._title} ended by itself with status {self.process.exit_status}"
        if not self.process.exit_status and (what := self._background):
            fault += f"; what it had put into the background {what}: run it in the foreground, {FOREGROUND}"
        if procfs.memory_kills() > self._memory_kills:
            fault += ": the kernel killed a process of this container because its memory was used up"
        return fault

    @property
    def _background(self) -> str:
        """What became of it; empty where there is none. An orphan comes to PID 1, which may not be us."""
        if self.process.left_behind:
            return "was ended with it"
        is_gone = not self.port_was_free or is_free(self.address, closed=True)
        return "" if is_gone else f"still listens at {self.address}"

    # It leaves: drain, then stop, then cut. What is in flight goes on for as long as the process answers it.

    def drain(self, gate: Gate, going: str, timeout: float, spread: float = 0.0) -> float:
        """Give what is in flight its time before the stop signal. `going`, `spread`: see `Gate.warn`.

        Returns the seconds that are left for those that hear of the end by that signal alone.
        """
        if self.lane is None:
            return 0.0
        deadline = Deadline(timeout)
        gate.warn(self.lane, going, spread)
        gate.await_empty(self.lane, deadline)
        return deadline.sooner(timeout) if self.lane.deaf else 0.0

    def begin_stop(self, number: int, timeout: float) -> str | None:
        """Send the stop signal, or leave less time where it was sent already; what went wrong."""
        self.was_stopped = self.was_stopped or not self.has_ended
        try:
            self.process.begin_stop(number, timeout)
            return None
        except PermissionError as error:
            return cannot_signal(error)

    def stop(self, number: int, timeout: float) -> str | None:
        """Send the stop signal and wait for the end, after `timeout` seconds with SIGKILL; what went wrong."""
        if (fault := self.begin_stop(number, timeout)) is not None:
            return fault
        try:
            if not self.process.await_stop():
                log.warning("the service did not end in time and was killed", pid=self.process.pid,
                            signal=signal_name(number))
        except PermissionError as error:
            return cannot_signal(error)
        return None if self.has_ended else f"the service does not end, not even with SIGKILL (pid {self.process.pid})"

    def cut(self, gate: Gate, deadline: Deadline) -> None:
        """Once the process is gone: let what it has answered reach its clients, and break the rest."""
        if self.lane is not None:
            gate.await_empty(self.lane, deadline)
            gate.cut(self.lane)


class Stopping:
    """`old` is the run that leaves beside the one that counts."""

    def __init__(self, name: str, life: Life, gate: Gate, board: Board, wake_up: WakeUp, settings: Settings,
                 stop_signal: int) -> None:
        self.old: Run | None = None
        self._name = name
        self._life = life
        self._gate = gate
        self._board = board
        self._wake_up = wake_up
        self._settings = settings
        self._stop_signal = stop_signal

    def refusal(self, run: Run | None) -> str | None:
        """Why the run can be neither stopped nor restarted, None where it can; it goes on as it is."""
        fault = None if run is None else run.process.refusal()
        return None if fault is None else self._report(fault)

    def _report(self, fault: str) -> str:
        log.error(fault, service=self._name)
        self._board.report(self._name, fault, "signal")
        return fault

    def take_down(self, run: Run, going: str, reason: str, *, is_hung: bool) -> str | None:
        """Drain and stop the run that counts; what keeps it from ending."""
        if self._life.state is State.RUNNING:
            self._life.enter(State.DRAINING, reason)
        left = run.drain(self._gate, going, 0.0 if is_hung else self._settings.drain_timeout)
        self._life.enter(State.STOPPING, reason)
        # A signal that ends the wrapper meanwhile is the one to send; one that comes later finds it sent.
        timeout = min(self._timeout, HUNG_STOP_TIMEOUT) if is_hung else self._timeout + left
        deadline = Deadline(timeout)
        if (fault := run.stop(self._number, timeout)) is not None:
            return self._report(fault)
        self._life.end(run.process, planned=True)
        if self._wake_up.ending is None:
            threads.start_or_do(f"cut-{run.process.pid}", lambda: run.cut(self._gate, deadline))
        else:
            run.cut(self._gate, Deadline(deadline.sooner(LAST_BYTES_TIMEOUT)))
        return None

    @property
    def _timeout(self) -> float:
        return self._given_or(STOP_TIMEOUT if self._wake_up.ending is None else LAST_STOP_TIMEOUT)

    def _given_or(self, stop_timeout: float) -> float:
        given = self._settings.stop_timeout
        return stop_timeout if given is None else given

    @property
    def _number(self) -> int:
        """What a stop sends: --stop-signal, and where that was not given, the signal that ends the wrapper."""
        is_given = self._settings.origins["stop_signal"] != "default"
        return self._stop_signal if is_given or self._wake_up.ending is None else self._wake_up.ending

    def retire(self, run: Run) -> None:
        """Drain and stop a run in a thread of its own: the run that counts may have to be ended meanwhile."""

        def retire() -> None:
            longest = self._settings.overlap_drain_timeout
            timeout = run.drain(self._gate, "restart", longest, longest / 2) + self._timeout
            deadline = Deadline(timeout)
            if (fault := run.stop(self._number, timeout)) is not None:
                self._report(fault)
                run.is_immortal = True
                self._wake_up.set()
            run.cut(self._gate, deadline)

        threads.start_or_do(f"retire-{run.process.pid}", retire)

    def hasten_old(self) -> None:
        """Leave the old run no more time than a service has at the container's end."""

        def hasten(old: Run) -> None:
            left = old.drain(self._gate, "shutdown", self._settings.drain_timeout)
            old.stop(self._number, self._given_or(LAST_STOP_TIMEOUT) + left)

        if (old := self.old) is not None:
            threads.start_or_do(f"hasten-{old.process.pid}", lambda: hasten(old))

    @property
    def old_has_ended(self) -> bool:
        return self.old is not None and self.old.has_ended

    def record_old_end(self) -> None:
        """Wait for the old run, where there is one, and put its end on record."""
        if self.old is not None:
            longest = self._settings.drain_timeout + self._timeout + KILL_TIMEOUT
            if self.old.process.ended.wait(longest):
                self._life.end(self.old.process, planned=self.old.was_stopped)
        self.old = None

    def hear_signal(self, number: int, run: Run | None, *, is_second: bool) -> None:
        """The wrapper is to end: what is being stopped has no more time than then, and a second signal is passed on."""
        for each in filter(None, (run, self.old)):
            was_stopping = each.process.is_stopping
            if is_second or was_stopping:
                each.begin_stop(number, self._given_or(LAST_STOP_TIMEOUT))
            if is_second and was_stopping:
                with contextlib.suppress(PermissionError):
                    each.process.signal(number)
