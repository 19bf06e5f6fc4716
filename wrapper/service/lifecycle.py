"""The life of one service, run by run: start, stop, restart, reload, end. One thread does all of it: its controller's.

Every action returns what went wrong, None when nothing did.
"""

from __future__ import annotations

import contextlib
import signal
import time

from wrapper.deadline import Deadline
from wrapper.errors import CannotStart, Refusal
from wrapper.log import log
from wrapper.service.jobs import Job
from wrapper.service.state import ENDING, Life, Run, State, Stopping
from wrapper.settings.values import signal_name
from wrapper.sockets import is_free

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.gate import Gate, Lane
    from wrapper.service.jobs import ReloadAction
    from wrapper.service.launcher import Launcher
    from wrapper.service.probe import Health
    from wrapper.service.restart import RestartPolicy
    from wrapper.settings.settings import Settings

KILLED = 128 + signal.SIGKILL  # exit status
UNUSED_STOP_TIMEOUT = 0.5  # seconds to stop for a run that never served, while others cannot wait for it
PORT_INTERVAL = 0.5  # seconds between two polls whether a port is free again
PROBLEM_KEYS = ("", "listening", "readiness", "liveness", "signal")  # gone once the service runs well or is stopped


class Lifecycle:
    """`reload(process, address)` makes the service read its configuration again and returns what went wrong; None: a
    reload is a restart.
    """

    def __init__(self, life: Life, gate: Gate, launcher: Launcher, health: Health, restarts: RestartPolicy,
                 settings: Settings, stop_signal: int, reload: ReloadAction | None) -> None:
        self.life = life
        self.gate = gate
        self.restarts = restarts
        self.stopping = Stopping(life, gate, settings, stop_signal)
        self.health = health
        self.overlaps = settings.restart_mode == "overlap" and launcher.draws_ports
        self._reuses_port = False  # seen to start where connections of an earlier run still had its port
        self._wake_up = life.wake_up
        self._launcher = launcher
        self._settings = settings
        self._reload = reload

    # Start

    def start(self, job: Job) -> str | None:
        self.restarts.reset()
        if (run := self.life.run) is None:
            return self._bring_up(job)
        if self.life.state is State.STARTING:  # the first run, see `Controller.launch`
            return self._await_ready(job)
        if self._is_late:
            self.probe_ready(run)
        return self.life.reason if self._is_late else None

    def start_again(self) -> str | None:
        """Start after an exit; the pauses of the restart policy go on."""
        self.life.count_restart("exit")
        self.restarts.forget()
        return self._bring_up(Job("start", "again after an exit"))

    def begin_start(self, reason: str) -> None:
        """Up to the spawn. Raises: CannotStart."""
        self._turn_to_starting(reason)
        self.life.begin(self._launcher.launch(self.life, self.gate.lose))

    def _turn_to_starting(self, reason: str) -> None:
        self.gate.hold("the service is starting")
        self.life.enter(State.STARTING, reason)

    def _bring_up(self, job: Job) -> str | None:
        self._turn_to_starting(job.reason)
        return self._spawn_reported(job) or self._await_ready(job)

    def _spawn_reported(self, job: Job) -> str | None:
        try:
            self.life.begin(self._launcher.launch(self.life, self.gate.lose))
        except CannotStart as error:
            log.error(str(error), service=self.life.name)
            self._fall(error.public, error.exit_status, 0.0)
            return error.public
        job.has_started_run = True
        return None

    def _await_ready(self, job: Job) -> str | None:
        """Serve once the run is ready; what is not leaves a named state with a reason, and a problem."""
        deadline = Deadline(job.ready_timeout or self._settings.ready_timeout)
        while True:
            run = self.life.run
            assert run is not None
            fault = self.health.await_ready(run, job.ready_timeout)
            if fault is None or not self._may_have_its_port(run, job, deadline):
                break
            log.warning("the port was taken while the service started; it is started again", service=self.life.name)
            self.life.end(run, planned=False)
            if (cannot := self._spawn_reported(job)) is not None:
                return cannot
        if fault is None:
            self._reuses_port = self._reuses_port or not run.port_was_free
            self._serve(run, "ready")
        elif self._wake_up.ending is None:
            if run.ended.is_set():
                self.record_fall(run)
            else:
                self.fail(fault)
        return fault

    def _may_have_its_port(self, run: Run, job: Job, deadline: Deadline) -> bool:
        """True where a planned restart died because connections of the run before still had its port (TIME_WAIT), as
        they keep it from a service without SO_REUSEADDR, and where it is free now.
        """
        if not run.ended.is_set() or run.port_was_free or self._reuses_port or job.kind not in ("restart", "reload"):
            return False
        while not is_free(run.address) and not deadline.has_passed() and self._wake_up.ending is None:
            self._wake_up.pause(deadline.sooner(PORT_INTERVAL))
        return not deadline.has_passed() and self._wake_up.ending is None

    def _serve(self, run: Run, reason: str) -> Lane | None:
        """Let the gate lead to the run; returns the lane that was open before."""
        run.ready_since = time.monotonic()
        # First: whatever reads "running" finds the gate open, and no problem that is gone.
        before = self.gate.open(run.address, run.process)
        self.life.resolve(*PROBLEM_KEYS)
        self.life.enter(State.RUNNING, reason)
        return before

    # While it runs

    @property
    def _is_late(self) -> bool:
        """True while the service runs without having become ready in time."""
        return self.life.state is State.FAILED and self.life.run is not None

    def probe_ready(self, run: Run) -> None:
        was_late, fault = self._is_late, self.health.probe_ready(run)
        if was_late and fault is None:
            self._serve(run, "ready")
        elif was_late and not run.ended.is_set() and not self.restarts.is_on_trial:
            self.gate.refuse(f"the service failed: {self.life.reason}")

    def probe_live(self, run: Run) -> str | None:
        """Stop a run that hangs, behind held requests; the controller's next start brings it up again."""
        if (fault := self.health.probe_live(run)) is None:
            return None
        self.life.report(fault, "liveness", **self._last_words())
        lane = self.gate.hold(fault)
        if self._take_down(run, lane, "restart", fault, is_hung=True) is None:
            self._follow(fault, self.restarts.schedule(run.ready_seconds))
        return fault

    # Stop

    def stop(self, job: Job) -> str | None:
        if (fault := self.stopping.refusal()) is not None:
            return fault
        reason = f"stopped: {job.reason}"
        self.restarts.reset()
        self.life.resolve(*PROBLEM_KEYS)
        lane = self.gate.refuse(reason)
        self.stopping.hasten_old()
        run = self.life.run
        if run is not None and (fault := self._take_down(run, lane, "shutdown", job.reason)) is not None:
            return fault
        self.stopping.record_old_end()
        if self.life.state is not State.STOPPED:
            self.life.enter(State.STOPPED, reason)
        return None

    def _take_down(self, run: Run, lane: Lane | None, going: str, reason: str, *, is_hung: bool = False) -> str | None:
        """Drain and stop the run that counts; one that does not end leaves the service failed."""
        run.lane = lane
        if (fault := self.stopping.take_down(run, going, reason, is_hung=is_hung)) is not None:
            self.fail(fault)
        return fault

    def cut_off(self) -> None:
        """Kill the run that counts."""
        if (run := self.life.run) is None:
            return
        with contextlib.suppress(Refusal):
            run.process.begin_stop(signal.SIGKILL, 0.0)
            run.process.await_stop()
        if run.ended.is_set():
            self.life.end(run, planned=False)
        self.life.run = None  # whatever has become of it

    # Restart

    def restart(self, job: Job) -> str | None:
        if (fault := self.stopping.refusal()) is not None:
            return fault
        self.life.count_restart("planned")
        self.restarts.reset()
        run = self.life.run
        if self.overlaps and run is not None and self.life.state is State.RUNNING:
            return self._overlap(job, run)
        if run is not None:
            self.life.is_restarting = True
            lane = self.gate.hold(f"the service restarts: {job.reason}")
            if (fault := self._take_down(run, lane, "restart", job.reason)) is not None:
                return fault
        return ENDING if self._wake_up.ending is not None else self._bring_up(job)

    def _overlap(self, job: Job, old: Run) -> str | None:
        """Bring a second run up beside the first; only when it is ready does the gate lead there."""
        if (fault := self._await_old(old)) is not None:
            return fault
        try:
            new = self._launcher.launch(self.life, self.gate.lose, beside=True)
        except CannotStart as error:
            return self._keep_serving(error.public)
        job.has_started_run = True
        self.life.announce_next(new, job.reason)
        began = time.monotonic()
        if (fault := self.health.await_ready(new, job.ready_timeout)) is not None:
            self.life.give_up_next(fault)
            self._dismiss(new, old)
            return self._keep_serving(fault)
        self.life.begin(new)
        self._launcher.take_over(new.process)
        seconds = time.monotonic() - began
        old.lane = self._serve(new, f"the next run, ready after {seconds:.1f} s, took over: {job.reason}")
        self.life.old = old
        self.stopping.retire(old)
        return None

    def _await_old(self, serving: Run) -> str | None:
        """Wait for the end of an earlier old run, since only one drains at a time; what keeps the next from coming."""
        if (old := self.life.old) is None:
            return None
        self._wake_up.until(lambda: old.is_gone or serving.ended.is_set())
        if (fault := self._wake_up.interruption(serving)) is None:
            self.stopping.record_old_end()
        return fault

    def _dismiss(self, new: Run, old: Run) -> None:
        """End a run that never served. While everything ends, or the run that serves has, it does not get its time."""
        self.stopping.retire(new)
        self._wake_up.until(lambda: new.is_gone or old.ended.is_set())
        if not new.ended.wait(UNUSED_STOP_TIMEOUT):
            new.begin_stop(signal.SIGKILL, 0.0)

    def _keep_serving(self, fault: str) -> str:
        fault = f"the restart failed, the earlier run goes on: {fault}"
        if not self.restarts.is_on_trial:
            self.life.report(fault)
        return fault

    # Reload

    def reload(self, job: Job) -> str | None:
        reload, run = job.reload or self._reload, self.life.run
        if reload is None or run is None:
            return self.restart(job)
        self.gate.doubt_kept()
        fault = self._wake_up.in_background(run, lambda: reload(run.process, run.address))
        self.gate.doubt_kept()  # again: it may have taken long
        fault = fault or self._await_served(run, job)
        if fault is None:
            self.life.resolve("")
            return None
        fault = f"the reload failed: {fault}"
        if run.ended.is_set():
            self.record_fall(run)
        elif not self.restarts.is_on_trial:
            self.life.report(fault)
        return fault

    def pass_barrier(self, job: Job) -> str | None:
        """Start a service that is down, and wait until one that runs is ready, so that the caller of the job can act.

        One that is late and still answers is not waited for: what the caller does may be what it lacks.
        """
        run = self.life.run
        if run is None:
            return self.restart(job)
        self.gate.doubt_kept()
        return None if self._is_late and self.health.answers(run) else self._await_served(run, job)

    def _await_served(self, run: Run, job: Job) -> str | None:
        """Wait until the run is ready; one that was late is served from then on."""
        fault = self.health.await_ready(run, job.ready_timeout)
        if fault is None and self._is_late:
            self._serve(run, "ready")
        return fault

    # When it goes wrong

    def fail(self, fault: str, **details: Any) -> None:
        """The service is not as it should be, whether it runs or not; on trial, requests wait for it to be mended."""
        self.life.report(fault, **details)
        if self.restarts.is_on_trial:
            self.gate.hold(f"the service is being mended: {fault}")
        else:
            self.gate.refuse(f"the service failed: {fault}")
        if self.life.state is not State.FAILED:
            self.life.enter(State.FAILED, fault)

    def record_fall(self, run: Run) -> None:
        """The run that counts ended, and that was not asked for."""
        self.life.end(run, planned=False)
        details = self._last_words()
        if self._launcher.has_lost_port(run):
            fault = f"{run.fault}: another process has its port, {run.address}; it is started with another port"
            self._follow(fault, self.restarts.schedule(run.ready_seconds), **details)
        else:
            self._fall(run.fault, run.process.exit_status, run.ready_seconds, **details)

    def _last_words(self) -> dict[str, list[str]]:
        """The last output as a detail of a problem; none where it is not kept."""
        lines = self._launcher.last_lines()
        return {"output": lines} if lines else {}

    def _fall(self, fault: str, exit_status: int, ready_seconds: float, **details: Any) -> None:
        self._follow(fault, self.restarts.record_exit(exit_status, ready_seconds), **details)

    def decide(self, exit_status: int) -> None:
        """Let the policy decide on an exit with this status, now that the trial in which it fell is over."""
        self._fall(self.life.reason, exit_status, 0.0)

    def _follow(self, fault: str, pause: float | None, **details: Any) -> None:
        """Go on as the restart policy says: start again after a pause, or not."""
        if pause is None:
            self.fail(fault, **details)
            return
        self.life.report(fault, **details)
        self.gate.hold(f"{fault} and is started again")
        self.life.enter(State.BACKOFF, f"{fault}; next start in {pause:.1f} s")

    def wreck(self, fault: str) -> None:
        """A fault of the wrapper's in the middle of something: nothing is sure, so end the run; the policy decides."""
        self.cut_off()
        self._fall(fault, self.life.last_end[0], 0.0)

    # The end

    def end(self) -> tuple[int, bool]:
        """Drain, pass the signal on, wait: the end of the service's life.

        Returns its exit status, and whether the end was planned.
        """
        assert self._wake_up.ending is not None
        lane = self.gate.refuse(ENDING)
        self.stopping.hasten_old()
        run, reason = self.life.run, f"signal {signal_name(self._wake_up.ending)}"
        if run is not None and run.ended.is_set():
            self.life.end(run, planned=False)
        elif run is not None and self._take_down(run, lane, "shutdown", reason) is not None:
            return KILLED, True  # as the kernel will, once the wrapper has ended
        exit_status, was_planned = self.life.last_end
        self.stopping.record_old_end()
        if self.life.state is State.STOPPING:
            self.life.enter(State.STOPPED, reason)
        return exit_status, was_planned
