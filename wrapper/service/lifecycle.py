"""The life of one service, run by run: start, stop, restart, reload, end. One thread does all of it: its controller's.

Every action returns what went wrong, None when nothing did.
"""

from __future__ import annotations

import contextlib
import signal
import time
from subprocess import SubprocessError

from wrapper.deadline import Deadline
from wrapper.errors import CannotStart
from wrapper.log import log
from wrapper.service import probe
from wrapper.service.family import KILL_TIMEOUT
from wrapper.service.jobs import Job
from wrapper.service.process import cannot_start
from wrapper.service.restart import Next
from wrapper.service.run import Run
from wrapper.service.state import State
from wrapper.service.wakeup import ENDING, WakeUp, in_thread
from wrapper.values import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.gate import Gate, Lane
    from wrapper.problems import Board
    from wrapper.service.jobs import ReloadAction
    from wrapper.service.launcher import Launcher
    from wrapper.service.probe import Probe
    from wrapper.service.process import Process
    from wrapper.service.restart import RestartPolicy
    from wrapper.service.state import Life
    from wrapper.settings import Settings

KILLED = 128 + signal.SIGKILL  # exit status
UNUSED_STOP_TIMEOUT = 0.5  # seconds to stop for a run that never served, while others cannot wait for it
STOP_TIMEOUT = 30.0  # seconds from the stop signal to SIGKILL, in a planned stop or restart
LAST_STOP_TIMEOUT = 6.0  # the same at the container's end: with --drain-timeout it fits into docker stop's 10 s
LAST_BYTES_TIMEOUT = 2.0  # seconds for the last of its answers to reach clients, at the container's end
LATE_INTERVAL = 1.0  # seconds between two probes of a service that has missed its time


