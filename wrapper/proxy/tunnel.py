"""Bytes both ways after a 101, or for HTTP/2 that is passed on untouched.

Nothing is read ahead of what the other side takes; an end of one side is carried over to the other; no side is timed.
"""

from __future__ import annotations

import socket
import threading

from wrapper.poll import BROKEN, READABLE, WRITABLE, ready
from wrapper.proxy.frames import CLOSE_CODES, Frames, close_frame
from wrapper.stream import ClientGone, Stream, cut


class _Way:
    """One direction: what could not be sent yet, and how far it has come."""

    __slots__ = ("frames", "has_ended", "is_muted", "pending")

    def __init__(self, early: bytes, is_framed: bool) -> None:
        self.frames = Frames() if is_framed else None
        if self.frames is not None and early:
            self.frames.feed(early)
        self.pending = early
        self.has_ended = False  # its end has been carried over
        self.is_muted = False  # a Close of ours was its last frame


class Tunnel:
    """The bytes between `stream` and `service`, from the point where both have been read so far."""

    def __init__(self, stream: Stream, service: socket.socket, early: bytes, is_websocket: bool) -> None:
        self._stream = stream
        self._service = service
        rest, stream.rest = stream.rest, b""
        # Guards both ways and every send, because a warning is sent by another thread than the one that pumps.
        self._lock = threading.Lock()
        self._up = _Way(rest, is_websocket)
        self._down = _Way(early, is_websocket)
        self._code = 0  # of the Close frames to send, 0 for none
        self.received = len(rest)
        self.sent = len(early)

    def warn(self, going: str) -> None:
        """Send Close frames both ways as soon as no frame is cut in two by that."""
        with self._lock:
            if self._down.frames is None or self._code:
                return
            self._code = CLOSE_CODES[going]
            for way in (self._up, self._down):
                if way.frames is not None and way.frames.is_between:
                    self._close_way(way)
                    self._flush_quietly(way)

    def run(self, buffer: memoryview) -> None:
        """Pump until both sides have ended or one has broken."""
        try:
            with self._lock:
                self._flush(self._up)
                self._flush(self._down)
            while not (self._up.has_ended and self._down.has_ended):
                if not self._pump(buffer):
                    break
        except (OSError, ClientGone):
            pass
        self._stream.cut()
        cut(self._service)

    def _pump(self, buffer: memoryview) -> bool:
        """Wait for one event of either side and do what it asks for; False when a side is broken."""
        asked = []
        with self._lock:
            for side, source, sink in ((self._stream.socket, self._up, self._down),
                                       (self._service, self._down, self._up)):
                interest = _interest(source, sink)
                # A side that has closed reports POLLHUP whatever is asked for, while what it sent still waits here.
                if interest or not source.pending:
                    asked.append((side, interest))
        client = self._stream.fileno()
        timeout = 0 if self._stream.has_unseen() and not self._up.pending and not self._up.has_ended else None
        events = ready(timeout, *asked)
        if timeout == 0:
            events[client] = events.get(client, 0) | READABLE
        for fd, event in events.items():
            source, sink = (self._up, self._down) if fd == client else (self._down, self._up)
            with self._lock:
                if event & WRITABLE:
                    self._flush(sink)
                if event & READABLE and not source.pending and not source.has_ended:
                    self._move(source, buffer)
                elif event & BROKEN and not source.pending:
                    return False
        return True

    def _move(self, way: _Way, buffer: memoryview) -> None:
        assert self._lock.locked()
        try:
            count = self._stream.read_into_now(buffer) if way is self._up \
                else self._service.recv_into(buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not count:
            self._end(way)
            return
        if way is self._up:
            self.received += count
        else:
            self.sent += count
        self._pass_on(way, buffer[:count])

    def _pass_on(self, way: _Way, data: memoryview) -> None:
        if way.is_muted:
            return
        if way.frames is not None:
            last = way.frames.feed(data)
            if self._code and last >= 0:
                self._send(way, data[:last])
                self._close_way(way)
                self._flush(way)
                return
        self._send(way, data)

    def _close_way(self, way: _Way) -> None:
        way.pending += close_frame(self._code, is_masked=way is self._up)
        way.is_muted = True

    def _send(self, way: _Way, data: bytes | memoryview) -> None:
        sent = self._write(way, data)
        if sent < len(data):
            way.pending = bytes(data[sent:])

    def _write(self, way: _Way, data: bytes | memoryview) -> int:
        if way is self._down:
            return self._stream.write_now(data)
        try:
            return self._service.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def _flush(self, way: _Way) -> None:
        if way.pending:
            pending, way.pending = way.pending, b""
            self._send(way, pending)

    def _flush_quietly(self, way: _Way) -> None:
        try:
            self._flush(way)
        except (OSError, ClientGone):
            pass  # whoever pumps will see it too

    def _end(self, way: _Way) -> None:
        """Carry the end of one side over to the other."""
        way.has_ended = True
        if way is self._down:
            self._stream.finish_writing()
        else:
            self._service.shutdown(socket.SHUT_WR)


def _interest(source: _Way, sink: _Way) -> int:
    """What to wait for on one socket: to read where its bytes can go on, to write where some wait."""
    readable = READABLE if not source.pending and not source.has_ended else 0
    return readable | (WRITABLE if sink.pending else 0)
