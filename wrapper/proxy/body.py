"""Bodies on their way, by their framing (RFC 9112 section 6.3).

A request's is read once, as it comes, and sent on to the service by a task of its own.
"""

from __future__ import annotations

from wrapper.errors import BadRequest, Refusal, RequestTimeout
from wrapper.http1.chunked import Chunked, chunk, last_chunk
from wrapper.http1.request import Malformed
from wrapper.loop.loop import NEVER, NEXT_TURN
from wrapper.loop.poller import BROKEN
from wrapper.loop.stream import TURN_SIZE, ClientGone, Gone, ServiceGone
from wrapper.proxy.headers import trailers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.http1.request import RequestHead
    from wrapper.loop.loop import Loop, Steps
    from wrapper.loop.stream import Stream


class Framed:
    """A body on its way in: payload out of what arrives, and what lies behind it back to `_stream.rest`.

    `_chunked` takes it apart, or `_left` bytes of it are to come, None for all until the end.
    """

    trailers = b""
    is_done: bool
    _stream: Stream
    _chunked: Chunked | None
    _left: int | None

    def _payload(self, data: bytes | memoryview) -> bytes | memoryview:
        """Raises: Malformed."""
        if self._chunked is None:
            payload = data[:self._left]
            if self._left is not None:
                self._left -= len(payload)
                self.is_done = not self._left
            if len(payload) < len(data):
                self._stream.rest = bytes(data[len(payload):])
            return payload
        pieces = self._chunked.feed(data)
        self._stream.rest = self._chunked.surplus
        if self._chunked.is_done:
            self.is_done = True
            self.trailers = self._chunked.trailers
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class RequestBody(Framed):
    """The body of one request. `is_done` when it has been read to its end; `patience` is how long a stall may last."""

    received = 0
    ahead = b""  # payload that was read for an own path before it turned out to be the service's
    end = NEVER  # when all of it must be there, on the monotonic clock
    is_awaited = False  # more of it is waited for now, or was in vain
    before_wait: Callable[[], object] = bool  # called before the first wait: where 100 Continue goes out

    def __init__(self, stream: Stream, head: RequestHead, max_trailers: int, patience: float) -> None:
        self._stream = stream
        self._patience = patience
        self._chunked = Chunked(max_trailers) if head.is_chunked else None
        self._left: int = head.length
        self.is_done = not head.has_body

    def take_arrived(self) -> bytes:
        """What of the payload has been read already, behind the head. Raises: BadRequest."""
        if self.is_done or not self._stream.rest:
            return b""
        rest, self._stream.rest = self._stream.rest, b""
        self.received += len(rest)
        return self._payload(rest)  # type: ignore[return-value]  # bytes in, bytes out

    def read(self, view: memoryview) -> Steps:
        """The next payload, by way of `view`, good until the next yield; empty once `is_done`.

        Raises: BadRequest, RequestTimeout, ClientGone.
        """
        if self._stream.rest and self.received and not self.is_done:
            yield NEXT_TURN  # very small chunks, more of them than one turn may take
        payload: bytes | memoryview = self.take_arrived()
        while not payload and not self.is_done:
            most = len(view) if self._chunked else min(self._left, len(view))
            count = self._stream.receive_into(view[:most])
            if count is None:
                yield from self._await_more()
                continue
            if not count:
                raise ClientGone("the client ended before its request")
            self.received += count
            payload = self._payload(view[:count])
        return payload

    def read_within(self, seconds: float, most: int) -> Steps:
        """The payload that comes within `seconds` in all, up to about `most` bytes. Raises: BadRequest, ClientGone."""
        payload, stream = self.take_arrived(), self._stream
        end = stream.loop.now + seconds
        while not self.is_done and len(payload) < most:
            if stream.rest:
                yield NEXT_TURN  # as above
                payload += self.take_arrived()
                continue
            data = stream.receive()
            if data is None:
                if (yield end, stream.link.readable) is None:
                    break
                continue
            if not data:
                raise ClientGone("the client ended before its request")
            self.received += len(data)
            payload += self._payload(data)
        return payload

    def _await_more(self) -> Steps:
        self.before_wait()
        self.before_wait = bool
        self.is_awaited = True
        stream = self._stream
        if (yield min(stream.loop.now + self._patience, self.end), stream.link.readable) is None:
            raise RequestTimeout("the request's body did not come in time")
        self.is_awaited = False

    def _payload(self, data: bytes | memoryview) -> bytes | memoryview:
        """Raises: BadRequest."""
        try:
            payload = super()._payload(data)
        except Malformed as error:
            raise BadRequest(str(error)) from None
        if self._chunked is not None and not self.is_done:
            self.received -= len(self._stream.rest)
        return payload


class Upload:
    """A body on its way to the service, in a task of its own, so that the response may begin before it ends.

    `error` is what ended it early: a refusal, or the client or the service that left. Until it `is_whole` the service
    waits for the rest, and takes whatever follows for it; where none comes, it is told so by the end of our side.
    """

    is_whole = False

    def __init__(self, body: RequestBody, service: Stream, head: RequestHead) -> None:
        self._body = body
        self._client = body._stream
        self._service = service
        self._is_chunked = head.is_chunked
        self._nominated = head.options
        self.error: Refusal | Gone | None = None
        loop = service.loop
        self.task = loop.begin(loop.task(self._run(loop), "an upload"))

    @property
    def is_over(self) -> bool:
        return self.task.is_over

    @property
    def is_spoilt(self) -> bool:
        """True where its client has broken it."""
        return self.error is not None and not isinstance(self.error, ServiceGone)

    def judge(self) -> None:
        """Raises: what broke it, where that was its client."""
        if self.error is not None and self.is_spoilt:
            raise self.error

    def stop(self) -> None:
        """End it, wherever it stands; from another task of the loop."""
        self.task.interrupt(_Stopped())

    def _run(self, loop: Loop) -> Steps:
        # A broken upload must never look complete: its last chunk is sent only behind the whole body.
        try:
            moved = 0
            if self._service.unsent:
                yield from self._pass_on(b"")  # what is left of the head
            while payload := (yield from self._body.read(loop.buffer)):
                yield from self._pass_on(chunk(payload) if self._is_chunked else payload)
                moved += len(payload)
                if moved >= TURN_SIZE:
                    moved = 0
                    yield NEXT_TURN
            if self._is_chunked:
                yield from self._pass_on(last_chunk(trailers(self._body.trailers, self._nominated)))
            self.is_whole = True
        except (Refusal, Gone) as error:
            self.error = error
            self._service.finish_writing()
        except _Stopped:
            pass

    def _pass_on(self, data: bytes | memoryview) -> Steps:
        """Wait as long as the service takes its time, unless the client breaks; its end alone may be half a close.

        Raises: ServiceGone, ClientGone.
        """
        service, client = self._service, self._client.link
        sources: tuple[Any, ...] = (NEVER, service.link.writable, client.ended)
        service.send(data)
        while service.unsent:
            if (yield sources) is not client.ended:
                service.send_unsent()
            elif client.last_event & BROKEN:
                raise ClientGone("the client left")
            else:
                sources = (NEVER, service.link.writable)


class _Stopped(Exception):
    """The exchange needs no more of the body."""
