"""What is asked of a run: is it ready, still ready, alive; and to read its configuration again, where it can.

A TCP connection, an HTTP path that answers as it should, a signal. Reads no more than a status line, so it needs no
HTTP client; `http.client` would cost the start 20 ms.
"""

from __future__ import annotations

import time
from functools import partial

from wrapper import sockets
from wrapper.deadline import Deadline
from wrapper.errors import Refusal
from wrapper.service.process import NEVER, NOW
from wrapper.service.state import ENDING, State
from wrapper.settings import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Callable

    from wrapper.service.jobs import ReloadAction
    from wrapper.service.process import Process
    from wrapper.service.state import Life, Run
    from wrapper.settings.address import Address
    from wrapper.settings.settings import Settings

FIRST_INTERVAL, LONGEST_INTERVAL = 0.010, 0.250  # seconds between two probes until it is ready
REFUSED_INTERVAL = 0.025  # the longest while nothing listens: that costs the service nothing, and clients wait for it
READY_INTERVAL = 10.0  # seconds between two probes of a service that is ready, as kubelet's default
LATE_INTERVAL = 1.0  # the same for one that is not
READY_FAILURES = 3  # probes in a row that fail, but for a refused connection
SILENCE = 5.0  # seconds after which it is said where the service listens instead
NOTHING_LISTENS, NOTHING_ANSWERS = "nothing listens", "nothing answers"
CANNOT_ASK = "cannot ask"  # for want of something of ours, which says nothing of the service
NOT_READY = "not ready"
PROBE_TIMEOUT = 2.0  # seconds one probe may take; a service that accepts and stays silent is not ready
SIGNAL_SETTLE = 0.5  # seconds; a default action ends a process at once, a handler takes a little longer
RELOAD_TIMEOUT = 30.0  # seconds the service may take to answer the call
LONGEST_HEAD = 4096  # bytes within which a status line, or a head that is skipped, must end
SWITCHING_PROTOCOLS = 101  # final, although it is a 1xx


class Probe:
    """How readiness is judged: `path` None means that a connection is enough; `statuses` are (first, last) pairs."""

    def __init__(self, path: str | None, statuses: tuple[tuple[int, int], ...]) -> None:
        self._path = path
        self._statuses = statuses

    def fault(self, address: Address) -> str | None:
        """None where the service at `address` is ready now, else what is missing."""
        try:
            with sockets.connect(address, PROBE_TIMEOUT) as connection:
                if self._path is None:
                    return None
                status = status_of(connection, "GET", self._path, address, PROBE_TIMEOUT)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            return f"{NOTHING_LISTENS} at {address}: {error.strerror or error}"
        except (OSError, ValueError) as error:
            is_ours = getattr(error, "errno", None) in sockets.SHORT
            return f"{CANNOT_ASK if is_ours else NOTHING_ANSWERS} at {address}: {error}"
        is_good = any(first <= status <= last for first, last in self._statuses)
        return None if is_good else f"{self._path} answers {status}, which is none of --ready-status"

    def fault_of(self, run: Run) -> str | None:
        """`fault` at the run's address and its `other_addresses`; the one where it is ready becomes its address."""
        faults = []
        for address in (run.address, *run.other_addresses):
            if (fault := self.fault(address)) is None:
                run.address, run.other_addresses = address, ()
                return None
            faults.append(fault)
        return next((fault for fault in faults if not fault.startswith(NOTHING_LISTENS)), faults[0])

    def await_ready(self, run: Run, timeout: float, is_over: Callable[[], bool],
                    on_silence: Callable[[str], None] = lambda _: None) -> str | None:
        """None once the run is ready; ends at once when its process does, and soon when the wrapper `is_over`.

        `on_silence` is called once, with the fault, where it takes `SILENCE` seconds.
        """
        deadline, silence, pause = Deadline(timeout), Deadline(SILENCE), FIRST_INTERVAL
        while not is_over():
            fault = self.fault_of(run)
            if run.ended.is_set():
                return run.process.fault
            if fault is None:
                return None
            if deadline.has_passed():
                return f"{NOT_READY} within {timeout:g} s: {fault}"
            if silence.has_passed():
                silence = Deadline(None)
                on_silence(fault)
            run.ended.wait(deadline.sooner(pause))
            longest = REFUSED_INTERVAL if fault.startswith(NOTHING_LISTENS) else LONGEST_INTERVAL
            pause = min(pause * 1.5, longest)
        return ENDING


