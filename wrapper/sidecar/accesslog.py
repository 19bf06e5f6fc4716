"""The access log: a line for each request, in the same log as all else, and never in the way of the road.

Threads that serve hand a line over and go on; one writer writes them. Where stderr is slower than the clients, lines
are dropped and counted, not waited for.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from wrapper import threads
from wrapper.log import PIECE, STDERR, log, timestamp
from wrapper.text import one_line

if TYPE_CHECKING:
    from wrapper.http1.message import Ended

WAITING_MAX = 4 * 1024 * 1024  # bytes of lines that may wait for the writer; nothing else of a request does
GATHER_INTERVAL = 0.05  # seconds in which the writer lets lines gather: 20 writes a second, however busy the road is
END_TIMEOUT = 0.5  # seconds for the last lines: the container's stop waits for it
NO_VALUE = "-"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SHOWN = re.compile(rb"(?i)\n(referer|user-agent):([^\r\n]*)")
# A quote or a backslash must not end the quoted part it stands in; as Apache's log does it.
QUOTED = str.maketrans({'"': '\\"', "\\": "\\\\"})


class AccessLog:
    """Lines in the combined format of Apache and nginx, or JSON objects."""

    def __init__(self, as_json: bool, descriptor: int = STDERR) -> None:
        self._line = json_line if as_json else combined_line
        self._descriptor = descriptor
        self._waiting: SimpleQueue[bytes | None] = SimpleQueue()  # None is the end
        self._is_ending = threading.Event()
        self._is_over = threading.Event()
        # Guards the bytes that wait, and the number of exchanges that no line tells of.
        self._lock = threading.Lock()
        self._size = self._dropped = 0
        threads.start("access-log", self._write_all)

    def observe(self, ended: Ended) -> None:
        line = self._line(time.time(), ended).encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            if self._size + len(line) > WAITING_MAX:
                self._dropped += 1
                return
            self._size += len(line)
        self._waiting.put(line)

    def finish(self) -> None:
        """Write what has been observed so far; nothing is written behind it. For a moment at most."""
        self._is_ending.set()
        self._waiting.put(None)
        self._is_over.wait(END_TIMEOUT)

    def _write_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            self._is_ending.wait(GATHER_INTERVAL)
            self._write_waiting(first)
            with self._lock:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                log.warning("access log: lines were dropped, stderr is too slow for them", lines=dropped)
        self._is_over.set()

    def _write_waiting(self, line: bytes | None) -> None:
        """Write `line` and what waits behind it, as many lines at a time as none can come between (pipe(7))."""
        piece = b""
        while line is not None:
            if piece and len(piece) + len(line) > PIECE:
                self._write(piece)
                piece = b""
            piece += line
            try:
                line = self._waiting.get_nowait()
            except Empty:
                break
        else:
            self._waiting.put(None)  # for the caller
        self._write(piece)

    def _write(self, piece: bytes) -> None:
        rest = piece
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest):]
        except OSError:
            pass  # a full disk or a closed stderr is no reason to stop
        with self._lock:
            self._size -= len(piece)


def combined_line(moment: float, ended: Ended) -> str:
    """`host - - [time] "request" status bytes "referer" "user agent"`, and what the wrapper knows besides: seconds from
    the request's first line to the response's end, seconds that it was held, whether it travelled twice because its run
    of the service ended, and who cut the response, where it was cut
    (https://httpd.apache.org/docs/current/logs.html#combined)."""
    said = _said(ended)
    at = time.gmtime(moment)
    day = f"{at.tm_mday:02d}/{MONTHS[at.tm_mon - 1]}/{at.tm_year}"  # English whatever the locale: no strftime
    when = f"{day}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000"
    version = f"HTTP/1.{ended.head.minor}" if ended.head is not None else "HTTP/1.1"
    return (f'{ended.peer or NO_VALUE} - - [{when}] "{_quoted(ended.method)} {_quoted(ended.target)} {version}" '
            f'{ended.status} {ended.sent} "{_quoted(said.get("referer", NO_VALUE))}" '
            f'"{_quoted(said.get("user-agent", NO_VALUE))}" seconds={ended.seconds:.3f} held={ended.held:.3f}'
            + (" replayed" if ended.replayed else "") + (f" cut={ended.cut}" if ended.cut else ""))


def json_line(moment: float, ended: Ended) -> str:
    said = _said(ended)
    return json.dumps({
        "time": timestamp(moment), "level": "info", "message": "request",
        "peer": ended.peer, "method": ended.method, "target": ended.target, "status": ended.status,
        "seconds": round(ended.seconds, 6), "first_byte": round(ended.first_byte, 6), "held": round(ended.held, 6),
        "received": ended.received, "sent": ended.sent, "to": "sidecar" if ended.own else "service",
        "replayed": ended.replayed, "failure": ended.failure or None, "cut": ended.cut or None,
        "referer": said.get("referer"), "user_agent": said.get("user-agent")})


def _said(ended: Ended) -> dict[str, str]:
    """The two fields that the combined format asks for; no other one, they may be secret."""
    if ended.head is None:
        return {}
    return {match[1].decode("ascii").lower(): match[2].decode("latin-1").strip(" \t")
            for match in SHOWN.finditer(ended.head.fields)}


def _quoted(text: str) -> str:
    return one_line(text.translate(QUOTED))
