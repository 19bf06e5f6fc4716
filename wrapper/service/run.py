"""One run of the service: its process, where it listens, its lane in the gate, and how it leaves."""

from __future__ import annotations

import time

from wrapper.deadline import Deadline
from wrapper.log import log
from wrapper.service import procfs
from wrapper.service.process import cannot_signal
from wrapper.values import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.address import Address
    from wrapper.gate import Gate, Lane
    from wrapper.service.process import Process


class Run:
    """`lane` is its lane once the gate leads elsewhere, `ready_since` on the monotonic clock."""

    def __init__(self, process: Process, address: Address) -> None:
        self.process = process
        self.address = address
        self.other_addresses: tuple[Address, ...] = ()  # where it may listen as well, while it is not ready yet
        self.port_was_free = True  # before the spawn, for any service
        self._memory_kills = procfs.memory_kills()
        self.lane: Lane | None = None
        self.ready_since: float | None = None
        self.was_stopped = False  # its end was asked for

    @property
    def has_ended(self) -> bool:
        return self.process.ended.is_set()

    @property
    def ready_seconds(self) -> float:
        return 0.0 if self.ready_since is None else time.monotonic() - self.ready_since

    @property
    def fault(self) -> str:
        """Its end as what went wrong, where that was not asked for."""
        fault = f"the service ended by itself with status {self.process.exit_status}"
        if procfs.memory_kills() > self._memory_kills:
            fault += ": the kernel killed a process of this container because its memory was used up"
        return fault

    # It leaves: drain, then stop, then cut. What is in flight goes on for as long as the process answers it.

    def drain(self, gate: Gate, going: str, timeout: float) -> None:
        """Give what is in flight its time before the stop signal. `going`: see `Gate.warn`."""
        if self.lane is not None:
            gate.warn(self.lane, going)
            gate.await_empty(self.lane, Deadline(timeout))

    def begin_stop(self, number: int, timeout: float) -> str | None:
        """Send the stop signal, or leave less time where it was sent already; what went wrong."""
        self.was_stopped = self.was_stopped or not self.has_ended
        try:
            self.process.begin_stop(number, timeout)
            return None
        except PermissionError as error:
            return cannot_signal(error)

    def stop(self, number: int, timeout: float) -> str | None:
        """Send the stop signal and wait for the end, after `timeout` seconds with SIGKILL; what went wrong."""
        if (fault := self.begin_stop(number, timeout)) is not None:
            return fault
        if not self.process.await_stop():
            log.warning("the service did not end in time and was killed", pid=self.process.pid,
                        signal=signal_name(number))
        return None if self.has_ended else f"the service does not end, not even with SIGKILL (pid {self.process.pid})"

    def cut(self, gate: Gate, deadline: Deadline) -> None:
        """Once the process is gone: let what it has answered reach its clients, and break the rest."""
        if self.lane is not None:
            gate.await_empty(self.lane, deadline)
            gate.cut(self.lane)
