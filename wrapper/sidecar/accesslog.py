"""The access log: a line for each request, in the same log as all else, and never in the way of the road.

Threads that serve hand a fact over and go on; one writer puts lines together. Where stderr is slower than the clients,
lines are dropped and counted, not waited for.
"""

from __future__ import annotations

import json
import os
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from wrapper import threads
from wrapper.http1 import split_fields
from wrapper.log import STDERR, log, timestamp
from wrapper.text import one_line

if TYPE_CHECKING:
    from wrapper.message import Ended

WAITING_MAX = 10_000  # exchanges that may wait for the writer: a few MiB
GATHER_INTERVAL = 0.05  # seconds in which the writer lets lines gather: 20 writes a second, however busy the road is
END_TIMEOUT = 0.5  # seconds for the last lines: the container's stop waits for it
PIECE_BYTES = 4096  # PIPE_BUF on Linux: what is longer may be torn apart by another line (pipe(7))
NO_VALUE = "-"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# A quote or a backslash must not end the quoted part it stands in; as Apache's log does it.
QUOTED = str.maketrans({'"': '\\"', "\\": "\\\\"})


class AccessLog:
    """Lines in the combined format of Apache and nginx, or JSON objects."""

    def __init__(self, as_json: bool, descriptor: int = STDERR) -> None:
        self._line = json_line if as_json else combined_line
        self._descriptor = descriptor
        self._waiting: SimpleQueue[tuple[float, Ended] | None] = SimpleQueue()  # None is the end
        self._is_ending = threading.Event()
        self._is_over = threading.Event()
        # Guards the number of exchanges that no line tells of.
        self._lock = threading.Lock()
        self._dropped = 0
        threads.start("access-log", self._write_all)

    def observe(self, ended: Ended) -> None:
        if self._waiting.qsize() < WAITING_MAX:
            self._waiting.put((time.time(), ended))
            return
        with self._lock:
            self._dropped += 1

    def finish(self) -> None:
        """Write what has been observed so far; nothing is written behind it. For a moment at most."""
        self._is_ending.set()
        self._waiting.put(None)
        self._is_over.wait(END_TIMEOUT)

    def _write_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            self._is_ending.wait(GATHER_INTERVAL)
            try:
                self._write_waiting(first)
            except Exception as error:  # noqa: BLE001  # one odd line must not be the last one
                log.error("cannot write the access log", cause=repr(error))
            with self._lock:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                log.warning("access log: lines were dropped, stderr is too slow for them", lines=dropped)
        self._is_over.set()

    def _write_waiting(self, first: tuple[float, Ended]) -> None:
        piece, size = [self._bytes(first)], 0
        while True:
            try:
                fact = self._waiting.get_nowait()
            except Empty:
                break
            if fact is None:
                self._waiting.put(None)  # for the caller
                break
            line = self._bytes(fact)
            size += len(piece[-1])
            if size + len(line) > PIECE_BYTES:
                self._write(piece)
                piece, size = [], 0
            piece.append(line)
        self._write(piece)

    def _bytes(self, fact: tuple[float, Ended]) -> bytes:
        return self._line(*fact).encode("utf-8", "backslashreplace") + b"\n"

    def _write(self, piece: list[bytes]) -> None:
        rest = b"".join(piece)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest):]
        except OSError:
            pass  # a full disk or a closed stderr is no reason to stop


def combined_line(moment: float, ended: Ended) -> str:
    """`host - - [time] "request" status bytes "referer" "user agent"`
    (https://httpd.apache.org/docs/current/logs.html#combined)."""
    said = _said(ended)
    at = time.gmtime(moment)
    day = f"{at.tm_mday:02d}/{MONTHS[at.tm_mon - 1]}/{at.tm_year}"  # English whatever the locale: no strftime
    when = f"{day}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000"
    version = f"HTTP/1.{ended.head.minor}" if ended.head is not None else "HTTP/1.1"
    return (f'{ended.peer or NO_VALUE} - - [{when}] "{_quoted(ended.method)} {_quoted(ended.target)} {version}" '
            f'{ended.status} {ended.sent} "{_quoted(said.get("referer", NO_VALUE))}" '
            f'"{_quoted(said.get("user-agent", NO_VALUE))}"')


def json_line(moment: float, ended: Ended) -> str:
    said = _said(ended)
    return json.dumps({
        "time": timestamp(moment), "level": "info", "message": "request",
        "peer": ended.peer, "method": ended.method, "target": ended.target, "status": ended.status,
        "seconds": round(ended.seconds, 6), "first_byte": round(ended.first_byte, 6), "held": round(ended.held, 6),
        "received": ended.received, "sent": ended.sent, "to": "sidecar" if ended.own else "service",
        "failure": ended.failure or None,
        "referer": said.get("referer"), "user_agent": said.get("user-agent")})


def _said(ended: Ended) -> dict[str, str]:
    """The two fields that the combined format asks for; no other one, they may be secret."""
    if ended.head is None:
        return {}
    return {name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in split_fields(ended.head.fields) if name.lower() in (b"referer", b"user-agent")}


def _quoted(text: str) -> str:
    return one_line(text.translate(QUOTED))
