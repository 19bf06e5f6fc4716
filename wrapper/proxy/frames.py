"""WebSocket frames, as far as a tunnel must know them: where one ends, and what a Close looks like. Pure.

RFC 6455 sections 5.2 (framing), 5.5.1 (Close), 7.4.1 (1001 going away); 1012 (service restart) is in the IANA registry.
"""

from __future__ import annotations

import os
import struct

CLOSE_CODES = {"restart": 1012, "shutdown": 1001}


def close_frame(code: int, is_masked: bool) -> bytes:
    """A Close frame with a status code; the one who speaks as a client must mask (section 5.3)."""
    payload = struct.pack("!H", code)
    if not is_masked:
        return b"\x88\x02" + payload
    mask = os.urandom(4)
    return b"\x88\x82" + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


class Frames:
    """Follows the frames of one direction; `is_between` where the last byte seen was the last of a frame."""

    __slots__ = ("_header", "_left")

    def __init__(self) -> None:
        self._header = b""
        self._left = 0  # bytes of the present frame's payload still to come

    @property
    def is_between(self) -> bool:
        return not self._left and not self._header

    def feed(self, data: bytes | memoryview) -> int:
        """Follow `data`; returns the offset in it of the last end of a frame, or -1 where none ends in it."""
        size = len(data)
        at = min(self._left, size)
        last = at if at == self._left > 0 else -1
        self._left -= at
        while at < size:
            if not self._header and at + 6 <= size and (short := data[at + 1] & 0x7F) < 126:
                # Nearly all are of this kind, and a flood of the smallest must not keep the loop.
                end = at + short + (6 if data[at + 1] & 0x80 else 2)
            else:
                end = self._feed_header(data, at)
                if self._header:
                    break
            if end > size:
                self._left = end - size
                break
            at = last = end
        return last

    def _feed_header(self, data: bytes | memoryview, at: int) -> int:
        """Complete the header as far as `data` goes; once it is whole, `_header` is empty and the frame's end known."""
        header = self._header + bytes(data[at:at + 14 - len(self._header)])
        size = _header_size(header)
        if size is None or len(header) < size:
            self._header = header
            return len(data)
        used = at + size - len(self._header)
        self._header = b""
        return used + _payload_size(header)


def _header_size(header: bytes) -> int | None:
    if len(header) < 2:
        return None
    short = header[1] & 0x7F
    return 2 + {126: 2, 127: 8}.get(short, 0) + (4 if header[1] & 0x80 else 0)


def _payload_size(header: bytes) -> int:
    short = header[1] & 0x7F
    if short == 126:
        return int.from_bytes(header[2:4], "big")
    return int.from_bytes(header[2:10], "big") if short == 127 else short
