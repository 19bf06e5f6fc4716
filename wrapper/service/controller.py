"""The service's life: who may ask for what, and what is due next; how it is done is in `course.py`.

One thread carries out one action at a time and is the only one that turns the state, so an intended stop is told from
a crash by the state and never by an exit status. Everybody else asks, with a ticket, or reads the record; neither
waits for an action.
"""

from __future__ import annotations

import signal
import threading

from wrapper.errors import Busy, CannotStart
from wrapper.log import log
from wrapper.service.agenda import Agenda, Ticket
from wrapper.service.process import cannot_start
from wrapper.service.state import HALFWAY, State
from wrapper.values import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.address import Address
    from wrapper.problems import Board
    from wrapper.service.agenda import Reload
    from wrapper.service.course import Course

INTERNAL_ERROR = 70  # exit status, EX_SOFTWARE of sysexits(3)
LATE_LOOK = 1.0  # seconds between two looks at a service that has missed its time


class Controller:
    """Steers one service.

    `on_over(exit_status, planned)` is called once, when the service is gone and nothing will bring it back: after a
    shutdown, and where it `is_main` once the policy gives up. What is not main stays failed then, and may be started.
    A service on trial, as a tentative action makes it, leaves the next step to whoever tries it: see `Aftermath`.
    """

    def __init__(self, course: Course, board: Board, source: str, *, is_main: bool,
                 on_over: Callable[[int, bool], None]) -> None:
        self.life = course.life
        self._course = course
        self._vigil = course.vigil
        self._aftermath = course.aftermath
        self._board = board
        self._source = source
        self._is_main = is_main
        self._on_over = on_over
        self._agenda = Agenda()
        self.life.before_rest = self._agenda.come_out
        self._actions = {"start": course.start, "stop": course.stop, "restart": course.restart,
                         "reload": course.reload}
        self.over = threading.Event()  # set while nothing runs and nothing will: before `launch` and at the end
        self.over.set()

    # For those who ask

    def launch(self) -> None:
        """The first start, in the caller's thread up to the spawn, so that nothing slow comes before it.

        Raises: CannotStart when the command cannot be run; then there is nothing to shut down.
        """
        self._course.turn_to_starting("first start")
        try:
            self._course.spawn()
            self._come_alive(self._first(), lambda _: self._course.settle(self._course.await_ready()))
        except CannotStart as error:
            self._aftermath.fail(error.public)
            self._agenda.close(error.public)
            raise

    def launch_aside(self) -> None:
        """The first start, in the controller's own thread: a command that cannot be run is for the policy.

        Raises: CannotStart where that thread cannot be had.
        """
        self._come_alive(self._first(), self._course.start)

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
            if self._course.process is not None:
                self._course.process.stop(signal.SIGKILL, 0.0)
            self._agenda.close(str(error))
            self.over.set()
            raise cannot_start(error) from error

    def ask(self, kind: str, reason: str, *, tentative: bool = False, reload: Reload | None = None,
            ready_timeout: float | None = None) -> Ticket:
        """Have "start", "stop", "restart" or "reload" done; returns at once. `reload`, `ready_timeout`: see `Ticket`.

        Raises: Busy where that contradicts what is under way, or a stop.
        """
        if kind == "reload" and self.life.state is State.STOPPED:  # as systemctl(1) refuses to reload an inactive unit
            raise Busy(f"cannot reload: the service is stopped ({self.life.reason}); start it")
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
        process, address = self._course.process, self._course.address
        if process is None or address is None:
            return f"the service is {self.life.state.value}: {self.life.reason}"
        process.ended.wait(settle)
        timeout = timeout or self._course.timeouts.ready
        return self._course.probe.await_ready(process, address, timeout, self._vigil.is_ending)

    def signal(self, number: int) -> None:
        """Pass a signal on to the service's group.

        Raises: Busy when there is no process to get it.
        """
        process = self._course.process
        if process is None or process.ended.is_set():
            raise Busy(f"cannot signal {signal_name(number)}: the service is {self.life.state.value}")
        process.signal(number)

    def shut_down(self, number: int) -> None:
        """End the service for good with signal `number`; a second call ends the drain and is passed on at once."""
        is_second = not self._vigil.begin_end(number)
        process = self._course.process
        if is_second or self.life.state is State.STOPPING:
            self._course.gate.hurry()
            if process is not None:
                process.signal(number)
        if is_second and (retirement := self._course.retirement) is not None:
            retirement.process.signal(number)
        self._agenda.close("the wrapper is shutting down")
        self._vigil.wake()

    @property
    def is_serving(self) -> bool:
        """True while requests are served, or held for a planned restart."""
        return self._course.gate.is_open or self._course.is_restarting

    @property
    def address(self) -> Address | None:
        """Where the service listens now."""
        return self._course.address

    # The controller's thread

    def _live(self, first: Ticket, action: Callable[[Ticket], str | None]) -> None:
        self._carry_out(first, action)
        self._agenda.finish(first, first.error)
        while not self.over.is_set():
            try:
                self._vigil.wait(self._nap())
                self._look()
            except Exception as error:  # noqa: BLE001  a fault of ours; a service that nobody steers must not live on
                log.error(f"cannot go on: {error!r}", service=self._source)
                self._aftermath.report(f"internal error {error!r}")
                self._course.cut_off()
                self._finish(INTERNAL_ERROR, planned=False)

    def _nap(self) -> float | None:
        """Seconds until something is due; None while nothing is."""
        if self._is_due():
            return 0
        if self._aftermath.next_try is not None:
            return self._aftermath.next_try.remaining()
        return LATE_LOOK if self._course.is_late else None

    def _is_due(self) -> bool:
        is_given_up = self._is_main and self._aftermath.last_status is not None
        return (self._course.has_ended or self._aftermath.is_due or is_given_up or not self._agenda.is_empty
                or self._vigil.is_ending())

    def _look(self) -> None:
        if self._is_main and self._aftermath.last_status is not None:
            self._give_up(self._aftermath.last_status)
        elif self._vigil.last_signal is not None:
            self._finish(*self._course.end(self._vigil.last_signal))
        elif self._course.process is not None and self._course.process.ended.is_set():
            self._course.fall(self._course.process)
        elif (ticket := self._agenda.take()) is not None:
            self._carry_out(ticket, self._actions[ticket.kind])
            self._agenda.finish(ticket, ticket.error)
        elif self._course.has_ended:
            self._course.retire()
        elif self._aftermath.is_due:
            self._aftermath.decide()
        elif self._aftermath.next_try is not None and self._aftermath.next_try.has_passed():
            self.life.count_restart("exit")
            self._carry_out(Ticket("start", "again after an exit"), self._course.start)
        elif self._course.is_late:
            self._course.look_again()

    def _carry_out(self, ticket: Ticket, action: Callable[[Ticket], str | None]) -> None:
        """Run an action to its end; `ticket.error` says how it went."""
        self._course.ready_timeout = ticket.ready_timeout or self._course.timeouts.ready
        if ticket.tentative:  # never read, changed and written back: `end_trial` clears it in another thread
            self._aftermath.is_on_trial = True
        try:
            ticket.error = action(ticket)
        except Exception as error:  # noqa: BLE001  a fault of ours must not end the thread
            log.error(f"cannot {ticket.kind}: {error!r}", service=self._source)
            self._board.report(self._source, f"cannot {ticket.kind}: internal error {error!r}", "controller")
            ticket.error = repr(error)
            if self.life.state in HALFWAY:
                self._course.wreck(f"internal error {error!r}")
        finally:
            self._course.is_restarting = False

    def _give_up(self, exit_status: int) -> None:
        """Nothing will bring the service back."""
        self._course.gate.hurry()  # an earlier run that still drains
        self._course.retire()
        self._finish(exit_status, planned=False)

    def _finish(self, exit_status: int, planned: bool) -> None:
        self._course.process = None
        self.over.set()
        self._agenda.close("the service is gone for good")
        self._on_over(exit_status, planned)