class Lifecycle:
    """`run` is the run that counts, `old` one that drains beside it after an overlapped restart.

    `reload(process, address)` makes the service read its configuration again and returns what went wrong; None: a
    reload is a restart.
    """

    def __init__(self, name: str, life: Life, gate: Gate, launcher: Launcher, probe: Probe, restarts: RestartPolicy,
                 board: Board, settings: Settings, stop_signal: int, reload: ReloadAction | None) -> None:
        self.name = name
        self.life = life
        self.gate = gate
        self.probe = probe
        self.restarts = restarts
        self.run: Run | None = None
        self.old: Run | None = None
        self.is_restarting = False
        self.wake_up = WakeUp(name)
        self._late_probe = Deadline(0.0)
        self._launcher = launcher
        self._board = board
        self._settings = settings
        self._stop_signal = stop_signal
        self._overlaps = settings.restart_mode == "overlap" and launcher.draws_ports
        self._reload = reload

    # Start

    def start(self, job: Job) -> str | None:
        self.restarts.reset()
        return self._bring_up(job) if self.run is None else self._state_of_run()

    def start_again(self) -> str | None:
        """Start after an exit; the pauses of the restart policy go on."""
        self.life.count_restart("exit")
        self.restarts.forget()
        return self._bring_up(Job("start", "again after an exit"))

    def _state_of_run(self) -> str | None:
        if self.is_late:
            self.probe_late_run()
        return self.life.reason if self.is_late else None

    def turn_to_starting(self, reason: str) -> None:
        self.gate.hold("the service is starting")
        self.life.enter(State.STARTING, reason)

    def _bring_up(self, job: Job) -> str | None:
        self.turn_to_starting(job.reason)
        try:
            self.spawn()
        except CannotStart as error:
            log.error(str(error), service=self.name)
            self._fall(error.public, error.exit_status, 0.0)
            return error.public
        job.has_started_run = True
        return self.await_ready(job)

    def spawn(self) -> None:
        """Raises: CannotStart."""
        self.run = self._launch()
        self.life.begin(self.run.process)

    def _launch(self, *, beside: bool = False) -> Run:
        """Raises: CannotStart, whatever the cause: no such command, no descriptor, no thread."""

        def leader_ended(process: Process) -> None:
            # Newcomers wait from now on, also while the controller's thread is busy with something else.
            self.gate.lose(process, "the service has ended")

        def ended(process: Process) -> None:
            leader_ended(process)
            self.wake_up.set()

        try:
            address = self._launcher.choose_address()
            probe.report_squatter(address, self._board, self.name)
            return Run(self._launcher.launch(address, ended, leader_ended, beside=beside), address)
        except (OSError, RuntimeError, SubprocessError) as error:
            raise cannot_start(error) from error

    def await_ready(self, job: Job) -> str | None:
        """Serve once the run is ready; what is not leaves a named state with a reason, and a problem."""
        run = self.run
        assert run is not None
        fault = self._probe_until_ready(run, job)
        if fault is None:
            self._serve(run)
        elif self.wake_up.ending is None:
            if run.has_ended:
                self.record_fall()
            else:
                self._late_probe = Deadline(LATE_INTERVAL)
                self.fail(fault)
        return fault

    def _probe_until_ready(self, run: Run, job: Job) -> str | None:
        timeout = job.ready_timeout or self._settings.ready_timeout
        return self.wake_up.in_background(run, lambda: self.probe.await_ready(
            run.process, run.address, timeout, lambda: self.wake_up.ending is not None))

    def _serve(self, run: Run) -> None:
        run.ready_since = time.monotonic()
        # First: whatever reads "running" finds the gate open, and no problem that is gone.
        self.gate.open(run.address, run.process)
        self._board.resolve(self.name)
        self.life.enter(State.RUNNING, "ready")

    @property
    def is_late(self) -> bool:
        """True while the service runs without having become ready in time."""
        return self.life.state is State.FAILED and self.run is not None

    def late_probe_in(self) -> float | None:
        """Seconds until a late run is probed again; None where there is none."""
        return self._late_probe.remaining() if self.is_late else None

    def probe_late_run(self) -> None:
        run, self._late_probe = self.run, Deadline(LATE_INTERVAL)
        assert run is not None
        if self.wake_up.in_background(run, lambda: self.probe.fault(run.address)) is None:
            self._serve(run)
        elif not self.restarts.is_on_trial:
            self.gate.refuse(f"the service failed: {self.life.reason}")

    # Stop

    def stop(self, job: Job) -> str | None:
        if (fault := self._refusal()) is not None:
            return fault
        reason = f"stopped: {job.reason}"
        self.restarts.reset()
        self._board.resolve(self.name)
        lane = self.gate.refuse(reason)
        self._hasten_old(self._stop_timeout)
        if self.run is not None and (fault := self._take_down(self.run, lane, "shutdown", job.reason)) is not None:
            return fault
        self.record_old_end()
        if self.life.state is not State.STOPPED:
            self.life.enter(State.STOPPED, reason)
        return None

    def _refusal(self) -> str | None:
        """Why the service can be neither stopped nor restarted, None where it can; it goes on as it is."""
        fault = None if self.run is None else self.run.process.refusal()
        if fault is not None:
            log.error(fault, service=self.name)
            self._board.report(self.name, fault, "signal")
        return fault

    def _take_down(self, run: Run, lane: Lane | None, going: str, reason: str) -> str | None:
        """Drain and stop the run that counts; one that does not end leaves the service failed."""
        if self.life.state is State.RUNNING:
            self.life.enter(State.DRAINING, reason)
        run.lane = lane
        run.drain(self.gate, going, self._settings.drain_timeout)
        self.life.enter(State.STOPPING, reason)
        # A signal that ends the wrapper meanwhile is the one to send; from now on `hear_signal` sends it itself.
        deadline = Deadline(self._stop_timeout)
        if (fault := run.stop(self._last_signal, self._stop_timeout)) is not None:
            log.error(fault, service=self.name)
            self.fail(fault)
            return fault
        self.life.end(run.process, planned=True)
        self.run = None
        if self.wake_up.ending is None:
            in_thread(lambda: run.cut(self.gate, deadline), f"cut-{run.process.pid}")
        else:
            run.cut(self.gate, Deadline(deadline.sooner(LAST_BYTES_TIMEOUT)))
        return None

    @property
    def _stop_timeout(self) -> float:
        return self._given_or(STOP_TIMEOUT if self.wake_up.ending is None else LAST_STOP_TIMEOUT)

    def _given_or(self, stop_timeout: float) -> float:
        given = self._settings.stop_timeout
        return stop_timeout if given is None else given

    @property
    def _last_signal(self) -> int:
        """What a stop sends: --stop-signal, and where that was not given, the signal that ends the wrapper."""
        is_given = self._settings.origins["stop_signal"] != "default"
        return self._stop_signal if is_given or self.wake_up.ending is None else self.wake_up.ending

    def cut_off(self) -> None:
        """Kill the run that counts."""
        run, self.run = self.run, None
        if run is not None:
            with contextlib.suppress(PermissionError):
                run.process.stop(signal.SIGKILL, 0.0)
            if run.has_ended:
                self.life.end(run.process, planned=False)

    # Restart

    def restart(self, job: Job) -> str | None:
        if (fault := self._refusal()) is not None:
            return fault
        self.life.count_restart("planned")
        self.restarts.reset()
        if self._overlaps and self.run is not None and self.life.state is State.RUNNING:
            return self._overlap(job, self.run)
        self.is_restarting = self.run is not None
        if self.run is not None:
            lane = self.gate.hold(f"the service restarts: {job.reason}")
            if (fault := self._take_down(self.run, lane, "restart", job.reason)) is not None:
                return fault
        return ENDING if self.wake_up.ending is not None else self._bring_up(job)

    def _overlap(self, job: Job, old: Run) -> str | None:
        """Bring a second run up beside the first; only when it is ready does the gate lead there."""
        if (fault := self._await_old(old)) is not None:
            return fault
        try:
            new = self._launch(beside=True)
        except CannotStart as error:
            return self._keep_serving(error.public)
        job.has_started_run = True
        if (fault := self._probe_until_ready(new, job)) is not None:
            self._dismiss(new, old)
            return self._keep_serving(fault)
        new.ready_since = time.monotonic()
        self.run = new
        self.life.begin(new.process)
        self._launcher.take_over(new.process)
        old.lane = self.gate.open(new.address, new.process)
        self._board.resolve(self.name)
        self.life.enter(State.RUNNING, f"the next run took over: {job.reason}")
        self.old = old
        self._retire(old)
        return None

    def _await_old(self, serving: Run) -> str | None:
        """One run may drain beside the next. What keeps another from coming, None where nothing does."""
        if (old := self.old) is None:
            return None
        self.wake_up.until(lambda: old.has_ended or serving.has_ended)
        if (fault := self.wake_up.interruption(serving)) is None:
            self.record_old_end()
        return fault

    def _retire(self, run: Run) -> None:
        """Drain and stop a run in a thread of its own: the run that counts may have to be ended meanwhile."""

        def retire() -> None:
            run.drain(self.gate, "restart", self._settings.overlap_drain_timeout)
            deadline = Deadline(self._stop_timeout)
            if (fault := run.stop(self._stop_signal, self._stop_timeout)) is not None:
                log.error(fault, service=self.name)
                self._board.report(self.name, fault, "signal")
            run.cut(self.gate, deadline)

        in_thread(retire, f"retire-{run.process.pid}")

    def _hasten_old(self, stop_timeout: float) -> None:
        """Leave the old run of an overlap no more time than the service itself has to stop."""

        def hasten(old: Run) -> None:
            old.drain(self.gate, "shutdown", self._settings.drain_timeout)
            old.stop(self._last_signal, stop_timeout)

        if (old := self.old) is not None:
            in_thread(lambda: hasten(old), f"hasten-{old.process.pid}")

    def _dismiss(self, new: Run, old: Run) -> None:
        """End a run that never served. While everything ends, or the run that serves has, it does not get its time."""
        self._retire(new)
        self.wake_up.until(lambda: new.has_ended or old.has_ended)
        if not new.process.ended.wait(UNUSED_STOP_TIMEOUT):
            new.begin_stop(signal.SIGKILL, 0.0)

    @property
    def old_has_ended(self) -> bool:
        return self.old is not None and self.old.has_ended

    def record_old_end(self) -> None:
        """Wait for the old run of an overlap, where there is one, and put its end on record."""
        if self.old is not None:
            longest = self._settings.drain_timeout + self._stop_timeout + KILL_TIMEOUT
            if self.old.process.ended.wait(longest):
                self.life.end(self.old.process, planned=self.old.was_stopped)
        self.old = None

    def _keep_serving(self, fault: str) -> str:
        fault = f"the restart failed, the earlier run goes on: {fault}"
        if not self.restarts.is_on_trial:
            self.report(fault)
        return fault

    # Reload

    def reload(self, job: Job) -> str | None:
        reload, run = job.reload or self._reload, self.run
        if reload is None or run is None:
            return self.restart(job)
        fault = self.wake_up.in_background(run, lambda: reload(run.process, run.address))
        fault = fault or self._probe_until_ready(run, job)
        if fault is None:
            self._board.resolve(self.name)
            return None
        fault = f"the reload failed: {fault}"
        if run.has_ended:
            self.record_fall()
        elif not self.restarts.is_on_trial:
            self.report(fault)
        return fault

    def pass_barrier(self, job: Job) -> str | None:
        """Nothing else runs now; a service that is down is started."""
        return self.restart(job) if self.run is None else self._probe_until_ready(self.run, job)

    # When it goes wrong

    def report(self, fault: str) -> None:
        self._board.report(self.name, fault)

    def fail(self, fault: str) -> None:
        """The service is not as it should be, whether it runs or not; on trial, requests wait for it to be mended."""
        self.report(fault)
        if self.restarts.is_on_trial:
            self.gate.hold(f"the service is being mended: {fault}")
        else:
            self.gate.refuse(f"the service failed: {fault}")
        if self.life.state is not State.FAILED:
            self.life.enter(State.FAILED, fault)

    def record_fall(self) -> None:
        """The run that counts ended, and that was not asked for."""
        run, self.run = self.run, None
        assert run is not None
        self.life.end(run.process, planned=False)
        exit_status = run.process.exit_status
        self._fall(f"the service ended by itself with status {exit_status}", exit_status, run.ready_seconds)

    def _fall(self, fault: str, exit_status: int, ready_seconds: float) -> None:
        self._follow(fault, *self.restarts.record_exit(exit_status, ready_seconds))

    def decide(self) -> None:
        """A trial is over that left the service ended."""
        self._follow(self.life.reason, *self.restarts.decide())

    def _follow(self, fault: str, outcome: Next, pause: float) -> None:
        """Do what the restart policy says about an exit."""
        if outcome is Next.START:
            self.report(fault)
            self.gate.hold(f"{fault} and is started again")
            self.life.enter(State.BACKOFF, f"{fault}; next start in {pause:.1f} s")
        else:
            self.fail(fault)

    def wreck(self, fault: str) -> None:
        """A fault of the wrapper's in the middle of something: nothing is sure, so end the run; the policy decides."""
        self.cut_off()
        self._fall(fault, self.life.last_status, 0.0)

    # The end

    def hear_signal(self, number: int) -> None:
        """The wrapper shuts down; a second signal ends the drain and is passed on at once. Any thread may call it."""
        is_second, self.wake_up.ending = self.wake_up.ending is not None, self.wake_up.ending or number
        if is_second or self.life.state is State.STOPPING:
            self.gate.hurry()
            for run in (self.run, self.old if is_second else None):
                if run is not None:
                    with contextlib.suppress(PermissionError):
                        run.process.signal(number)
                    if run.process.is_stopping:
                        run.begin_stop(number, self._given_or(LAST_STOP_TIMEOUT))
        self.wake_up.set()

    def hasten_end(self) -> None:
        """The service is gone for good: only an old run of an overlap may still be there."""
        self._hasten_old(self._given_or(LAST_STOP_TIMEOUT))
        self.record_old_end()

    def end(self) -> tuple[int, bool]:
        """Drain, pass the signal on, wait: the end of the service's life.

        Returns its exit status, and whether the end was planned.
        """
        assert self.wake_up.ending is not None
        lane = self.gate.refuse(ENDING)
        self._hasten_old(self._stop_timeout)
        run, reason = self.run, f"signal {signal_name(self.wake_up.ending)}"
        if run is not None and run.has_ended:
            self.life.end(run.process, planned=False)
        elif run is not None and self._take_down(run, lane, "shutdown", reason) is not None:
            return KILLED, True  # as the kernel will, once the wrapper has ended
        exit_status, was_planned = self.life.last_status, self.life.was_planned
        self.record_old_end()
        if self.life.state is State.STOPPING:
            self.life.enter(State.STOPPED, reason)
        return exit_status, was_planned
