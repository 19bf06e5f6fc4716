"""The service's life: start, stop, restart, reload; and what to do when it ends by itself.

One thread carries out one action at a time and is the only one that turns the state, so an intended stop is told from
a crash by the state and never by an exit status. Everybody else asks, with a ticket, or reads the record; neither
waits for an action.
"""

from __future__ import annotations

import signal
import threading
import time
from subprocess import SubprocessError

from wrapper.deadline import Deadline
from wrapper.errors import Busy, CannotStart
from wrapper.log import log
from wrapper.service import probe
from wrapper.service.aftermath import Aftermath
from wrapper.service.agenda import Agenda, Ticket
from wrapper.service.process import cannot_start
from wrapper.service.retirement import Retirement
from wrapper.service.state import Life, State
from wrapper.service.vigil import Vigil
from wrapper.values import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.address import Address
    from wrapper.gate import Gate, Lane
    from wrapper.problems import Board
    from wrapper.service.agenda import Reload
    from wrapper.service.launcher import Launcher
    from wrapper.service.policy import Policy, Timeouts
    from wrapper.service.probe import Probe
    from wrapper.service.process import Process

HASTE = 0.5  # seconds for a run that never served to stop while everything ends
LATE_LOOK = 1.0  # seconds between two looks at a service that has missed its time


