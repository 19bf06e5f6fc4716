"""Is the service ready? A TCP connection, or an HTTP path that answers as it should.

Reads no more than a status line, so it needs no HTTP client; `http.client` would cost the start 20 ms.
"""

from __future__ import annotations

import errno
import socket

from wrapper import sockets
from wrapper.address import LOOPBACK
from wrapper.deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.address import Address
    from wrapper.problems import Board
    from wrapper.service.run import Run

FIRST_LOOK, LONGEST_LOOK = 0.010, 0.250  # seconds between two looks
SILENCE = 5.0  # seconds after which it is said where the service listens instead
NOTHING_LISTENS = "nothing listens"
PROBE_TIMEOUT = 2.0  # seconds one look may take; a service that accepts and stays silent is not ready
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
                return self._judge(status_of(connection, "GET", self._path, address, PROBE_TIMEOUT))
        except (ConnectionRefusedError, FileNotFoundError) as error:
            return f"{NOTHING_LISTENS} at {address}: {error}"
        except (OSError, ValueError) as error:
            return f"nothing answers at {address}: {error}"

    def fault_of(self, run: Run) -> str | None:
        """The same of a run, at any loopback address where its port is its own; that becomes the run's address."""
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
        deadline, silence, pause = Deadline(timeout), Deadline(SILENCE), FIRST_LOOK
        while not is_over():
            fault = self.fault_of(run)
            if run.has_ended:
                return run.process.fault
            if fault is None:
                return None
            if deadline.has_passed():
                return f"not ready within {timeout:g} s: {fault}"
            if silence.has_passed():
                silence = Deadline(None)
                on_silence(fault)
            run.process.ended.wait(deadline.sooner(pause))
            pause = min(pause * 1.5, LONGEST_LOOK)
        return "the wrapper is shutting down"

    def _judge(self, status: int) -> str | None:
        if any(first <= status <= last for first, last in self._statuses):
            return None
        return f"{self._path} answers {status}"


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
        # The answer is still to come (RFC 9110 section 15.2).
        head = _read_to(b"\r\n\r\n", head, connection, deadline).partition(b"\r\n\r\n")[2]


def _read_to(mark: bytes, head: bytes, connection: socket.socket, deadline: Deadline) -> bytes:
    """`head` and what comes, until the mark is in it or no more may come."""
    while mark not in head and len(head) < LONGEST_HEAD and not deadline.has_passed():
        piece = connection.recv(LONGEST_HEAD)
        if not piece:
            break
        head += piece
    return head


def report_squatter(address: Address, board: Board, source: str) -> None:
    """A leftover that kept the port would be taken for the new run, and answer as the old version."""
    if is_taken(address):
        board.report(source, f"something else answers at {address} already", "address")
    else:
        board.resolve(source, "address")


def is_taken(address: Address) -> bool:
    """True where something accepts connections at `address` already."""
    try:
        sockets.connect(address, PROBE_TIMEOUT).close()
    except OSError:
        return False
    return True


def is_free(address: Address, *, closed: bool = False) -> bool:
    """True where a service can bind its port. `closed`: connections that were closed a moment ago (TIME_WAIT) do not
    count, as for a service with SO_REUSEADDR.
    """
    if address.is_unix:
        return True
    host = LOOPBACK if address.host in ("", "localhost") else address.host
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(closed))
            attempt.bind((host, address.port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True
