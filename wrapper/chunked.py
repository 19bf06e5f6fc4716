"""Chunked bodies, taken apart and put together (RFC 9112 section 7.1). Pure."""

from __future__ import annotations

import re

from wrapper.http1 import FIELD, TOKEN, VALUE, Malformed

MAX_CHUNK_LINE = 4096  # bytes of a chunk's size and extensions
MAX_CHUNK_WASTE = 16 * 1024  # bytes of extensions in one body; Go's bound after CVE-2023-39326

# RFC 9112 section 7.1: no white space around the size; what follows the first semicolon is ignored.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;" + VALUE + rb")?\r\n")
_TRAILERS = re.compile(rb"(?:" + TOKEN + rb":" + VALUE + rb"\r\n)*\r\n")


class Chunked:
    """Takes a chunked body apart, however it is split (RFC 9112 section 7.1).

    `trailers` is the raw trailer section, `surplus` what came behind the body; both once `is_done`.
    """

    __slots__ = ("_left", "_limit", "_rest", "_state", "_waste", "is_done", "surplus", "trailers")

    def __init__(self, limit: int) -> None:
        self._limit = limit  # of the trailer section, in bytes
        self._state = "size"
        self._left = 0  # bytes of the present chunk still to come
        self._rest = b""  # a line, or the trailer section, not wholly here yet
        self._waste = 0
        self.is_done = False
        self.surplus = b""
        self.trailers = b""

    def feed(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """The pieces of payload in `data`, without a copy.

        Raises: Malformed.
        """
        pieces: list[bytes | memoryview] = []
        at = 0
        while at < len(data) and not self.is_done:
            if self._state == "data":
                taken = min(self._left, len(data) - at)
                pieces.append(data[at:at + taken])
                at += taken
                self._left -= taken
                if not self._left:
                    self._state = "end"
            else:
                at = self._feed_line(data, at)
        if self.is_done and at < len(data):
            self.surplus += bytes(data[at:])
        return pieces

    def _feed_line(self, data: bytes | memoryview, at: int) -> int:
        """Read one of the lines between payload; returns the offset behind what was used of `data`."""
        before = len(self._rest)
        most = {"size": MAX_CHUNK_LINE, "end": 2, "trailers": self._limit}[self._state]
        text = self._rest + bytes(data[at:at + most - before])
        used = {"size": self._size, "end": self._end, "trailers": self._trailers}[self._state](text)
        if used:
            self._rest = b""
            return at + used - before
        if len(text) >= most:
            raise Malformed("a chunk's line or the trailers are too long")
        self._rest = text
        return at + len(text) - before

    def _size(self, text: bytes) -> int:
        end = text.find(b"\n") + 1
        if not end:
            if re.search(rb"\r[^\n]", text) or not re.match(rb"[0-9A-Fa-f]", text):
                raise Malformed("a chunk's size is malformed")
            return 0
        match = _CHUNK_LINE.fullmatch(text, 0, end)
        if match is None:
            raise Malformed("a chunk's size is malformed")
        self._left = int(match[1], 16)
        self._waste = max(0, self._waste + end - 16 - 2 * self._left)
        if self._waste > MAX_CHUNK_WASTE:
            raise Malformed("too many chunk extensions")
        self._state = "data" if self._left else "trailers"
        return end

    def _end(self, text: bytes) -> int:
        if not b"\r\n".startswith(text):
            raise Malformed("a chunk is longer than its size says")
        if len(text) < 2:
            return 0
        self._state = "size"
        return 2

    def _trailers(self, text: bytes) -> int:
        known = len(self._rest)
        if known > 2 and b"\r\n\r\n" not in text[known - 3:]:
            # What is whole has been judged before; all over again for every piece would cost seconds.
            self._judge_trailers(text[text.rfind(b"\r\n", 0, known) + 2:] if b"\r\n" in text[:known] else text)
            return 0
        match = _TRAILERS.match(text)
        if match is None:
            self._judge_trailers(text)
            return 0
        self.trailers = text[:match.end() - 2]
        self.is_done = True
        return match.end()

    @staticmethod
    def _judge_trailers(text: bytes) -> None:
        *lines, rest = text.split(b"\r\n")
        if b"\n" in rest or b"\r" in rest[:-1] or not all(map(FIELD.fullmatch, lines)):
            raise Malformed("a trailer line is malformed")


def chunk(payload: bytes | memoryview) -> bytes:
    """One chunk; nothing for an empty payload, because that would be the last one."""
    return b"".join((b"%x\r\n" % len(payload), payload, b"\r\n")) if payload else b""


def last_chunk(trailers: bytes = b"") -> bytes:
    return b"0\r\n%b\r\n" % trailers
