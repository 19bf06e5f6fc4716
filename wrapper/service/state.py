"""What is known of one service: its state, its runs, what happened to it; and how a run of it leaves."""

from __future__ import annotations

import contextlib
import enum
import signal
import threading
import time

from wrapper import threads
from wrapper.deadline import Deadline
from wrapper.errors import Refusal
from wrapper.log import log, timestamp
from wrapper.service import procfs
from wrapper.service.jobs import JobQueue
from wrapper.service.process import KILL_TIMEOUT, Process
from wrapper.settings.values import signal_name
from wrapper.sockets import is_free

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.events import Feed
    from wrapper.gate import Gate, Lane
    from wrapper.problems import Board
    from wrapper.settings.address import Address
    from wrapper.settings.settings import Settings


MAIN = "service"  # the name of the service that the container is about
ENDING = "the wrapper is shutting down"
STOP_TIMEOUT = 30.0  # seconds from the stop signal to SIGKILL, in a planned stop or restart
LAST_STOP_TIMEOUT = 6.0  # the same at the container's end: with --drain-timeout it fits into docker stop's 10 s
HUNG_STOP_TIMEOUT = 2.0  # the same for a service that hangs, while requests are held
FOREGROUND = "as nginx is with -g 'daemon off;'"
LAST_BYTES_TIMEOUT = 2.0  # seconds for the last of its responses to reach clients, at the container's end


class State(enum.Enum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


# Every transition there is. FAILED -> RUNNING: a service that missed --ready-timeout became ready after all.
# DRAINING and STOPPING -> BACKOFF and FAILED: a fault of ours on the way.
# RUNNING -> RUNNING: in a restart that overlaps, the next run took over.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.RUNNING, State.STOPPING, State.BACKOFF, State.FAILED}),
    State.RUNNING: frozenset({State.RUNNING, State.DRAINING, State.BACKOFF, State.FAILED}),
    State.DRAINING: frozenset({State.STOPPING, State.BACKOFF, State.FAILED}),
    State.STOPPING: frozenset({State.STOPPED, State.STARTING, State.BACKOFF, State.FAILED}),
    State.BACKOFF: frozenset({State.STARTING, State.STOPPED}),
    State.FAILED: frozenset({State.STARTING, State.RUNNING, State.STOPPING, State.STOPPED, State.BACKOFF}),
}

HALFWAY = frozenset({State.STARTING, State.DRAINING, State.STOPPING})  # where no action may leave the service


class Run:
    """One run: its process, where it listens, its lane once the gate leads elsewhere; `ready_since` is monotonic.

    `other_addresses`: where it may listen as well, while it is not ready yet. `port_was_free`: before the spawn, for
    any service.
    """

    def __init__(self, process: Process, address: Address, title: str, other_addresses: tuple[Address, ...] = (), *,
                 port_was_free: bool = True) -> None:
        self.process = process
        self.ended = process.ended
        self.address = address
        self.other_addresses = other_addresses
        self.port_was_free = port_was_free
        self._title = title
        self._memory_kills = procfs.memory_kills()
        self.lane: Lane | None = None
        self.ready_since: float | None = None
        self.was_stopped = False  # its end was asked for
        self.is_immortal = False  # it did not end, and nothing more can be done about it

    @property
    def is_gone(self) -> bool:
        """True where nothing more comes of waiting for its end."""
        return self.ended.is_set() or self.is_immortal

    @property
    def ready_seconds(self) -> float:
        return 0.0 if self.ready_since is None else time.monotonic() - self.ready_since

    @property
    def fault(self) -> str:
        """What went wrong, of a run that ended and was not asked to."""
        fault = f"{self._title} ended by itself with status {self.process.exit_status}"
        if not self.process.exit_status and (what := self._background):
            fault += f"; what it had put into the background {what}: run it in the foreground, {FOREGROUND}"
        if procfs.memory_kills() > self._memory_kills:
            fault += ": the kernel killed a process of this container because its memory was used up"
        return fault

    @property
    def _background(self) -> str:
        """What became of processes that outlived the first; "" where there are none that can be seen.

        An orphan comes to PID 1, which may not be us: then only the port tells of it.
        """
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
        self.was_stopped = self.was_stopped or not self.process.has_fallen()
        try:
            self.process.begin_stop(number, timeout)
            return None
        except Refusal as error:
            return error.message

    def stop(self, number: int, timeout: float) -> str | None:
        """Send the stop signal and wait for the end, after `timeout` seconds with SIGKILL; what went wrong."""
        if (fault := self.begin_stop(number, timeout)) is not None:
            return fault
        try:
            if not self.process.await_stop():
                is_rest = self.ended.is_set() and self.process.exit_signal != signal.SIGKILL
                log.warning(f"{'what was left by ' if is_rest else ''}{self._title} did not end in time and was killed",
                            pid=self.process.pid, signal=signal_name(number))
        except Refusal as error:
            return error.message
        return None if self.ended.is_set() else \
            f"{self._title} does not end, not even with SIGKILL (pid {self.process.pid})"

    def cut(self, gate: Gate, deadline: Deadline) -> None:
        """Once the process is gone: let what it has answered reach its clients, and break the rest."""
        if self.lane is not None:
            gate.await_empty(self.lane, deadline)
            gate.cut(self.lane)


