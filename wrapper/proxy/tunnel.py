"""Bytes both ways after a 101, or for HTTP/2 that is passed on untouched: one task for both directions.

Nothing is read ahead of what the other side takes; an end of one side is carried over to the other, which then has
`END_TIMEOUT` of silence until it is taken for gone.
"""

from __future__ import annotations

from wrapper.errors import Refusal
from wrapper.loop.loop import NEVER, NEXT_TURN
from wrapper.loop.poller import RESET
from wrapper.loop.stream import Gone
from wrapper.proxy.admission import Cut, Travelling
from wrapper.proxy.frames import CLOSE_CODES, Frames, close_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.loop.loop import Steps
    from wrapper.loop.stream import Stream
    from wrapper.proxy.upstream import Upstream

READ_SIZE = 32 * 1024  # bytes: a flood of the smallest frames in it takes about 5 ms to follow
END_TIMEOUT = 15.0  # seconds of silence; a peer that never closes its half stays in FIN_WAIT2 for ever


class _Way:
    """One direction: where its bytes come from and go to, and how far it has come."""

    __slots__ = ("frames", "has_ended", "is_closed", "moved", "sink", "source")

    def __init__(self, source: Stream, sink: Stream, is_framed: bool) -> None:
        self.source = source
        self.sink = sink
        self.frames = Frames() if is_framed else None
        self.has_ended = False  # its end has been carried over
        self.is_closed = False  # a Close of ours was its last frame
        self.moved = 0


class Tunnel:
    """The bytes between the client of `traveller` and `service`, from the point where both have been read so far."""

    def __init__(self, traveller: Travelling, service: Stream, *, is_websocket: bool) -> None:
        self._up = _Way(traveller.client, service, is_websocket)
        self._down = _Way(service, traveller.client, is_websocket)
        self._warned = traveller.warning()  # given when the run of the service is about to end
        self._loop = traveller.loop
        self._code = 0  # of the Close frames to send, 0 for none
        self._traveller = traveller
        self._has_half_closed = False  # the client, and not all before its end has been read

    @property
    def received(self) -> int:
        return self._up.moved

    @property
    def sent(self) -> int:
        return self._down.moved

    def run(self) -> Steps:
        """Carry bytes both ways until both sides have ended, or one has broken."""
        try:
            for way in (self._up, self._down):
                rest, way.source.rest = memoryview(way.source.rest), b""
                for at in range(0, len(rest), READ_SIZE):
                    self._pass_on(way, rest[at:at + READ_SIZE])
                    yield NEXT_TURN
                self._move_unseen(way)
            ways = {way.source.link.readable: way for way in (self._up, self._down)}
            flowing = (NEVER, self._warned, *ways)  # nearly all the time: both ways open, and nothing in arrears
            while not (self._up.has_ended and self._down.has_ended):
                fired = yield flowing if self._is_flowing() else self._wait()
                if fired in ways and not self._code:
                    self._move(ways[fired])
                elif not self._go_on(fired):
                    break
        except Gone:
            pass

    def _is_flowing(self) -> bool:
        up, down = self._up, self._down
        return not (self._code or up.sink.unsent or down.sink.unsent or up.has_ended or down.has_ended)

    def _wait(self) -> tuple[Any, ...]:
        """What to wait for: bytes to read where they can go on, room where some wait; with a deadline after an end."""
        sources: list[Any] = [] if self._code else [self._warned]
        for way in (self._up, self._down):
            if way.sink.unsent:
                sources.append(way.sink.link.writable)
            elif not way.has_ended:
                sources.append(way.source.link.readable)
        if self._up.sink.unsent and not self._has_half_closed:
            sources.append(self._up.source.link.ended)  # it is not read now, and so would not be seen to break
        has_ended = self._up.has_ended or self._down.has_ended
        return (self._loop.now + END_TIMEOUT if has_ended else NEVER, *sources)

    def _go_on(self, fired: Any) -> bool:
        """Do what `fired` asks for; False where the client broke, or the silence after an end was too long."""
        client = self._up.source.link
        if fired is None or (fired is client.ended and client.last_event & RESET):
            return False
        self._has_half_closed = self._has_half_closed or fired is client.ended
        if fired is self._warned:
            self._close_ways()
        for way in (self._up, self._down):
            if fired is way.source.link.readable:
                self._move(way)
            elif fired is way.sink.link.writable:
                way.sink.send_unsent()
                self._move_unseen(way)
        return True

    def _move_unseen(self, way: _Way) -> None:
        """Pass on what TLS has taken from the kernel already: no event tells of it any more."""
        if not (way.sink.unsent or way.has_ended) and way.source.has_unseen():
            self._move(way)

    def _move(self, way: _Way) -> None:
        while True:
            view = self._loop.buffer[:READ_SIZE]
            count = way.source.receive_into(view)
            if count is None:
                return
            if not count:
                way.has_ended = True
                way.sink.finish_writing()
                return
            self._pass_on(way, view[:count])
            if way.sink.unsent or not way.source.has_unseen():
                return

    def _pass_on(self, way: _Way, data: memoryview) -> None:
        way.moved += len(data)
        if way.is_closed:
            return
        if way.frames is not None:
            last = way.frames.feed(data)
            if self._code and last >= 0:
                way.sink.send(data[:last])
                self._close(way)
                return
        way.sink.send(data)

    def _close_ways(self) -> None:
        """Send Close frames both ways, as soon as no frame is cut in two by that."""
        self._code = CLOSE_CODES[self._traveller.going]
        for way in (self._up, self._down):
            if way.frames is not None and way.frames.is_between:
                self._close(way)

    def _close(self, way: _Way) -> None:
        way.sink.send(close_frame(self._code, is_masked=way is self._up))
        way.is_closed = True


# RFC 9113 section 3.4. After its first 16 bytes alone a service would still take what follows for HTTP/1.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Passthrough(Travelling):
    """One HTTP/2 connection on its way. Nothing can be said to its client in words that HTTP/2 would understand."""

    def run(self) -> Steps:
        """Hold it at the gate where need be, then tunnel it until both sides have ended. Raises: ClientGone."""
        try:
            lane = yield from self.enter()
            self.mark_lasting(is_deaf=True)
            upstream: Upstream = lane.upstream
            connection = yield from upstream.connect(self.loop)
            try:
                yield from Tunnel(self, connection.stream, is_websocket=False).run()
            finally:
                connection.close()
        except (Refusal, Cut, Gone):
            pass
        finally:
            self.leave()
