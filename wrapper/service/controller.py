"""The controller of one service: who may ask for what, and what is next; how it is done is in `lifecycle.py`.

One thread carries out one job at a time and is the only one that changes the state, so an intended stop is told from
a crash by the state and never by an exit status. All other threads queue a job or read the record, without a wait.
"""

from __future__ import annotations

import threading

from wrapper import threads
from wrapper.errors import Busy, CannotStart, Refusal
from wrapper.log import log
from wrapper.service.jobs import Job, JobQueue
from wrapper.service.process import cannot_signal, cannot_start
from wrapper.service.state import HALFWAY, State
from wrapper.service.wakeup import ENDING
from wrapper.threads import NoThread
from wrapper.settings.values import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Callable

    from wrapper.settings.address import Address
    from wrapper.problems import Board
    from wrapper.service.jobs import ReloadAction
    from wrapper.service.lifecycle import Lifecycle

INTERNAL_ERROR = 70  # exit status, EX_SOFTWARE of sysexits(3)
NOW, NEVER = 0.0, None  # when something is due


class Controller:
    """Steers one service.

    `on_over(exit_status, planned)` is called once, when the service is gone and nothing will bring it back: after a
    shutdown, and where it `is_main` once the restart policy gives up. What is not main stays failed then, and may be
    started.
    """

    def __init__(self, lifecycle: Lifecycle, board: Board, *, is_main: bool,
                 on_over: Callable[[int, bool], None]) -> None:
        self.life = lifecycle.life
        self._lifecycle = lifecycle
        self._restarts = lifecycle.restarts
        self._board = board
        self._is_main = is_main
        self._on_over = on_over
        self._jobs = JobQueue()
        self.life.before_rest = self._jobs.settle
        self._actions = {"start": lifecycle.start, "stop": lifecycle.stop, "restart": lifecycle.restart,
                         "reload": lifecycle.reload, "barrier": lifecycle.pass_barrier}
        self.over = threading.Event()  # set while nothing runs and nothing will: before `launch` and at the end
        self.over.set()

    # For callers

    def launch(self) -> None:
        """The first start, in the caller's thread up to the spawn, so that nothing slow comes before it.

        Raises: CannotStart when the command cannot be run; then there is nothing to shut down.
        """
        self._lifecycle.turn_to_starting("first start")
        try:
            self._lifecycle.spawn()
            self._run_loop(self._lifecycle.await_ready)
        except CannotStart as error:
            self._lifecycle.fail(error.public)
            self._jobs.close(error.public)
            raise

    def launch_aside(self) -> None:
        """The first start, in the controller's own thread: a command that cannot be run is for the restart policy.

        Raises: CannotStart where that thread cannot be had.
        """
        self._run_loop(self._lifecycle.start)

    def _run_loop(self, first_action: Callable[[Job], str | None]) -> None:
        """Start the controller's thread with the first start. Raises: CannotStart where it cannot be had."""
        self._jobs.ask(Job("start", "first start"))
        first = self._jobs.take()
        assert first is not None
        self.over.clear()
        try:
            threads.start(f"controller-{self._lifecycle.name}", self._loop, first, first_action)
        except NoThread as error:
            if self._lifecycle.run is not None:
                self._lifecycle.cut_off()
            self._jobs.close(str(error))
            self.over.set()
            raise cannot_start(error) from error

    def ask(self, kind: str, reason: str, *, reload: ReloadAction | None = None,
            ready_timeout: float | None = None) -> Job:
        """Queue a job and return at once; its arguments: see `Job`.

        Raises: Busy where that conflicts with a job that is under way, or with a stop.
        """
        if kind == "reload" and self.life.state is State.STOPPED:  # as systemctl(1) refuses to reload an inactive unit
            raise Busy(f"cannot reload: the service is stopped ({self.life.reason}); start it")
        job = self._jobs.ask(Job(kind, reason, reload, ready_timeout))
        self._lifecycle.wake_up.set()
        return job

    def begin_trial(self) -> None:
        """Until `end_trial` an exit of the service is not the end: the caller may undo what it tries, and start it."""
        self._restarts.begin_trial()

    def end_trial(self) -> None:
        self._restarts.end_trial()
        self._lifecycle.wake_up.set()

    def verify(self, settle: float, timeout: float) -> str | None:
        """None where the service still runs after `settle` seconds and then is ready within `timeout`; else the fault.

        Waits in the caller's thread.
        """
        run = self._lifecycle.run
        if run is None:
            return f"the service is {self.life.state.value}: {self.life.reason}"
        run.process.ended.wait(settle)
        return self._lifecycle.health.ready.await_ready(run, timeout, self._is_ending)

    def _is_ending(self) -> bool:
        return self._lifecycle.wake_up.ending is not None

    def signal(self, number: int) -> None:
        """Pass a signal on to the service: one that ends to all of its group, any other to its own process.

        Raises: Busy when there is no process to get it, Refusal where the kernel does not let us.
        """
        run = self._lifecycle.run
        if run is None or run.has_ended:
            raise Busy(f"cannot signal {signal_name(number)}: the service is {self.life.state.value}")
        try:
            run.process.signal(number)
        except PermissionError as error:
            raise Refusal(cannot_signal(error)) from error

    def shut_down(self, number: int) -> None:
        """End the service for good with signal `number`; a second call ends the drain and is passed on at once."""
        self._lifecycle.hear_signal(number)
        self._jobs.close(ENDING)

    @property
    def is_serving(self) -> bool:
        """True while requests are served, or held for a planned restart."""
        return (self._lifecycle.gate.is_open and self.life.unready is None) or self._lifecycle.is_restarting

    def doubt(self) -> None:
        """Probe the service now: a connection to it was refused while its process lives. Returns at once."""
        self._lifecycle.health.doubt()

    @property
    def restart_mode(self) -> str:
        """How a restart of the running service is done: replace or overlap."""
        return "overlap" if self._lifecycle.overlaps else "replace"

    @property
    def address(self) -> Address | None:
        """Where the service listens now."""
        run = self._lifecycle.run
        return None if run is None else run.address

    # The controller's thread

    def _loop(self, first: Job, first_action: Callable[[Job], str | None]) -> None:
        self._carry_out(first, first_action)
        while not self.over.is_set():
            try:
                self._do_next()
            except Exception as error:  # noqa: BLE001  a fault of ours; a service that is not steered must not live on
                log.error(f"cannot go on: {error!r}", service=self._lifecycle.name)
                self._lifecycle.report(f"internal error {error!r}")
                self._lifecycle.cut_off()
                self._finish(INTERNAL_ERROR, planned=False)

    def _do_next(self) -> None:
        """Do what is due first, or wait for it, or for a wake-up."""
        soonest = NEVER
        for seconds, action in self._table():
            if seconds == NOW:
                action()
                return
            if seconds is not None:
                soonest = seconds if soonest is None else min(seconds, soonest)
        self._lifecycle.wake_up.pause(soonest)

    def _table(self) -> Iterator[tuple[float | None, Callable[[], object]]]:
        """What may be next, the most urgent first: the seconds until it is due, and what is done then."""
        lifecycle, restarts = self._lifecycle, self._restarts
        yield _now(self._is_main and restarts.final_status is not None), self._give_up
        yield _now(self._is_ending()), lambda: self._finish(*lifecycle.end())
        yield _now(lifecycle.run is not None and lifecycle.run.has_ended), lifecycle.record_fall
        yield _now(not self._jobs.is_empty), self._do_job
        yield _now(lifecycle.stopping.old_has_ended), lifecycle.stopping.record_old_end
        yield _now(restarts.undecided is not None), lifecycle.decide
        yield restarts.next_start_in(), lambda: self._guard("start again", lifecycle.start_again)
        yield lifecycle.health.live_probe_in(lifecycle.run), lambda: self._guard("probe", lifecycle.probe_live)
        yield lifecycle.health.ready_probe_in(lifecycle.run), lifecycle.probe_ready

    def _do_job(self) -> None:
        job = self._jobs.take()
        assert job is not None
        self._carry_out(job, self._actions[job.kind])

    def _carry_out(self, job: Job, action: Callable[[Job], str | None]) -> None:
        job.error = self._guard(job.kind, lambda: action(job))
        self._jobs.finish(job)

    def _guard(self, what: str, action: Callable[[], str | None]) -> str | None:
        """What went wrong with an action; a fault of the wrapper's own must not end the thread."""
        try:
            return action()
        except Exception as error:  # noqa: BLE001  see above
            log.error(f"cannot {what}: {error!r}", service=self._lifecycle.name)
            self._board.report(self._lifecycle.name, f"cannot {what}: internal error {error!r}", "controller")
            if self.life.state in HALFWAY:
                self._lifecycle.wreck(f"internal error {error!r}")
            return repr(error)
        finally:
            self._lifecycle.is_restarting = False

    def _give_up(self) -> None:
        """Nothing will bring the service back."""
        assert self._restarts.final_status is not None
        self._lifecycle.gate.hurry()  # an earlier run that still drains
        self._lifecycle.stopping.hasten_old()
        self._lifecycle.stopping.record_old_end()
        self._finish(self._restarts.final_status, planned=False)

    def _finish(self, exit_status: int, planned: bool) -> None:
        self._lifecycle.run = None
        self.over.set()
        self._jobs.close("the service is gone for good")
        self._on_over(exit_status, planned)


def _now(is_due: bool) -> float | None:
    return NOW if is_due else NEVER
