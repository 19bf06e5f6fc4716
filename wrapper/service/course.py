"""How a service is started, stopped, restarted and reloaded, step by step. One thread does all of it: its controller's.

Every action returns what went wrong, None when nothing did.
"""

from __future__ import annotations

import signal
import time
from subprocess import SubprocessError

from wrapper.deadline import Deadline
from wrapper.errors import CannotStart
from wrapper.log import log
from wrapper.service import probe
from wrapper.service.aftermath import Aftermath
from wrapper.service.process import cannot_start
from wrapper.service.retirement import Retirement
from wrapper.service.state import State
from wrapper.service.vigil import Vigil
from wrapper.values import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.address import Address
    from wrapper.gate import Gate, Lane
    from wrapper.problems import Board
    from wrapper.service.agenda import Ticket
    from wrapper.service.launcher import Launcher
    from wrapper.service.policy import Policy, Timeouts
    from wrapper.service.probe import Probe
    from wrapper.service.process import Process
    from wrapper.service.state import Life

HASTE = 0.5  # seconds for a run that never served to stop while others cannot wait for it


class Course:
    """The run there is, and what is done with it.

    `reload(process, address)` makes the service read its configuration again and returns what went wrong; None: a
    reload is a restart.
    """

    def __init__(self, life: Life, launcher: Launcher, gate: Gate, probe: Probe, policy: Policy, timeouts: Timeouts,
                 board: Board, source: str, *, stop_signal: int, overlaps: bool,
                 reload: Callable[[Process, Address], str | None] | None) -> None:
        self.life = life
        self.gate = gate
        self.probe = probe
        self.timeouts = timeouts
        self.vigil = Vigil(source)
        self.aftermath = Aftermath(life, gate, policy, board, source)
        self._launcher = launcher
        self._policy = policy
        self._board = board
        self._source = source
        self._stop_signal = stop_signal
        self._overlaps = overlaps
        self._reload = reload
        self.process: Process | None = None
        self.address: Address | None = None
        self.ready_timeout = timeouts.ready
        self.is_restarting = False
        self.retirement: Retirement | None = None
        self._ready_since: float | None = None

    def start(self, ticket: Ticket) -> str | None:
        if self.process is not None:
            return self._look_at_what_runs()
        if ticket.reason != "again after an exit":
            self._policy.reset()
        return self._bring_up(ticket)

    def _look_at_what_runs(self) -> str | None:
        if self.is_late:
            self.look_again()
        return self.life.reason if self.is_late else None

    @property
    def is_late(self) -> bool:
        """True while the service runs without having become ready in time."""
        return self.life.state is State.FAILED and self.process is not None

    def stop(self, ticket: Ticket) -> str | None:
        reason = f"stopped: {ticket.reason}"
        self.aftermath.forget()
        self._board.resolve(self._source)
        lane = self.gate.refuse(reason)
        if self.process is not None:
            self._take_down(lane, "shutdown", self._stop_signal, ticket.reason)
        if self.life.state is not State.STOPPED:
            self.life.turn(State.STOPPED, reason)
        return None

    def restart(self, ticket: Ticket) -> str | None:
        self.life.count_restart("planned")
        self._policy.reset()
        self.aftermath.next_try = None
        if self._overlaps and self.process is not None and self.life.state is State.RUNNING:
            return self._overlap(ticket, self.process)
        self.is_restarting = self.process is not None
        if self.process is not None:
            lane = self.gate.hold(f"the service restarts: {ticket.reason}")
            self._take_down(lane, "restart", self._stop_signal, ticket.reason)
        if self.vigil.is_ending():
            return "the wrapper is shutting down"
        return self._bring_up(ticket)

    def _overlap(self, ticket: Ticket, old: Process) -> str | None:
        """Bring a second run up beside the first; only when it is ready does the road change over."""
        if (fault := self._await_retired(old)) is not None:
            return fault
        try:
            new, address = self._launch(beside=True)
        except CannotStart as error:
            return self._goes_on(error.public)
        fault = self._look_until_ready(new, address, self.ready_timeout)
        if fault is not None:
            self._dismiss(new, old)
            return self._goes_on(fault)
        self.process, self.address, self._ready_since = new, address, time.monotonic()
        self.life.begin(new)
        self._launcher.take_over(new)
        lane = self.gate.open(address, new)
        self._board.resolve(self._source)
        self.life.turn(State.RUNNING, f"the next run took over: {ticket.reason}")
        self.retirement = Retirement(self.gate, lane, old, self.timeouts, self._stop_signal)
        self.vigil.until(lambda: old.ended.is_set() or new.ended.is_set())
        if old.ended.is_set():
            self.retire()
        return new.fault if new.ended.is_set() else None

    def _await_retired(self, serving: Process) -> str | None:
        """One run may retire at a time. What keeps the next from coming, None where nothing does."""
        if (retirement := self.retirement) is None:
            return None
        self.vigil.until(lambda: retirement.process.ended.is_set() or serving.ended.is_set())
        fault = self.vigil.cut_short(serving)
        if fault is None:
            self.retire()
        return fault

    def _dismiss(self, new: Process, old: Process) -> None:
        """End a run that served nobody. While everything ends, or the run that serves has, it does not get its time."""
        Retirement(self.gate, None, new, self.timeouts, self._stop_signal)
        self.vigil.until(lambda: new.ended.is_set() or old.ended.is_set())
        if not new.ended.wait(HASTE):
            new.signal(signal.SIGKILL)

    @property
    def has_ended(self) -> bool:
        """True where a run has ended that was not looked at yet."""
        old = self.retirement.process if self.retirement is not None else None
        return any(run is not None and run.ended.is_set() for run in (self.process, old))

    def retire(self) -> None:
        """Wait for the old run of an overlap, where there is one, and put its end on record."""
        if self.retirement is not None:
            self.retirement.finish(self.life)
        self.retirement = None

    def _goes_on(self, fault: str) -> str:
        fault = f"the restart failed, the earlier run goes on: {fault}"
        return fault if self.aftermath.is_on_trial else self.aftermath.report(fault)

    def reload(self, ticket: Ticket) -> str | None:
        reload = ticket.reload or self._reload
        if reload is None or self.process is None or self.address is None:
            return self.restart(ticket)
        process, address = self.process, self.address
        fault = self.vigil.apart(process, lambda: reload(process, address))
        fault = fault or self._look_until_ready(process, address, self.ready_timeout)
        if fault is None:
            self._board.resolve(self._source)
            return None
        if self.process.ended.is_set():
            self.fall(self.process)
        elif not self.aftermath.is_on_trial:
            self.aftermath.report(f"the reload failed: {fault}")
        return f"the reload failed: {fault}"

    def turn_to_starting(self, reason: str) -> None:
        self.aftermath.forget()
        self.gate.hold("the service is starting")
        self.life.turn(State.STARTING, reason)

    def spawn(self) -> None:
        """Raises: CannotStart."""
        self.process, self.address = self._launch()
        self.life.begin(self.process)

    def _launch(self, *, beside: bool = False) -> tuple[Process, Address]:
        """A new run, and where it is to listen.

        Raises: CannotStart, whatever the cause: no such command, no descriptor, no thread.
        """

        def ended(process: Process) -> None:
            # Newcomers wait from now on, also while the controller's thread is busy with something else.
            self.gate.lose(process, "the service has ended")
            self.vigil.wake()

        try:
            address = self._launcher.choose_address()
            probe.report_squatter(address, self._board, self._source)
            return self._launcher.launch(address, ended, beside=beside), address
        except (OSError, RuntimeError, SubprocessError) as error:
            raise cannot_start(error) from error

    def _bring_up(self, ticket: Ticket) -> str | None:
        self.turn_to_starting(ticket.reason)
        try:
            self.spawn()
        except CannotStart as error:
            log.error(str(error), service=self._source)
            self.aftermath.fall(error.public, error.exit_status, 0.0)
            return error.public
        return self.settle(self.await_ready())

    def await_ready(self) -> str | None:
        assert self.process is not None
        assert self.address is not None
        fault = self._look_until_ready(self.process, self.address, self.ready_timeout)
        if fault is None:
            self._serve()
        return fault

    def _look_until_ready(self, process: Process, address: Address, timeout: float) -> str | None:
        is_over = self.vigil.is_ending
        return self.vigil.apart(process, lambda: self.probe.await_ready(process, address, timeout, is_over))

    def _serve(self) -> None:
        assert self.address is not None
        self._ready_since = time.monotonic()
        # First: whoever reads "running" finds the road open, and no problem that is gone.
        self.gate.open(self.address, self.process)
        self._board.resolve(self._source)
        self.life.turn(State.RUNNING, "ready")

    def look_again(self) -> None:
        assert self.process is not None
        assert self.address is not None
        address = self.address
        if self.vigil.apart(self.process, lambda: self.probe.fault(address)) is None:
            self._serve()
        else:
            self.aftermath.stay_late()

    def _take_down(self, lane: Lane | None, going: str, number: int, reason: str) -> None:
        assert self.process is not None
        if self.life.state is State.RUNNING:
            self.life.turn(State.DRAINING, reason)
        if lane is not None:
            self.gate.drain(lane, Deadline(self.timeouts.drain), going)
        # Whoever ended everything meanwhile said what with; once we are STOPPING, `shut_down` passes that on itself.
        number = self.vigil.last_signal or number
        self.life.turn(State.STOPPING, reason)
        if not self.process.stop(number, self.timeouts.stop):
            log.warning("the service did not end in time and was killed", service=self._source,
                        signal=signal_name(number), timeout=self.timeouts.stop)
        self.life.end(self.process, planned=True)
        self.process = self._ready_since = None

    # When it goes wrong

    def settle(self, fault: str | None) -> str | None:
        """What a run that did not become ready leaves behind: a named state with a reason, and a problem."""
        assert self.process is not None
        if fault is not None and not self.vigil.is_ending():
            if self.process.ended.is_set():
                self.fall(self.process)
            else:
                self.aftermath.fail(fault)  # late, but alive: it is looked at again
        return fault

    def fall(self, process: Process) -> None:
        """The service ended and nobody had asked for it."""
        ready_seconds = 0.0 if self._ready_since is None else time.monotonic() - self._ready_since
        self.process = self._ready_since = None
        self.life.end(process, planned=False)
        fault = f"the service ended by itself with status {process.exit_status}"
        self.aftermath.fall(fault, process.exit_status, ready_seconds)

    def wreck(self, fault: str) -> None:
        """A fault of ours in the middle of something: nobody knows what stands, so end the run; the policy decides."""
        self.cut_off()
        self.aftermath.fall(fault, self.life.last_status, 0.0)

    def cut_off(self) -> None:
        process, self.process, self._ready_since = self.process, None, None
        if process is not None:
            process.stop(signal.SIGKILL, 0.0)
            self.life.end(process, planned=False)

    def end(self, number: int) -> tuple[int, bool]:
        """Drain, pass the signal on, wait: the end of the service's life.

        Returns its exit status, and whether the end was planned.
        """
        lane = self.gate.refuse("the wrapper is shutting down")
        process, reason = self.process, f"signal {signal_name(number)}"
        if process is not None and process.ended.is_set():
            self.life.end(process, planned=False)
        elif process is not None:
            self._take_down(lane, "shutdown", number, reason)
        exit_status, was_planned = self.life.last_status, self.life.was_planned
        self.retire()
        if self.life.state is State.STOPPING:
            self.life.turn(State.STOPPED, reason)
        return exit_status, was_planned
