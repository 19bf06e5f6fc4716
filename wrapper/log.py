"""The wrapper's own log on stderr: one event a line, as text or JSON; in text a traceback has lines of its own.

The standard `logging` package costs 8 ms of the start and a lock around every line; one `write` of one line neither.
"""

from __future__ import annotations

import os
import time

from wrapper import poll
from wrapper.text import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LEVELS = ("debug", "info", "warning", "error")
STDERR = 2
BLOCKS = ("traceback", "stack", "output")  # facts of many lines, for people to read as they are
PIECE = 4096  # bytes, PIPE_BUF of pipe(7): a pipe that poll(2) calls writable takes that many, and tears none apart


class Log:
    """Lines of at least `level`, written whole. A full disk or a closed stderr is no reason to stop a service.

    Nor is a pipe that is not read: what would have to wait is dropped, and counted.
    """

    def __init__(self) -> None:
        self._dropped = 0  # a hint for people: two threads at the same time may count as one
        self._least = LEVELS.index("info")
        self.as_json = False

    def configure(self, level: str, log_format: str) -> None:
        self._least = LEVELS.index(level)
        self.as_json = log_format == "json"

    def debug(self, message: str, **facts: Any) -> None:
        self._write("debug", message, facts)

    def info(self, message: str, **facts: Any) -> None:
        self._write("info", message, facts)

    def warning(self, message: str, **facts: Any) -> None:
        self._write("warning", message, facts)

    def error(self, message: str, **facts: Any) -> None:
        self._write("error", message, facts)

    def _write(self, level: str, message: str, facts: dict[str, Any]) -> None:
        if LEVELS.index(level) < self._least:
            return
        if not _has_room():
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._put("warning", "lines of the log were dropped, stderr was full", {"count": dropped})
        self._put(level, message, facts)

    def _put(self, level: str, message: str, facts: dict[str, Any]) -> None:
        line = self._json(level, message, facts) if self.as_json else _text(level, message, facts)
        rest = line.encode("utf-8", "backslashreplace")
        while rest and _has_room():
            try:
                rest = rest[os.write(STDERR, rest[:PIECE]):]
            except OSError:
                return

    def _json(self, level: str, message: str, facts: dict[str, Any]) -> str:
        import json  # start-up: the text format does without it

        return json.dumps({"time": _now(), "level": level, "message": message, **facts}, default=str) + "\n"


def _has_room() -> bool:
    """False where a write to stderr would wait for a reader that may never read."""
    return poll.is_ready(STDERR, poll.WRITABLE, 0)


def _text(level: str, message: str, facts: dict[str, Any]) -> str:
    tail = "".join(f" {name}={_shown(value)}" for name, value in facts.items()
                   if value is not None and name not in BLOCKS)
    below = [one_line(line) for name in BLOCKS for line in facts.get(name, "").splitlines()]
    return f"{_now()} wrapper {level}: {one_line(message)}{tail}\n" + "".join(f"    {line}\n" for line in below)


def _shown(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return repr(text) if not text.isprintable() or " " in text or not text else text


def _now() -> str:
    """With milliseconds: in a restart more than one thing happens within a second."""
    now = time.time()
    return f"{timestamp(now)[:-1]}.{int(now % 1 * 1000):03d}Z"


def timestamp(moment: float | None = None) -> str:
    """RFC 3339 in UTC, to the second; `moment` in seconds since the epoch, None means now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


log = Log()