class Health:
    """What the controller's thread asks of the run that counts. `live_path` None: readiness only.

    `next_ready` and `next_live`: when it is to be asked again.
    """

    def __init__(self, life: Life, ready: Probe, live_path: str | None, settings: Settings) -> None:
        self.ready = ready
        self._live = None if live_path is None else Probe(live_path, settings.ready_status)
        self._life = life
        self._settings = settings
        self.next_ready = self.next_live = NEVER
        self._failed_ready = self._failed_live = 0  # probes in a row

    def await_ready(self, run: Run, timeout: float | None) -> str | None:
        """What keeps the run from being ready within `timeout` seconds, or --ready-timeout; None where nothing does."""
        timeout = timeout or self._settings.ready_timeout
        fault = self._life.wake_up.in_background(run, partial(self._await_or_tell, run, timeout))
        self._failed_ready = self._failed_live = 0
        self._plan_ready(fault)
        self._plan_live()
        return fault

    def _plan_ready(self, fault: str | None) -> None:
        self.next_ready = time.monotonic() + (READY_INTERVAL if fault is None else LATE_INTERVAL)

    def _plan_live(self) -> None:
        if self._live is not None:
            self.next_live = time.monotonic() + self._settings.live_interval

    def _await_or_tell(self, run: Run, timeout: float) -> str | None:
        fault = self.ready.await_ready(run, timeout, lambda: self._life.wake_up.ending is not None,
                                       lambda fault: self._tell_where(run, fault))
        is_elsewhere = fault is not None and fault.startswith(NOT_READY) and NOTHING_LISTENS in fault
        return f"{fault}; {_where(run)}" if is_elsewhere else fault

    def _tell_where(self, run: Run, fault: str) -> None:
        self._life.report(f"the service is not ready: {fault}; {_where(run)}", "listening")

    def doubt(self) -> None:
        """Probe the run now: a connection to it was refused. Any thread may call it."""
        self.next_ready = NOW
        self._life.wake_up.set()

    def probe_ready(self, run: Run) -> str | None:
        """Probe it, and put on record what that says of a service that was ready.

        A refused connection counts at once, a slow or wrong response the third time in a row.
        """
        fault = self._life.wake_up.in_background(run, lambda: self.ready.fault_of(run))
        self._plan_ready(fault)
        self._failed_ready = _count(self._failed_ready, fault)
        if self._life.state is not State.RUNNING or run.ended.is_set():
            return fault
        # The board first: whatever sees that the service is ready, or is not, finds the problem gone, or there.
        if fault is None:
            self._life.resolve("readiness")
            self._life.unready = None
        elif fault.startswith(NOTHING_LISTENS) or self._failed_ready >= READY_FAILURES:
            self._life.report(f"the service is not ready any more: {fault}", "readiness")
            self._life.unready = fault
        return fault

    def answers(self, run: Run) -> bool:
        """True where the run says something now, and if it is that it is not ready."""
        wake_up = self._life.wake_up
        fault = wake_up.in_background(run, lambda: self.ready.fault_of(run)) or ""
        no_answers = (NOTHING_LISTENS, NOTHING_ANSWERS, CANNOT_ASK)
        return wake_up.interruption(run) is None and not fault.startswith(no_answers)

    def probe_live(self, run: Run) -> str | None:
        """Why the run hangs, None while it does not."""
        live, wake_up = self._live, self._life.wake_up
        assert live is not None
        fault = wake_up.in_background(run, lambda: live.fault(run.address))
        self._plan_live()
        self._failed_live = _count(self._failed_live, fault)
        is_hung = self._failed_live >= self._settings.live_failures and wake_up.interruption(run) is None
        return f"the service hangs: {fault}" if is_hung else None


def _count(failed: int, fault: str | None) -> int:
    """How many probes have failed in a row behind one more."""
    if fault is None:
        return 0
    return failed if fault.startswith(CANNOT_ASK) else failed + 1


def _where(run: Run) -> str:
    """Where the run listens instead, as the end of a sentence that says where it does not."""
    found = run.process.listening()
    if not found:
        return "it listens nowhere; --ready-timeout gives it more time"
    return f"it listens at {', '.join(map(str, found))}; name that with --upstream, or move it with {{port}}"


def status_of(connection: socket.socket, method: str, path: str, address: Address, timeout: float) -> int:
    """The status of one request without a body.

    Raises: OSError, ValueError when what comes is no HTTP status line (RFC 9112 section 4)."""
    host = "localhost" if address.is_unix else str(address)
    length = "" if method == "GET" else "Content-Length: 0\r\n"  # RFC 9110 section 8.6
    connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: wrapper\r\n"
                       f"{length}Connection: close\r\n\r\n".encode("ascii"))
    deadline = Deadline(timeout)
    head = b""
    while True:
        head = _read_to(b"\n", head, connection, deadline)
        words = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if not words[0].startswith(b"HTTP/1.") or len(words) < 2 or not words[1].isdigit():
            raise ValueError("what answers is not HTTP")
        status = int(words[1])
        if not 100 <= status < 200 or status == SWITCHING_PROTOCOLS:
            return status
        # The final response is still to come (RFC 9110 section 15.2).
        head = _read_to(b"\r\n\r\n", head, connection, deadline).partition(b"\r\n\r\n")[2]


def _read_to(mark: bytes, head: bytes, connection: socket.socket, deadline: Deadline) -> bytes:
    """`head` and what comes, until the mark is in it or no more may come."""
    while mark not in head and len(head) < LONGEST_HEAD and not deadline.has_passed():
        piece = connection.recv(LONGEST_HEAD)
        if not piece:
            break
        head += piece
    return head


def reload_action(action: str) -> ReloadAction | None:
    """The way that --reload names; None: a reload is a restart."""
    kind, how = values.action_parts(action)
    if kind == "restart":
        return None
    if kind == "none":
        return lambda *_: None
    return reload_by_signal(how, SIGNAL_SETTLE) if kind == "signal" else reload_by_call(kind, how)


def reload_by_signal(number: int, settle: float = 0.0) -> ReloadAction:
    """A signal has no response: a service that does not live on for `settle` seconds was ended by it."""

    def send(process: Process, _: Address) -> str | None:
        try:
            process.signal(number)
        except Refusal as error:
            return error.message
        return process.fault if process.ended.wait(settle) else None

    return send


def reload_by_call(method: str, path: str) -> ReloadAction:
    """A request to the service; anything but a 2xx is a fault."""
    what = f"{method} {path.partition('?')[0]}"  # a query may hold a token

    def call(_: Process, address: Address) -> str | None:
        try:
            with sockets.connect(address, RELOAD_TIMEOUT) as connection:
                status = status_of(connection, method, path, address, RELOAD_TIMEOUT)
        except (OSError, ValueError) as error:
            return f"{what}: {error}"
        return None if 200 <= status < 300 else f"{what} answers {status}"

    return call
