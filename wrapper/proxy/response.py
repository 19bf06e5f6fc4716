"""Reads what the service answers on one connection, strictly: heads by `http1.response`, bodies by their framing."""

from __future__ import annotations

import http.client

from wrapper.http1.chunked import Chunked, Framed
from wrapper.http1.request import MAX_REMEMBERED
from wrapper.loop.stream import ServiceGone
from wrapper.http1.response import read_response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.loop.stream import Stream
    from wrapper.http1.response import ResponseHead

RESPONSE_HEAD_MAX = 256 * 1024  # bytes of a response's head


class ServiceResponse(Framed, http.client.HTTPResponse):
    """Reads one response after the other from `stream`, whose `rest` is what was read and not used yet.

    `is_done` once the body of the present one has been read to its end.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.fp = None  # type: ignore[assignment]  # what http.client looks at to see whether a response is closed
        self.head: ResponseHead | None = None
        self._last = (b"", b"")  # method and bytes of the head that `head` was read from
        self._known = 0  # bytes in `rest` that are no whole head yet
        self.is_done = False
        self.has_begun = False  # something of the present response has come, if only an interim one
        self._chunked = None
        self._left = 0
        self._is_followed = False  # a service may send a body behind this response, though there is none

    def receive(self) -> bool:
        """Take what has arrived into `rest`; False where nothing has. Raises: ServiceGone."""
        data = self._stream.receive()
        if data is None:
            return False
        if not data:
            raise ServiceGone("the service closed the connection")
        rest = self._stream.rest
        self._stream.rest = rest + data if rest else data
        return True

    def next_head(self, method: bytes) -> ResponseHead | None:
        """The next head, interim or final; None while it is not all there. Raises: Malformed."""
        data = self._stream.rest
        if not data:
            return None
        last_method, last = self._last
        if method == last_method and data.startswith(last) and self.head is not None:
            head = self.head  # the same to the byte, up to and with the empty line: known already
        elif (head := self._judge_head(data, method)) is None:  # type: ignore[assignment]
            return None
        self._stream.rest = data[head.end:]
        self.has_begun = True
        if not head.is_interim:
            self._chunked = Chunked(RESPONSE_HEAD_MAX, mends=True) if head.is_chunked else None
            self._left = head.length
            self.is_done = not head.is_chunked and head.length == 0
            self.trailers = b""
        return head

    def _judge_head(self, data: bytes, method: bytes) -> ResponseHead | None:
        head = read_response(data, RESPONSE_HEAD_MAX, self._known)
        self._known = len(data) if head is None else 0
        if head is None:
            return None
        says_body = head.is_chunked or bool(head.length)
        head.frame_for(method)
        # A HEAD handler that is the GET handler, and 204s and 304s of the same make, send it all the same, and late.
        self._is_followed = says_body and head.length == 0 and not head.is_chunked
        self.head = head
        self._last = (method, data[:head.end]) if head.end <= MAX_REMEMBERED else (b"", b"")
        return head

    def take_arrived(self) -> bytes | memoryview:
        """The payload that was read along with the head. Raises: Malformed."""
        rest = self._stream.rest
        if not rest:
            return b""
        self._stream.rest = b""
        return self._payload(rest)

    def read_some(self, view: memoryview) -> bytes | memoryview | None:
        """More payload by way of `view`, None where nothing has arrived; `is_done` says when that was the last.

        Raises: Malformed; ServiceGone where the body is cut short.
        """
        if self._stream.rest:
            return self.take_arrived()
        count = self._stream.receive_into(view)
        if count is None:
            return None
        if count:
            return self._payload(view[:count])
        if self._left is not None or self._chunked is not None or self._stream.was_reset:
            raise ServiceGone("the service closed the connection in the middle of its response")
        self.is_done = True
        return b""

    def can_be_followed(self) -> bool:
        """True where the next response on this connection can be trusted to be the next request's."""
        head = self.head
        return self.is_done and not self._stream.rest and head is not None and head.keep and not self._is_followed \
            and not (head.length is None and not head.is_chunked)

    def close(self) -> None:
        """Nothing to do: the connection owns the socket."""