class Controller:
    """Steers one service.

    `on_over(exit_status, planned)` is called once, when the service is gone and nothing will bring it back: after a
    shutdown, and where it `is_main` once the policy gives up. What is not main stays failed then, and may be started.
    `reload(process, address)` makes the service read its configuration again and returns what went wrong; None: a
    reload is a restart.
    A tentative action leaves the next step to whoever asked, and so does the service on trial: see `Aftermath`.
    """

    def __init__(self, life: Life, launcher: Launcher, gate: Gate, probe: Probe, policy: Policy, timeouts: Timeouts,
                 board: Board, source: str, *, is_main: bool, stop_signal: int, overlaps: bool,
                 reload: Callable[[Process, Address], str | None] | None, on_over: Callable[[int, bool], None]) -> None:
        self.life = life
        self._launcher = launcher
        self._gate = gate
        self._probe = probe
        self._policy = policy
        self._timeouts = timeouts
        self._board = board
        self._source = source
        self._is_main = is_main
        self._stop_signal = stop_signal
        self._overlaps = overlaps
        self._reload = reload
        self._on_over = on_over
        self._agenda = Agenda()
        self._aftermath = Aftermath(life, gate, policy, board, source, self._give_up)
        self._actions = {"start": self._start, "stop": self._stop, "restart": self._restart, "reload": self._do_reload}
        self._vigil = Vigil(source)
        self.over = threading.Event()  # set while nothing runs and nothing will: before `launch` and at the end
        self.over.set()
        # Written by the controller's thread alone (by `launch` before there is one).
        self._process: Process | None = None
        self._address: Address | None = None
        self._ready_since: float | None = None
        self._ready_timeout = timeouts.ready
        self._is_restarting = False
        self._retirement: Retirement | None = None

    # For those who ask

    def launch(self) -> None:
        """The first start, in the caller's thread up to the spawn, so that nothing slow comes before it.

        Raises: CannotStart when the command cannot be run; then there is nothing to shut down.
        """
        self._turn_to_starting("first start")
        try:
            self._spawn()
            self._come_alive(self._first(), lambda ticket: self._settle(ticket, self._await_ready()))
        except CannotStart as error:
            self._aftermath.fail(error.public, tentative=False)
            self._agenda.close(error.public)
            raise

    def launch_aside(self) -> None:
        """The first start, in the controller's own thread: a command that cannot be run is for the policy.

        Raises: CannotStart where that thread cannot be had.
        """
        self._come_alive(self._first(), self._start)

    def _first(self) -> Ticket:
        return Ticket("start", "first start", self._aftermath.is_on_trial)

    def _come_alive(self, first: Ticket, action: Callable[[Ticket], str | None]) -> None:
        """Raises: CannotStart where no thread can be had; then nothing runs."""
        self._agenda.begin(first)
        self.over.clear()
        life = threading.Thread(target=self._live, args=(first, action), name=f"controller-{self._source}", daemon=True)
        try:
            life.start()
        except RuntimeError as error:
            if self._process is not None:
                self._process.stop(signal.SIGKILL, 0.0)
            self._agenda.close(str(error))
            self.over.set()
            raise cannot_start(error) from error

    def ask(self, kind: str, reason: str, *, tentative: bool = False, reload: Reload | None = None,
            ready_timeout: float | None = None) -> Ticket:
        """Have "start", "stop", "restart" or "reload" done; returns at once. `reload`, `ready_timeout`: see `Ticket`.

        Raises: Busy where that contradicts what is under way.
        """
        ticket, is_new = self._agenda.ask(kind, reason, tentative, reload, ready_timeout)
        if is_new:
            self._vigil.wake()
        return ticket

    def begin_trial(self) -> None:
        """From now on an end of the service is not the end: whoever tries something out mends it, up to `end_trial`."""
        self._aftermath.is_on_trial = True

    def end_trial(self) -> None:
        self._aftermath.is_on_trial = False
        self._vigil.wake()

    def verify(self, settle: float, timeout: float | None) -> str | None:
        """None where the service still runs after `settle` seconds and then is ready within `timeout`; else the fault.

        Waits in the caller's thread; None as timeout: --ready-timeout.
        """
        process, address = self._process, self._address
        if process is None or address is None:
            return f"the service is {self.life.state.value}: {self.life.reason}"
        process.ended.wait(settle)
        return self._probe.await_ready(process, address, timeout or self._timeouts.ready, self._vigil.is_ending)

    def signal(self, number: int) -> None:
        """Pass a signal on to the service's group.

        Raises: Busy when there is no process to get it.
        """
        process = self._process
        if process is None or process.ended.is_set():
            raise Busy(f"cannot signal {signal_name(number)}: the service is {self.life.state.value}")
        process.signal(number)

    def shut_down(self, number: int) -> None:
        """End the service for good with signal `number`; a second call ends the drain and is passed on at once."""
        is_second = not self._vigil.begin_end(number)
        process = self._process
        if is_second or self.life.state is State.STOPPING:
            self._gate.hurry()
            if process is not None:
                process.signal(number)
        if is_second and (retirement := self._retirement) is not None:
            retirement.process.signal(number)
        self._agenda.close("the wrapper is shutting down")
        self._vigil.wake()

    @property
    def is_serving(self) -> bool:
        """True while requests are served, or held for a planned restart."""
        return self._gate.is_open or self._is_restarting

    @property
    def address(self) -> Address | None:
        """Where the service listens now."""
        return self._address

    # The controller's thread

    def _live(self, first: Ticket, action: Callable[[Ticket], str | None]) -> None:
        self._carry_out(first, action)
        self._agenda.finish(first, first.error)
        while not self.over.is_set():
            self._vigil.wait(self._nap())
            self._look()

    def _nap(self) -> float | None:
        """Seconds until something is due; None while nothing is."""
        if self._is_due():
            return 0
        if self._aftermath.next_try is not None:
            return self._aftermath.next_try.remaining()
        return LATE_LOOK if self._is_late else None

    def _is_due(self) -> bool:
        runs = (self._process, self._retirement and self._retirement.process)
        has_ended = any(run is not None and run.ended.is_set() for run in runs)
        return has_ended or self._aftermath.is_due or not self._agenda.is_empty or self._vigil.is_ending()

    @property
    def _is_late(self) -> bool:
        """True while the service runs without having become ready in time."""
        return self.life.state is State.FAILED and self._process is not None

    def _look(self) -> None:
        if self._vigil.last_signal is not None:
            self._end(self._vigil.last_signal)
        elif self._process is not None and self._process.ended.is_set():
            self._fall(self._process, self._aftermath.is_on_trial)
        elif (ticket := self._agenda.take()) is not None:
            self._carry_out(ticket, self._actions[ticket.kind])
            self._agenda.finish(ticket, ticket.error)
        elif self._retirement is not None and self._retirement.process.ended.is_set():
            self._retire()
        elif self._aftermath.is_due:
            self._aftermath.decide()
        elif self._aftermath.next_try is not None and self._aftermath.next_try.has_passed():
            self.life.count_restart("exit")
            self._carry_out(Ticket("start", "again after an exit"), self._start)
        elif self._is_late:
            self._look_again()

    def _carry_out(self, ticket: Ticket, action: Callable[[Ticket], str | None]) -> None:
        """Run an action to its end; `ticket.error` says how it went."""
        self._ready_timeout = ticket.ready_timeout or self._timeouts.ready
        self._aftermath.is_on_trial = self._aftermath.is_on_trial or ticket.tentative
        try:
            ticket.error = action(ticket)
        except Exception as error:  # noqa: BLE001  a fault of ours must not end the thread
            log.error(f"cannot {ticket.kind}: {error!r}", service=self._source)
            self._board.report(self._source, f"cannot {ticket.kind}: internal error {error!r}", "controller")
            ticket.error = repr(error)
        finally:
            self._is_restarting = False

    # Actions: each returns what went wrong, None when nothing did

    def _start(self, ticket: Ticket) -> str | None:
        if self._process is not None:
            return None
        if ticket.reason != "again after an exit":
            self._policy.reset()
        return self._bring_up(ticket)

    def _stop(self, ticket: Ticket) -> str | None:
        reason = f"stopped: {ticket.reason}"
        self._aftermath.forget()
        if self._process is None:
            self._gate.refuse(reason)
            if self.life.state is not State.STOPPED:
                self.life.turn(State.STOPPED, reason)
        else:
            self._take_down(self._gate.refuse(reason), "shutdown", self._stop_signal, ticket.reason)
            self.life.turn(State.STOPPED, reason)
        self._board.resolve(self._source)
        return None

    def _restart(self, ticket: Ticket) -> str | None:
        self.life.count_restart("planned")
        self._policy.reset()
        self._aftermath.next_try = None
        if self._overlaps and self._process is not None and self.life.state is State.RUNNING:
            return self._overlap(ticket, self._process)
        self._is_restarting = self._process is not None
        if self._process is not None:
            lane = self._gate.hold(f"the service restarts: {ticket.reason}")
            self._take_down(lane, "restart", self._stop_signal, ticket.reason)
        if self._vigil.is_ending():
            return "the wrapper is shutting down"
        return self._bring_up(ticket)

    def _overlap(self, ticket: Ticket, old: Process) -> str | None:
        """Bring a second run up beside the first; only when it is ready does the road change over."""
        self._retire()
        try:
            new, address = self._launch(beside=True)
        except CannotStart as error:
            return self._goes_on(ticket, error.public)
        fault = self._look_until_ready(new, address, self._ready_timeout)
        if fault is not None:
            # It served nobody; while the wrapper ends there is no time to wait for it long.
            new.stop(self._stop_signal, HASTE if self._vigil.is_ending() else self._timeouts.stop)
            return self._goes_on(ticket, fault)
        self._process, self._address, self._ready_since = new, address, time.monotonic()
        self.life.begin(new)
        self._launcher.take_over(new)
        lane = self._gate.open(address, new)
        self.life.turn(State.RUNNING, f"the next run took over: {ticket.reason}")
        self._board.resolve(self._source)
        self._retirement = Retirement(self._gate, lane, old, self._timeouts, self._stop_signal)
        self._vigil.until(lambda: old.ended.is_set() or new.ended.is_set())
        if old.ended.is_set():
            self._retire()
        return f"it ended with status {new.exit_status}" if new.ended.is_set() else None

    def _retire(self) -> None:
        """Wait for the old run of an overlap, where there is one, and put its end on record."""
        if self._retirement is not None:
            self._retirement.finish(self.life)
        self._retirement = None

    def _goes_on(self, ticket: Ticket, fault: str) -> str:
        fault = f"the restart failed, the earlier run goes on: {fault}"
        return fault if ticket.tentative else self._aftermath.report(fault)

    def _do_reload(self, ticket: Ticket) -> str | None:
        reload = ticket.reload or self._reload
        if reload is None or self._process is None or self._address is None:
            return self._restart(ticket)
        process, address = self._process, self._address
        fault = self._vigil.apart(process, lambda: reload(process, address))
        fault = fault or self._look_until_ready(process, address, self._ready_timeout)
        if fault is None:
            self._board.resolve(self._source)
            return None
        if self._process.ended.is_set():
            self._fall(self._process, ticket.tentative)
        elif not ticket.tentative:
            self._aftermath.report(f"the reload failed: {fault}")
        return f"the reload failed: {fault}"

    def _turn_to_starting(self, reason: str) -> None:
        self._aftermath.forget()
        self._gate.hold("the service is starting")
        self.life.turn(State.STARTING, reason)

    def _spawn(self) -> None:
        """Raises: CannotStart."""
        self._process, self._address = self._launch()
        self.life.begin(self._process)

    def _launch(self, *, beside: bool = False) -> tuple[Process, Address]:
        """A new run, and where it is to listen.

        Raises: CannotStart, whatever the cause: no such command, no descriptor, no thread.
        """

        def ended(process: Process) -> None:
            # Newcomers wait from now on, also while the controller's thread is busy with something else.
            self._gate.lose(process, "the service has ended")
            self._vigil.wake()

        try:
            address = self._launcher.choose_address()
            probe.report_squatter(address, self._board, self._source)
            return self._launcher.launch(address, ended, beside=beside), address
        except (OSError, RuntimeError, SubprocessError) as error:
            raise cannot_start(error) from error

    def _bring_up(self, ticket: Ticket) -> str | None:
        self._turn_to_starting(ticket.reason)
        try:
            self._spawn()
        except CannotStart as error:
            log.error(str(error), service=self._source)
            self._aftermath.fall(error.public, error.exit_status, 0.0, ticket.tentative)
            return error.public
        return self._settle(ticket, self._await_ready())

    def _await_ready(self) -> str | None:
        assert self._process is not None
        assert self._address is not None
        fault = self._look_until_ready(self._process, self._address, self._ready_timeout)
        if fault is None:
            self._serve()
        return fault

    def _look_until_ready(self, process: Process, address: Address, timeout: float) -> str | None:
        is_over = self._vigil.is_ending
        return self._vigil.apart(process, lambda: self._probe.await_ready(process, address, timeout, is_over))

    def _serve(self) -> None:
        assert self._address is not None
        self._ready_since = time.monotonic()
        self._gate.open(self._address, self._process)  # first: whoever reads "running" finds the road open
        self.life.turn(State.RUNNING, "ready")
        self._board.resolve(self._source)

    def _look_again(self) -> None:
        assert self._process is not None
        assert self._address is not None
        address = self._address
        if self._vigil.apart(self._process, lambda: self._probe.fault(address)) is None:
            self._serve()

    def _take_down(self, lane: Lane | None, going: str, number: int, reason: str) -> None:
        assert self._process is not None
        if self.life.state is State.RUNNING:
            self.life.turn(State.DRAINING, reason)
        if lane is not None:
            self._gate.drain(lane, Deadline(self._timeouts.drain), going)
        # Whoever ended everything meanwhile said what with; once we are STOPPING, `shut_down` passes that on itself.
        number = self._vigil.last_signal or number
        self.life.turn(State.STOPPING, reason)
        if not self._process.stop(number, self._timeouts.stop):
            log.warning("the service did not end in time and was killed", service=self._source,
                        signal=signal_name(number), timeout=self._timeouts.stop)
        self.life.end(self._process, planned=True)
        self._process = self._ready_since = None

    # When it goes wrong

    def _settle(self, ticket: Ticket, fault: str | None) -> str | None:
        """What a run that did not become ready leaves behind: a named state with a reason, and a problem."""
        assert self._process is not None
        if fault is not None and not self._vigil.is_ending():
            if self._process.ended.is_set():
                self._fall(self._process, ticket.tentative)
            else:
                self._aftermath.fail(fault, ticket.tentative)  # late, but alive: it is looked at again
        return fault

    def _fall(self, process: Process, tentative: bool) -> None:
        """The service ended and nobody had asked for it."""
        ready_seconds = 0.0 if self._ready_since is None else time.monotonic() - self._ready_since
        self._process = self._ready_since = None
        self.life.end(process, planned=False)
        fault = f"the service ended by itself with status {process.exit_status}"
        self._aftermath.fall(fault, process.exit_status, ready_seconds, tentative)

    def _give_up(self, exit_status: int) -> None:
        if self._is_main:
            self._gate.hurry()  # an earlier run that still drains
            self._retire()
            self._finish(exit_status, planned=False)

    def _end(self, number: int) -> None:
        """Drain, pass the signal on, wait: the end of the service's life."""
        lane = self._gate.refuse("the wrapper is shutting down")
        process, reason = self._process, f"signal {signal_name(number)}"
        if process is not None and process.ended.is_set():
            self.life.end(process, planned=False)
        elif process is not None:
            self._take_down(lane, "shutdown", number, reason)
        exit_status, was_planned = self.life.last_status, self.life.was_planned
        self._retire()
        if self.life.state is State.STOPPING:
            self.life.turn(State.STOPPED, reason)
        self._finish(exit_status, was_planned)

    def _finish(self, exit_status: int, planned: bool) -> None:
        self._process = None
        self.over.set()
        self._agenda.close("the service is gone for good")
        self._on_over(exit_status, planned)
