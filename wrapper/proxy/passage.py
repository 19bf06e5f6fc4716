"""A connection that is passed to the service as it is: HTTP/2 with prior knowledge (RFC 9113 section 3.3)."""

from __future__ import annotations

from wrapper.errors import Refusal, Unavailable
from wrapper.proxy.tunnel import Tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.gate import Gate, Lane
    from wrapper.pool import Worker
    from wrapper.proxy.upstream import Upstream
    from wrapper.stream import Stream


class Passage:
    """A connection that is passed to the service as it is, as the gate sees it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def proceed(self, lane: Lane | None, refusal: Refusal | None, held: float) -> None:
        return

    def warn(self, going: str) -> None:
        return  # nothing can be said that HTTP/2 would understand

    def cut(self) -> None:
        self._stream.cut()

    def travel(self, lane: Lane, worker: Worker) -> None:
        if not worker.step_aside():
            raise Unavailable("no thread can be had for this connection")
        upstream: Upstream = lane.upstream  # type: ignore[assignment]
        connection = upstream.connect()
        try:
            Tunnel(self._stream, connection.sock, b"", False).run(worker.buffer)
        finally:
            connection.close()


def pass_through(stream: Stream, gate: Gate, worker: Worker) -> None:
    """Tunnel the connection of `stream` to the service behind `gate`; HTTP/2 cannot be held, nor told why not."""
    passage = Passage(stream)
    try:
        lane = gate.admit(passage, may_wait=False)
    except Refusal:
        return
    assert lane is not None
    try:
        passage.travel(lane, worker)
    except Refusal:
        pass
    finally:
        gate.leave(lane, passage)
