"""What the service printed last. Its output is passed on byte for byte; the newest 100 KiB are kept beside it."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque

from wrapper import poll, threads
from wrapper.deadline import Deadline
from wrapper.log import log
from wrapper.signals import wide_pipe
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.problems import Board

KEPT_BYTES = 100 * 1024
LAST_LINES = 20  # in a problem
READ_BYTES = 256 * 1024
LAST_WORDS_TIMEOUT = 0.5  # seconds of silence after which nothing more is awaited from a pipe that stays open
LINE_BYTES = 64 * 1024  # of a line that is passed on whole, with a name before it; a longer one becomes several
# Each guards one descriptor for one piece of one service, so that lines of several do not mix.
WRITE_LOCKS = {1: threading.Lock(), 2: threading.Lock()}


class Output:
    """The last output of one service, over all its runs. `is_named`: its lines are passed on behind its name."""

    def __init__(self, board: Board, source: str, is_named: bool = False) -> None:
        self._board = board
        self._source = source
        self._is_named = is_named
        # Guards the pieces and the total; notified at every piece.
        self._changed = threading.Condition(threading.Lock())
        self._pieces: deque[bytes] = deque()
        self._kept = 0
        self._total = 0
        self.is_over = False
        self._unheard: set[int] = set()  # descriptors whose reader has left
        self._pumps: list[Pump] = []

    def streams(self) -> tuple[int, int]:
        """Two pipes for the stdout and stderr of a new run; the caller closes them once the process has them.

        Raises: OSError where there is no descriptor for them, NoThread.
        """
        self._pumps = [pump for pump in self._pumps if pump.is_alive()]
        self._unheard.clear()
        stdout = self._pipe(1, "stdout")
        try:
            return stdout, self._pipe(2, "stderr")
        except (OSError, NoThread):
            os.close(stdout)  # its pump reads the end, and ends
            raise

    def _pipe(self, descriptor: int, name: str) -> int:
        reading, writing = wide_pipe()
        try:
            passed = Named(self._source).lines if self._is_named else bytes
            self._pumps.append(Pump(reading, lambda piece: self._take(piece, descriptor, passed),
                                    f"{self._source}-{name}"))
        except NoThread:
            os.close(reading)
            os.close(writing)
            raise
        return writing

    def _take(self, piece: bytes, descriptor: int, passed: Callable[[bytes], bytes]) -> None:
        """`passed`: makes what is passed on of what came; an empty piece is the end."""
        if piece:
            self.keep(piece)
        piece = passed(piece)
        if descriptor not in self._unheard:
            with WRITE_LOCKS[descriptor]:
                is_heard = self._pass_on(piece, descriptor)
            if not is_heard:
                self._unheard.add(descriptor)

    def _pass_on(self, piece: bytes, descriptor: int) -> bool:
        """Write all of it. A full disk or a reader that left must not block the service: say so once, read on."""
        rest = memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest):]
            except BlockingIOError:
                poll.is_ready(descriptor, poll.WRITABLE)
            except OSError as error:
                self._board.report("output", f"cannot pass the service's output on: {error.strerror}")
                if error.errno == errno.ENOSPC:
                    return True  # there may be room again for the next piece
                log.warning("cannot pass the service's output on", cause=error.strerror, descriptor=descriptor)
                return False
        return True

    def keep(self, piece: bytes) -> None:
        """Keep `piece` as the newest output, and let go of the oldest over KEPT_BYTES."""
        piece = piece[-KEPT_BYTES:]
        with self._changed:
            self._pieces.append(piece)
            self._total += len(piece)
            self._kept += len(piece)
            while self._kept - len(self._pieces[0]) >= KEPT_BYTES:
                self._kept -= len(self._pieces.popleft())
            self._changed.notify_all()

    def finish(self, deadline: Deadline) -> None:
        """Let what is still in the pipes come out, however slow the reader is.

        A grandchild that holds one open and is silent is not waited for.
        """
        for pump in self._pumps:
            pump.finish(deadline)

    def last_lines(self, timeout: float) -> list[str]:
        """The last lines for a problem; what is still in the pipes has `timeout` seconds to come out."""
        self.finish(Deadline(timeout))
        return self.lines(LAST_LINES)

    def end(self, deadline: Deadline) -> None:
        """As `finish`, and tell the readers that follow the output that no more comes."""
        self.finish(deadline)
        with self._changed:
            self.is_over = True
            self._changed.notify_all()

    def lines(self, count: int) -> list[str]:
        """The last `count` lines; bytes that are not UTF-8 are replaced."""
        return [line.decode("utf-8", "replace") for line in self.tail(count)[1].splitlines()]

    def tail(self, count: int) -> tuple[int, bytes]:
        """The position behind what is kept, and its last `count` lines as they came; the last may not be whole yet."""
        with self._changed:
            position, kept = self._total, b"".join(self._pieces)[-KEPT_BYTES:]
        return position, b"".join(kept.splitlines(keepends=True)[-count:]) if count > 0 else b""

    def after(self, position: int, timeout: float | None) -> tuple[int, bytes]:
        """The position behind the output, in bytes since the beginning, and what came past `position`.

        Waits up to `timeout` seconds for some, where more may come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._total > position or self.is_over, timeout)
            missing = min(self._total - position, self._kept)
            kept = b"".join(self._pieces) if missing else b""
            return self._total, kept[len(kept) - missing:]


class Named:
    """Puts a name before each line of one stream, and holds back a line until it is whole."""

    def __init__(self, name: str) -> None:
        self._name = f"{name} | ".encode()
        self._rest = b""

    def lines(self, piece: bytes) -> bytes:
        """The lines that are whole now; with an empty piece, which is the end of the stream, the last one too."""
        whole, newline, rest = (self._rest + piece).rpartition(b"\n")
        if rest and (not piece or len(rest) > LINE_BYTES):
            whole, newline, rest = whole + newline + rest, b"\n", b""
        self._rest = rest
        return b"".join(self._name + line + b"\n" for line in whole.split(b"\n")) if newline else b""


class Pump:
    """Reads one pipe to its end in a thread, and gives `take` every piece, and an empty one at the end.

    Raises: NoThread.
    """

    def __init__(self, reading: int, take: Callable[[bytes], None], name: str) -> None:
        self._reading = reading
        self._take = take
        self._count = 0
        self._is_reading = True
        self._thread = threads.start(name, self._run)

    def _run(self) -> None:
        with open(self._reading, "rb", buffering=0) as pipe:
            while piece := pipe.read(READ_BYTES):
                self._is_reading = False
                self._take(piece)
                self._count += 1
                self._is_reading = True
            self._is_reading = False
        self._take(b"")

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def finish(self, deadline: Deadline) -> None:
        """Wait for the end of the pipe, as long as anything is in it, comes or is still being passed on."""
        seen = -1
        while self.is_alive() and not deadline.has_passed() and not (self._is_silent and seen == self._count):
            seen = self._count
            self._thread.join(deadline.sooner(LAST_WORDS_TIMEOUT))

    @property
    def _is_silent(self) -> bool:
        """All that came was passed on. On a busy machine this thread may be late to read what is in the pipe."""
        return self._is_reading and not poll.is_ready(self._reading, poll.READABLE, 0)
