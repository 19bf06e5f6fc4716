"""The states of a service, the transitions between them, and the record of what happened to it."""

from __future__ import annotations

import enum
import threading
import time

from wrapper.log import log, timestamp
from wrapper.settings.values import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.events import Feed
    from wrapper.service.process import Process


MAIN = "service"  # the name of the service that the container is about


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


class Life:
    """What happened to one service so far. Its controller's thread writes it, all threads read it.

    `before_rest` is called before a state can be seen that is not halfway.
    """

    def __init__(self, name: str, feed: Feed) -> None:
        self._name = name
        self.title = "the service" if name == MAIN else f"the helper {name}"
        self._feed = feed
        # Guards what follows, so that a reader never sees half a transition.
        self._lock = threading.Lock()
        self._state = State.STOPPED
        self._since = time.time()
        self._reason = "not started yet"
        self._pid: int | None = None
        self._last_exit: dict[str, Any] | None = None
        self._exits: dict[int, int] = {}
        self._restarts: dict[str, int] = {}
        self._crashes = 0
        self._last_crash: dict[str, Any] | None = None
        self._next: dict[str, Any] | None = None  # the run that is started beside the one that counts
        self._generation = 0
        self.unready: str | None = None  # why a running service is not ready at the moment
        self.before_rest: Callable[[], None] = lambda: None

    @property
    def state(self) -> State:
        return self._state

    @property
    def reason(self) -> str:
        return self._reason

    @property
    def last_status(self) -> int:
        """The exit status of the run that ended last, 0 before the first end."""
        return self._last_exit["status"] if self._last_exit else 0

    @property
    def was_planned(self) -> bool:
        """True where the run that ended last was meant to end."""
        return self._last_exit is not None and self._last_exit["planned"]

    def enter(self, state: State, reason: str) -> None:
        """The one place where the state changes."""
        if state not in HALFWAY:
            self.before_rest()
        with self._lock:
            before = self._state
            assert state in TRANSITIONS[before], f"no transition from {before.value} to {state.value}"
            self._state, self._since, self._reason, self.unready = state, time.time(), reason, None
        log.info(f"{before.value} -> {state.value}", service=self._name, reason=reason)
        self._feed.publish("state", service=self._name, state=state.value, before=before.value, reason=reason)

    def begin(self, process: Process) -> None:
        """A new run is the one that counts from now on."""
        with self._lock:
            self._pid, self._next = process.pid, None
            self._generation += 1

    def announce_next(self, process: Process, reason: str) -> None:
        """The next run is started beside the one that counts, until it begins or is given up."""
        with self._lock:
            self._next = {"pid": process.pid, "since": timestamp()}
        log.info("starting the next run", service=self._name, pid=process.pid, reason=reason)
        self._feed.publish("next", service=self._name, step="starting", pid=process.pid, reason=reason)

    def give_up_next(self, fault: str) -> None:
        with self._lock:
            self._next = None
        self._feed.publish("next", service=self._name, step="failed", reason=fault)

    def end(self, process: Process, planned: bool) -> None:
        """A run ended; `planned` says whether that was asked for."""
        status, number = process.exit_status, process.exit_signal
        last_exit = {"status": status, "signal": None if number is None else signal_name(number),
                     "planned": planned, "at": timestamp()}
        with self._lock:
            self._last_exit = last_exit
            self._exits[status] = self._exits.get(status, 0) + 1
            if not planned:
                self._crashes, self._last_crash = self._crashes + 1, last_exit
            if self._pid == process.pid:
                self._pid = None
        (log.info if planned else log.warning)(f"{self.title} ended", service=self._name, pid=process.pid,
                                               status=status, planned=planned)
        self._feed.publish("exit", service=self._name, **{**last_exit, "pid": process.pid})

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
        """Of the run that counts, and of the next one beside it."""
        with self._lock:
            return [pid for pid in (self._pid, self._next and self._next["pid"]) if pid]

    def snapshot(self) -> dict[str, Any]:
        with self._lock:
            return {"state": self._state.value, "since": timestamp(self._since), "reason": self._reason,
                    "ready": self._state is State.RUNNING and self.unready is None,
                    "pid": self._pid, "generation": self._generation,
                    "restarts": sum(self._restarts.values()), "last_exit": self._last_exit,
                    "restarts_planned": self._restarts.get("planned", 0), "crashes": self._crashes,
                    "last_crash": self._last_crash, "next_run": self._next}
