"""One end of a connection on the loop: bytes in and out, without waiting; what waits is the task that yields.

`receive` takes what has arrived. `send` takes all it is given: what the socket has no room for is kept here, and the
task yields from `flush` before it sends more, so that nothing piles up.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import sys
import termios

from wrapper.loop.loop import NEVER, NEXT_TURN
from wrapper.loop.poller import BROKEN, Link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.loop.loop import Loop, Steps

READ_SIZE = 64 * 1024  # bytes: a whole head of the default --max-header in one call
TURN_SIZE = 1024 * 1024  # bytes that one task moves before the others have their turn
LEAVE_TIMEOUT = 0.35  # seconds a side that has ended, but may only have half-closed (`nc -N`), is given


class Gone(OSError):
    """The other side left or broke; there is nothing more to say to it."""


class ClientGone(Gone):
    """The client left, or stopped taking what we send for too long."""


class ServiceGone(Gone):
    """The service closed or broke its connection."""


class Stream:
    """One plain connection. `rest` is what was read and not used yet; `unsent` what the socket had no room for.

    `gone` is what is raised where the other side has left.
    """

    is_secure = False
    was_reset = False  # by the other side, as `send` was told: `receive` finds no more than an end then
    sockaddr: tuple[str, int] | None = None  # of the other side, where that is known and it has one

    def __init__(self, connection: socket.socket, loop: Loop, gone: type[Gone], *, is_urgent: bool = False) -> None:
        """Raises: OSError where the loop cannot watch it."""
        connection.setblocking(False)
        self.socket = connection
        self.loop = loop
        self.link = Link(loop, connection.fileno(), is_urgent=is_urgent)
        self.rest = b""
        self.unsent = b""
        self._gone = gone

    def shake_hands(self) -> bool:
        """True when bytes may flow, False while more has to come from the other side. Raises: OSError."""
        return True

    # In

    def receive(self, size: int = READ_SIZE) -> bytes | None:
        """Up to `size` bytes that have arrived; b"" at the end, None where nothing is there. Raises: `gone`."""
        try:
            return self.socket.recv(size)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._gone(str(error)) from None

    def receive_into(self, view: memoryview) -> int | None:
        """How many bytes were put into `view`; 0 at the end, None where nothing is there. Raises: `gone`."""
        try:
            return self.socket.recv_into(view)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._gone(str(error)) from None

    def has_unseen(self) -> bool:
        """True where bytes have come that the kernel does not know of any more, nor `rest` yet."""
        return False

    def watch(self, deadline: float, *sources: Any) -> Steps:
        """The source that fired, None at the deadline; this end is watched meanwhile. Raises: `gone`."""
        ended = self.link.ended
        fired = yield (deadline, *sources, ended)
        if fired is not ended:
            return fired
        if not self.link.last_event & BROKEN:
            fired = yield (min(deadline, self.loop.now + LEAVE_TIMEOUT), *sources)
            if fired is not None or self.loop.now >= deadline:
                return fired
        raise self._gone("the other side left")

    # Out

    def room(self) -> int:
        """About how many bytes the socket takes now (SIOCOUTQ of tcp(7); half of SO_SNDBUF is for the kernel's own)."""
        try:
            waiting = int.from_bytes(fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0\0\0\0"), sys.byteorder)
            return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2 - waiting
        except OSError:
            return 0

    def send(self, data: bytes | memoryview, *, is_last: bool = False) -> bool:
        """True where all of it is on its way; False where some had to be kept, see `flush`. Raises: `gone`.

        `is_last`: the end follows at once, and goes out in one segment with it (MSG_MORE of send(2)); the other side
        is woken once, and an eighth more new connections a second have their response.
        """
        if self.unsent:
            self.unsent += data
            return False
        try:
            sent = self.socket.send(data, socket.MSG_MORE if is_last else 0)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.was_reset = error.errno == errno.ECONNRESET
            raise self._gone(str(error)) from None
        if sent == len(data):
            return True
        self.unsent = bytes(memoryview(data)[sent:])
        return False

    def write(self, data: bytes | memoryview, patience: float = NEVER) -> Steps:
        """Send all of it and wait until it is on its way; as `flush`. Raises: `gone`."""
        while len(data) > TURN_SIZE:
            yield from self.write(data[:TURN_SIZE], patience)
            data = memoryview(data)[TURN_SIZE:]
            yield NEXT_TURN
        if not self.send(data):
            yield from self.flush(patience)

    def flush(self, patience: float = NEVER) -> Steps:
        """Wait until all is on its way; `patience` in seconds for each step. Raises: `gone`."""
        while self.unsent:
            if (yield self.loop.now + patience, self.link.writable) is None:
                raise self._gone("it took too long to take what we sent")
            self.send_unsent()

    def send_unsent(self) -> None:
        unsent, self.unsent = self.unsent, b""
        self.send(unsent)

    # The end

    def finish_writing(self) -> None:
        """Tell the other side that nothing more comes."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def reset(self) -> None:
        """Make the coming close a visible break (RST), for a client to whom an end looks like success."""
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass

    def close(self) -> None:
        self.link.close()
        self.socket.close()
