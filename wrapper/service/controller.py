"""The controller of one service: who may ask for what, and what is next; how it is done is in `lifecycle.py`.

One thread carries out one job at a time and is the only one that changes the state, so an intended stop is told from
a crash by the state and never by an exit status. All other threads queue a job or read the record, without a wait.
"""

from __future__ import annotations

import threading
import time
from functools import partial

from wrapper import threads
from wrapper.errors import Busy, CannotStart
from wrapper.log import log
from wrapper.service.jobs import Job
from wrapper.service.process import NEVER, NOW, cannot_start
from wrapper.service.state import ENDING, HALFWAY, MAIN, State
from wrapper.settings.values import signal_name
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Callable

    from wrapper.service.jobs import ReloadAction
    from wrapper.service.lifecycle import Lifecycle
    from wrapper.settings.address import Address

INTERNAL_ERROR = 70  # exit status, EX_SOFTWARE of sysexits(3)


class Controller:
    """Steers one service.

    `on_over(exit_status, planned)` is called once, when the service is gone and nothing will bring it back: after a
    shutdown, and for the main one once the restart policy gives up. A helper stays failed then, and may be started.
    """

    def __init__(self, lifecycle: Lifecycle, on_over: Callable[[int, bool], None]) -> None:
        self.life = lifecycle.life
        self._lifecycle = lifecycle
        self._restarts = lifecycle.restarts
        self._on_over = on_over
        self._jobs = self.life.jobs
        self._actions = {"start": lifecycle.start, "stop": lifecycle.stop, "restart": lifecycle.restart,
                         "reload": lifecycle.reload, "barrier": lifecycle.pass_barrier}
        self.over = threading.Event()  # set while nothing runs and nothing will: before `launch` and at the end
        self.over.set()

    # For callers

    def launch(self) -> None:
        """The first start, in the caller's thread up to the spawn, so that nothing slow comes before it.

        Raises: CannotStart when the command cannot be run; then there is nothing to shut down.
        """
        try:
            self._lifecycle.begin_start("first start")
            self.launch_aside()
        except CannotStart as error:
            self._lifecycle.fail(error.public)
            self._jobs.close(error.public)
            raise

    def launch_aside(self) -> None:
        """The first start, in the controller's own thread: a command that cannot be run is for the restart policy.

        Raises: CannotStart where that thread cannot be had.
        """
        self._jobs.ask(Job("start", "first start"))
        self.over.clear()
        try:
            threads.start(f"controller-{self.life.name}", self._loop)
        except NoThread as error:
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
        self.life.wake_up.set()
        return job

    def begin_trial(self) -> None:
        """Until `end_trial` an exit of the service is not the end: the caller may undo what it tries, and start it."""
        self._restarts.begin_trial()

    def end_trial(self) -> None:
        self._restarts.end_trial()
        self.life.wake_up.set()

    def verify(self, settle: float, timeout: float) -> str | None:
        """None where the service still runs after `settle` seconds and then is ready within `timeout`; else the fault.

        Waits in the caller's thread.
        """
        run = self.life.run
        if run is None:
            return f"the service is {self.life.state.value}: {self.life.reason}"
        run.ended.wait(settle)
        return self._lifecycle.health.ready.await_ready(run, timeout, lambda: self.life.wake_up.ending is not None)

    def signal(self, number: int) -> None:
        """Pass a signal on to the service: one that ends to all of its group, any other to its own process.

        Raises: Busy when there is no process to get it, Refusal where the kernel does not let us.
        """
        run = self.life.run
        if run is None or run.ended.is_set():
            raise Busy(f"cannot signal {signal_name(number)}: the service is {self.life.state.value}")
        self._lifecycle.gate.doubt_kept()
        run.process.signal(number)

    def shut_down(self, number: int) -> None:
        """End the service for good with signal `number`; a second call ends the drain and is passed on at once."""
        self._lifecycle.stopping.hear_signal(number)
        self._jobs.close(ENDING)

    @property
    def address(self) -> Address | None:
        """Where the service listens now."""
        run = self.life.run
        return None if run is None else run.address

    # The controller's thread

    def _loop(self) -> None:
        self._do_job()  # the first start, before its run may be taken for one that fell
        while not self.over.is_set():
            try:
                self._do_next()
            except Exception as error:  # noqa: BLE001  a fault of ours; a service that is not steered must not live on
                log.error(f"cannot go on: {error!r}", service=self.life.name)
                self.life.report(f"internal error {error!r}")
                self._lifecycle.cut_off()
                self._finish(INTERNAL_ERROR, planned=False)

    def _do_next(self) -> None:
        """Do what is due first, or wait for it, or for a wake-up."""
        now, soonest = time.monotonic(), NEVER
        for moment, action in self._table():
            if moment <= now:
                action()
                return
            soonest = min(moment, soonest)
        self.life.wake_up.pause(None if soonest == NEVER else soonest - now)

    def _table(self) -> Iterator[tuple[float, Callable[[], object]]]:
        """What may be next, the most urgent first: the moment it is due, and what is done then."""
        lifecycle, life, restarts = self._lifecycle, self.life, self._restarts
        run, old = life.run, life.old
        if life.name == MAIN and restarts.final_status is not None:
            yield NOW, partial(self._give_up, restarts.final_status)
        if life.wake_up.ending is not None:
            yield NOW, lambda: self._finish(*lifecycle.end())
        if run is not None and run.ended.is_set():
            yield NOW, partial(lifecycle.record_fall, run)
        if self._jobs.waiting:
            yield NOW, self._do_job
        if old is not None and old.ended.is_set():
            yield NOW, lifecycle.stopping.record_old_end
        if restarts.undecided is not None and not restarts.is_on_trial:
            yield NOW, partial(lifecycle.decide, restarts.undecided)
        yield restarts.next_start, partial(self._guard, "start again", lifecycle.start_again)
        if run is not None and life.state is State.RUNNING:
            yield lifecycle.health.next_live, partial(self._guard, "probe", partial(lifecycle.probe_live, run))
        if run is not None and life.state in (State.RUNNING, State.FAILED):
            yield lifecycle.health.next_ready, partial(lifecycle.probe_ready, run)

    def _do_job(self) -> None:
        if (job := self._jobs.take()) is not None:
            self._jobs.finish(job, self._guard(job.kind, partial(self._actions[job.kind], job)))

    def _guard(self, what: str, action: Callable[[], str | None]) -> str | None:
        """Carry `action` out and return its fault; an exception, which is a fault of ours, must not end the thread."""
        try:
            return action()
        except Exception as error:  # noqa: BLE001  see above
            log.error(f"cannot {what}: {error!r}", service=self.life.name)
            self.life.report(f"cannot {what}: internal error {error!r}", "controller")
            if self.life.state in HALFWAY:
                self._lifecycle.wreck(f"internal error {error!r}")
            return repr(error)
        finally:
            self.life.is_restarting = False

    def _give_up(self, exit_status: int) -> None:
        """End the controller, where the restart policy starts the service no more."""
        self._lifecycle.gate.hurry()  # an earlier run that still drains
        self._lifecycle.stopping.hasten_old()
        self._lifecycle.stopping.record_old_end()
        self._finish(exit_status, planned=False)

    def _finish(self, exit_status: int, planned: bool) -> None:
        self.life.run = None
        self.over.set()
        self._jobs.close("the service is gone for good")
        self._on_over(exit_status, planned)
