"""Server-sent events (WHATWG HTML, section 9.2): how one is written, and the feed as an endless stream of them."""

from __future__ import annotations

import time

from wrapper.http1.message import Response
from wrapper.text import dumps
from wrapper.problems import outlined

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from wrapper.events import Feed
    from wrapper.http1.message import Piece

CONTENT_TYPE = "text/event-stream; charset=utf-8"
HEARTBEAT_INTERVAL = 15.0  # seconds: gone clients are noticed, and no proxy in between takes silence for the end
HEARTBEAT = b": \n\n"
DIGITS_MAX = 18  # of an event's number; int() refuses what is very long (CVE-2020-10735)
NO_BUFFER = ("X-Accel-Buffering", "no")  # nginx gathers what it passes on unless told otherwise
RETRY_MS = 1000  # how long a browser waits before it comes back


def response(pieces: Iterable[Piece]) -> Response:
    """A stream that nothing in between may keep or gather."""
    headers = (("Cache-Control", "no-store"), NO_BUFFER)
    made = Response(pieces, headers=headers, content_type=CONTENT_TYPE)
    made.heartbeat, made.heartbeat_interval = HEARTBEAT, HEARTBEAT_INTERVAL
    return made


def message(data: Any, event: str | None = None, name: str | None = None) -> bytes:
    """One event: `data` as it is where it is text, else as JSON; `event` its type, `name` its id."""
    text = data if isinstance(data, str) else dumps(data)
    if any(character in f"{event}{name}" for character in "\r\n"):
        raise ValueError("a line break in the name of an event")  # it would begin another field
    lines = [f"id: {name}"] if name is not None else []
    if event is not None:
        lines.append(f"event: {event}")
    lines.extend(f"data: {line}" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


class FeedStream:
    """The wrapper's events, from where a client was last. Ids name the run of the wrapper: a new one begins anew."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._run = format(time.time_ns(), "x")

    def known(self, text: str | None) -> int:
        """The event a client has seen last: an id of ours, a plain number, or `now`; else none at all."""
        if text == "now":
            return self._feed.last
        run, _, number = (text or "").rpartition("-")
        if run not in ("", self._run) or not (number.isascii() and number.isdigit()) or len(number) > DIGITS_MAX:
            return 0
        return int(number) if int(number) <= self._feed.last else 0

    def pieces(self, known: int, is_told: bool) -> Iterator[bytes]:
        """What is kept behind `known`, then everything as it happens, with a sign of life in between.

        Without `is_told` what problems are stays out of it.
        """
        yield f"retry: {RETRY_MS}\n\n".encode()
        while True:
            events = self._feed.after(known, HEARTBEAT_INTERVAL)
            for event in events:
                known = event["id"]
            yield b"".join(self._message(event if is_told else outlined(event)) for event in events) or HEARTBEAT
            if events and events[-1]["kind"] == "end":
                return  # the wrapper ends; a client that comes back finds the next one, or none

    def _message(self, event: dict[str, Any]) -> bytes:
        return message(event, event["kind"], f"{self._run}-{event['id']}")
