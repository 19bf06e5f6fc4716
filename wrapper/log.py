"""The wrapper's own log: one event a line on stderr, as text or JSON.

The standard `logging` package costs 8 ms of the start and a lock around every line; one `write` of one line neither.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LEVELS = ("debug", "info", "warning", "error")
STDERR = 2


class Log:
    """Lines of at least `level`, written whole. A full disk or a closed stderr is no reason to stop a service."""

    def __init__(self) -> None:
        self._least = LEVELS.index("info")
        self._as_json = False

    def configure(self, level: str, log_format: str) -> None:
        self._least = LEVELS.index(level)
        self._as_json = log_format == "json"

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
        line = self._json(level, message, facts) if self._as_json else _text(level, message, facts)
        try:
            os.write(STDERR, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass

    def _json(self, level: str, message: str, facts: dict[str, Any]) -> str:
        import json  # start-up: the text format does without it

        return json.dumps({"time": timestamp(), "level": level, "message": message, **facts}, default=str) + "\n"


def _text(level: str, message: str, facts: dict[str, Any]) -> str:
    tail = "".join(f" {name}={_shown(value)}" for name, value in facts.items() if value is not None)
    return f"{timestamp()} wrapper {level}: {one_line(message)}{tail}\n"


def _shown(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return repr(text) if not text.isprintable() or " " in text or not text else text


def one_line(text: str) -> str:
    """Control characters made visible, so that no event can pretend to be two."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def timestamp(moment: float | None = None) -> str:
    """RFC 3339 in UTC, to the second; `moment` in seconds since the epoch, None means now."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


log = Log()
