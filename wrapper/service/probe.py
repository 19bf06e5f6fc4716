"""Is the service ready? A TCP connection, or an HTTP path that answers as it should.

Reads no more than a status line, so it needs no HTTP client; `http.client` would cost the start 20 ms.
"""

from __future__ import annotations

from wrapper import sockets
from wrapper.deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Callable

    from wrapper.address import Address
    from wrapper.problems import Board
    from wrapper.service.process import Process

FIRST_LOOK, LONGEST_LOOK = 0.010, 0.250  # seconds between two looks
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
        except (OSError, ValueError) as error:
            return f"nothing answers at {address}: {error}"

    def await_ready(self, process: Process, address: Address, timeout: float,
                    is_over: Callable[[], bool]) -> str | None:
        """None once the service is ready; ends at once when the process does, and soon when the wrapper `is_over`."""
        deadline, pause = Deadline(timeout), FIRST_LOOK
        while not is_over():
            fault = self.fault(address)
            if process.ended.is_set():
                return process.fault
            if fault is None:
                return None
            if deadline.has_passed():
                return f"not ready within {timeout:g} s: {fault}"
            process.ended.wait(deadline.sooner(pause))
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
