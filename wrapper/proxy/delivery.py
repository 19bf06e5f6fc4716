"""An answer's body on its way to the client: piece by piece, each as soon as it is there."""

from __future__ import annotations

import socket

from wrapper.chunked import chunk, last_chunk
from wrapper.http1 import Malformed
from wrapper.proxy import headers
from wrapper.proxy.bell import Bell
from wrapper.proxy.watch import Broken, Rung, comes_within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.answer import AnswerHead
    from wrapper.proxy.relay import Exchange
    from wrapper.proxy.upstream import Connection

SHORT_WAIT = 0.001  # seconds a worker with a seat waits for the rest of a body, which mostly follows at once
LONG_BODY = 256 * 1024  # bytes of an answer after which a worker steps aside


class Delivery:
    """The body of one answer, from `connection` to the client of `exchange`; `is_chunked`: how we frame it."""

    __slots__ = ("_bell", "_connection", "_exchange", "_has_waited", "_is_between", "_is_chunked", "_is_events",
                 "_options")

    def __init__(self, exchange: Exchange, connection: Connection, answer: AnswerHead, is_chunked: bool) -> None:
        self._exchange = exchange
        self._connection = connection
        self._options = answer.options
        self._is_chunked = is_chunked
        self._is_events = is_chunked and b"text/event-stream" in answer.fields.lower()
        self._bell = Bell.make() if self._is_events else None  # of an event stream: somebody wants it to end
        self._is_between = False  # no event of it is half-sent
        self._has_waited = False

    def warn(self) -> None:
        """From another thread, once: look whether this may end now."""
        if self._bell is not None:
            self._bell.ring()

    def run(self, block: bytes, arrived: bytes) -> None:
        """Send `block`, the head, and behind it the body, of which `arrived` has come already.

        Raises: Broken; ClientGone.
        """
        try:
            rest = self._pass_on(block, arrived)
            if self._exchange.is_cut:  # the end that was read may be our own doing
                raise Broken("cut in the middle of the answer")
            if self._is_chunked:
                rest = bytes(rest) + last_chunk(headers.trailers(self._connection.answer.trailers, self._options))
            if rest:
                self._exchange.send(rest)
        except (Malformed, OSError) as error:
            raise Broken(str(error)) from None

    def _pass_on(self, block: bytes, arrived: bytes) -> bytes | memoryview:
        """Everything but the last piece, which is returned to be sent along with the end."""
        exchange, reader, frame = self._exchange, self._connection.answer, chunk if self._is_chunked else bytes
        out: bytes | memoryview = block + frame(arrived)
        tail = arrived[-4:]
        while not reader.is_done:
            if out:
                exchange.send(out)
            if self._is_events and self._may_end(tail):
                return b""
            try:
                pieces = reader.read_piece(exchange.worker.buffer, self._wait, self._flags())
            except Rung:
                out = b""
                continue
            out = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self._is_events:
                tail = (tail + bytes(out[-4:]))[-4:]
            if self._is_chunked:
                out = chunk(out)
            if exchange.sent > LONG_BODY:
                exchange.step_aside()
        return out

    def _flags(self) -> int:
        return socket.MSG_DONTWAIT if self._exchange.worker.is_seated else 0

    def _wait(self) -> None:
        if not self._comes_at_once():
            self._exchange.await_service(None, self._bell if self._is_between else None)

    def _comes_at_once(self) -> bool:
        """The rest of a short body mostly does: that is worth one short wait on a seat."""
        if not self._exchange.worker.is_seated or self._has_waited:
            return False
        self._has_waited = True
        return comes_within(self._connection.sock, SHORT_WAIT)

    def _may_end(self, tail: bytes) -> bool:
        """True where the gate wants this event stream to end and no event would be cut in two by that."""
        self._is_between = not tail or tail.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
        if self._is_between and self._exchange.going:
            self._exchange.keep = False
            return True
        return False
