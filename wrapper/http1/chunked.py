"""The chunked transfer coding: taken apart, and put together (RFC 9112 section 7.1). Pure."""

from __future__ import annotations

import re

from wrapper.http1.request import FIELD, TOKEN, VALUE, Malformed

MAX_CHUNK_LINE = 4096  # bytes of a chunk's size and extensions
CHUNKS_MAX = 4096  # taken apart in one go: 1 MiB of the smallest would keep all others waiting for 0.1 s
SHORTEST_CHUNK = 6  # bytes
ALIKE, ALIKE_SIZE = 256, 64  # chunks alike in a row, and bytes in each, that more of them are looked for at once
NO_DIGIT = 256  # what a byte that is no digit of a size counts for: more than two digits can
MAX_CHUNK_WASTE = 16 * 1024  # bytes of extensions in one body; Go's bound after CVE-2023-39326

# RFC 9112 section 7.1.1: extensions are judged, then ignored. No white space around the size but where it is mended.
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + _QUOTED + rb"))?"
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + _EXTENSION + rb")*\r\n")
_PADDED_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + _EXTENSION + rb")*[ \t]*\r\n")
# The value of each byte as a digit of a size. No table of whole sizes: without the interpreter's lock a look-up in a
# dict of another thread takes 20 us (CPython 3.13t), and a body may have a million small chunks.
_DIGITS = [int(chr(byte), 16) if chr(byte) in "0123456789abcdefABCDEF" else NO_DIGIT for byte in range(256)]
_TRAILERS = re.compile(rb"(?:" + TOKEN + rb":" + VALUE + rb"\r\n)*\r\n")


class Chunked:
    """Takes a chunked body apart, however it is split (RFC 9112 section 7.1).

    `limit`: bytes of the trailer section. `mends`: sizes may be padded with white space, as some services do.

    `trailers` is the raw trailer section, once `is_done`.
    """

    __slots__ = ("_left", "_limit", "_line", "_rest", "_state", "_waste", "is_done", "surplus", "trailers")

    def __init__(self, limit: int, *, mends: bool = False) -> None:
        self._limit = limit
        self._line = _PADDED_LINE if mends else _CHUNK_LINE
        self._state = "size"
        self._left = 0  # bytes of the present chunk still to come
        self._rest = b""  # a line, or the trailer section, not wholly here yet
        self._waste = 0
        self.is_done = False
        self.surplus = b""  # what the latest `feed` left: behind the body, or behind as many chunks as one may take
        self.trailers = b""

    def feed(self, data: bytes | memoryview) -> list[bytes | memoryview]:
        """The pieces of payload in `data`, without a copy where they are large.

        Raises: Malformed.
        """
        if self._state == "data" and self._left > len(data):
            self._left -= len(data)
            self.surplus = b""
            return [data] if data else []
        pieces: list[bytes | memoryview] = []
        data, at = bytes(data), 0
        while at < len(data) and not self.is_done and len(pieces) < CHUNKS_MAX:
            if self._state == "data":
                taken = min(self._left, len(data) - at)
                pieces.append(data[at:at + taken])
                at += taken
                self._left -= taken
                if not self._left:
                    self._state = "end"
            else:
                if self._state == "size" and not self._rest:
                    at = self._feed_small(data, at, pieces)
                if at < len(data) and len(pieces) < CHUNKS_MAX:
                    at = self._feed_line(data, at)
        self.surplus = bytes(data[at:])
        return pieces

    @staticmethod
    def _feed_small(data: bytes, at: int, pieces: list[bytes | memoryview]) -> int:
        """Take whole chunks with sizes of one or two digits, as many as there are; returns the offset behind them."""
        digits, last, before, alike = _DIGITS, len(data) - SHORTEST_CHUNK, 0, 0
        while at <= last and len(pieces) < CHUNKS_MAX:
            size, line = digits[data[at]], at + 3
            if data[at + 1:line] != b"\r\n":
                second, line = digits[data[at + 1]], at + 4
                if second == NO_DIGIT or data[at + 2:line] != b"\r\n":
                    break
                size = 16 * size + second
            end = line + size
            if not 0 < size < NO_DIGIT or data[end:end + 2] != b"\r\n":
                break
            pieces.append(data[line:end])
            begin, at = at, end + 2
            if size != before:
                before, alike = size, 0
            elif size < ALIKE_SIZE:
                alike += 1
                if alike % ALIKE == 0:
                    at = _feed_alike(data, at, at - begin, size, pieces)
        return at

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
        match = self._line.fullmatch(text, 0, end)
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


def _feed_alike(data: bytes, at: int, step: int, size: int, pieces: list[bytes | memoryview]) -> int:
    """Take the chunks that are framed to the byte like the one before `at`, column by column, which is done in C.

    Returns the offset behind them. The table grows with what is found, so that one that ends soon costs little.
    """
    frame = [(column, data[at - step + column:at - step + column + 1])
             for column in (*range(step - size - 2), step - 2, step - 1)]
    rows = ALIKE
    while True:
        table = data[at:at + rows * step]
        count = min(len(found) - len(found.lstrip(byte)) for column, byte in frame for found in (table[column::step],))
        payload = bytearray(count * size)
        for column in range(size):
            payload[column::size] = table[step - size - 2 + column:count * step:step]
        pieces.append(bytes(payload))
        at += count * step
        if count < rows:
            return at
        rows *= 4


def chunk(payload: bytes | memoryview) -> bytes:
    """One chunk; nothing for an empty payload, because that would be the last one."""
    return b"".join((b"%x\r\n" % len(payload), payload, b"\r\n")) if payload else b""


def last_chunk(trailers: bytes = b"") -> bytes:
    return b"0\r\n%b\r\n" % trailers