class WakeUp(threading.Event):
    """The wake-up event of one controller's thread, and the waits that end with a run or with the wrapper.

    Any thread sets it where something may be due. What that is, the controller's thread reads off the record: so late
    news of an earlier run changes nothing, and news that comes while it waits for something else is not lost.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.ending: int | None = None  # the signal to end the service with, once the wrapper shuts down
        self._name = name

    def pause(self, seconds: float | None) -> None:
        """Wait for a wake-up, `seconds` at most."""
        self.wait(seconds)
        self.clear()

    def until(self, is_enough: Callable[[], bool]) -> None:
        """Wait until something is so, or the wrapper shuts down."""
        while not is_enough() and self.ending is None:
            self.pause(None)

    def interruption(self, run: Run) -> str | None:
        """Why nothing more can be done with the run, None where it can."""
        if run.ended.is_set():
            return run.process.fault
        return None if self.ending is None else ENDING

    def in_background(self, run: Run, work: Callable[[], str | None]) -> str | None:
        """What `work` says went wrong. It may take long; once the run or the wrapper ends, it is left alone."""
        faults: list[str | None] = []

        def do() -> None:
            try:
                faults.append(work())
            except Exception as error:  # noqa: BLE001  the controller waits for it
                faults.append(f"internal error {error!r}")
            self.set()

        threads.start_or_do(f"background-{self._name}", do)
        self.until(lambda: bool(faults) or run.ended.is_set())
        return faults[0] if faults else self.interruption(run)


class Life:
    """The record of one service, which its controller's thread writes and all threads read.

    `run` is the run that counts, `old` the one before it, where that still leaves.
    """

    def __init__(self, name: str, feed: Feed, board: Board) -> None:
        self.name = name
        self.title = "the service" if name == MAIN else f"the helper {name}"
        self.jobs = JobQueue()
        self.wake_up = WakeUp(name)
        self._feed = feed
        self._board = board
        self.run: Run | None = None
        self.old: Run | None = None
        # Guards what follows and the run that counts, so that a reader never sees half a transition.
        self._lock = threading.Lock()
        self.state = State.STOPPED
        self._since = time.time()
        self.reason = "not started yet"
        self._last_exit: dict[str, Any] | None = None
        self._exits: dict[int, int] = {}
        self._restarts: dict[str, int] = {}
        self._crashes = 0
        self._last_crash: dict[str, Any] | None = None
        self._next: dict[str, Any] | None = None  # the run that is started beside the one that counts
        self.generation = 0  # the number of the latest run; 0 before the first start
        self.unready: str | None = None  # why a running service is not ready at the moment
        self.is_restarting = False  # as planned, behind held requests

    @property
    def last_end(self) -> tuple[int, bool]:
        """The exit status of the run that ended last, 0 before the first end; and whether it was meant to end."""
        return (self._last_exit["status"], self._last_exit["planned"]) if self._last_exit else (0, False)

    def report(self, fault: str, key: str = "", **details: Any) -> None:
        """Put a problem of the service on the board."""
        self._board.report(self.name, fault, key, **details)

    def resolve(self, *keys: str) -> None:
        """Take problems of the service off the board."""
        for key in keys:
            self._board.resolve(self.name, key)

    def enter(self, state: State, reason: str) -> None:
        """The one place where the state changes."""
        if state not in HALFWAY:
            self.jobs.settle()  # before the state can be seen
        with self._lock:
            before = self.state
            assert state in TRANSITIONS[before], f"no transition from {before.value} to {state.value}"
            self.state, self._since, self.reason, self.unready = state, time.time(), reason, None
        log.info(f"{before.value} -> {state.value}", service=self.name, reason=reason)
        self._feed.publish("state", service=self.name, state=state.value, before=before.value, reason=reason)

    def begin(self, run: Run) -> None:
        """Make `run` the one that counts."""
        with self._lock:
            self.run, self._next = run, None
            self.generation += 1

    def announce_next(self, run: Run, reason: str) -> None:
        """The next run is started beside the one that counts, until it begins or is given up."""
        pid = run.process.pid
        with self._lock:
            self._next = {"pid": pid, "since": timestamp()}
        log.info("starting the next run", service=self.name, pid=pid, reason=reason)
        self._feed.publish("next", service=self.name, step="starting", pid=pid, reason=reason)

    def give_up_next(self, fault: str) -> None:
        with self._lock:
            self._next = None
        self._feed.publish("next", service=self.name, step="failed", reason=fault)

    def end(self, run: Run, *, planned: bool) -> None:
        """A run ended, and none counts any more where it did; `planned` says whether that was asked for."""
        process = run.process
        status, number = process.exit_status, process.exit_signal
        last_exit = {"status": status, "signal": None if number is None else signal_name(number),
                     "planned": planned, "at": timestamp()}
        with self._lock:
            self._last_exit = last_exit
            self._exits[status] = self._exits.get(status, 0) + 1
            if not planned:
                self._crashes, self._last_crash = self._crashes + 1, last_exit
            if self.run is run:
                self.run = None
        (log.info if planned else log.warning)(f"{self.title} ended", service=self.name, pid=process.pid,
                                               status=status, planned=planned)
        self._feed.publish("exit", service=self.name, **{**last_exit, "pid": process.pid})

    def count_restart(self, cause: str) -> None:
        """`cause` is "planned" or "exit": a small set, because it labels a metric."""
        with self._lock:
            self._restarts[cause] = self._restarts.get(cause, 0) + 1

    def counts(self) -> tuple[dict[str, int], dict[int, int]]:
        """Restarts by cause, and ends by exit status."""
        with self._lock:
            return dict(self._restarts), dict(self._exits)

    @property
    def pids(self) -> list[int]:
        """The first process of the run that counts, and of the next run beside it."""
        with self._lock:
            return [pid for pid in (self._pid, self._next and self._next["pid"]) if pid]

    @property
    def _pid(self) -> int | None:
        run = self.run
        return None if run is None else run.process.pid

    def snapshot(self) -> dict[str, Any]:
        with self._lock:
            return {"state": self.state.value, "since": timestamp(self._since), "reason": self.reason,
                    "ready": self.state is State.RUNNING and self.unready is None,
                    "pid": self._pid, "generation": self.generation,
                    "restarts": sum(self._restarts.values()), "last_exit": self._last_exit,
                    "restarts_planned": self._restarts.get("planned", 0), "crashes": self._crashes,
                    "last_crash": self._last_crash, "next_run": self._next}


class Stopping:
    """How the runs of one service leave: the one that counts, and the old one beside it."""

    def __init__(self, life: Life, gate: Gate, settings: Settings, stop_signal: int) -> None:
        self._life = life
        self._wake_up = life.wake_up
        self._gate = gate
        self._settings = settings
        self._stop_signal = stop_signal

    def refusal(self) -> str | None:
        """Why the run that counts can be neither stopped nor restarted, None where it can; it goes on as it is."""
        run = self._life.run
        fault = None if run is None else run.process.refusal()
        return None if fault is None else self._report(fault)

    def _report(self, fault: str) -> str:
        log.error(fault, service=self._life.name)
        self._life.report(fault, "signal")
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
        self._life.end(run, planned=run.was_stopped)
        if self._wake_up.ending is None:
            threads.start_or_do(f"cut-{run.process.pid}", lambda: run.cut(self._gate, deadline))
        else:
            run.cut(self._gate, Deadline(deadline.sooner(LAST_BYTES_TIMEOUT)))
        return None

    @property
    def _timeout(self) -> float:
        return stop_timeout(self._settings, is_last=self._wake_up.ending is not None)

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
            old.stop(self._number, stop_timeout(self._settings, is_last=True) + left)

        if (old := self._life.old) is not None:
            threads.start_or_do(f"hasten-{old.process.pid}", lambda: hasten(old))

    def record_old_end(self) -> None:
        """Wait for the old run, where there is one, and put its end on record."""
        if (old := self._life.old) is not None:
            if old.ended.wait(self._settings.drain_timeout + self._timeout + KILL_TIMEOUT):
                self._life.end(old, planned=old.was_stopped)
            self._life.old = None

    def hear_signal(self, number: int) -> None:
        """Note that the wrapper shuts down: a run that is being stopped has no more time than at the end.

        A second signal ends the drain and is passed on at once. Any thread may call it.
        """
        is_second, self._wake_up.ending = self._wake_up.ending is not None, self._wake_up.ending or number
        if is_second:
            self._gate.hurry()
        for each in filter(None, (self._life.run, self._life.old)):
            was_stopping = each.process.is_stopping
            if is_second or was_stopping:
                each.begin_stop(number, stop_timeout(self._settings, is_last=True))
            if is_second and was_stopping:
                with contextlib.suppress(Refusal):
                    each.process.signal(number)
        self._wake_up.set()


def stop_timeout(settings: Settings, *, is_last: bool) -> float:
    """Seconds from the stop signal to SIGKILL; the last stop is that at the container's end."""
    if settings.stop_timeout is not None:
        return settings.stop_timeout
    return LAST_STOP_TIMEOUT if is_last else STOP_TIMEOUT
