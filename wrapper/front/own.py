"""One request for an own path: answered in a thread, where code may block, for a client that waits on the loop.

The thread and the client's task talk: the thread asks for the body, says how long it may take, hands over its response
and the pieces of a stream; the task reads and writes. So a slow client costs no thread more than its response needs.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque

from wrapper.errors import GatewayTimeout, Refusal, RequestTimeout, Unavailable
from wrapper.front.reply import has_no_body, head_bytes, own_refusal_bytes, response_parts, unframed
from wrapper.http1.chunked import chunk, last_chunk
from wrapper.http1.message import Request
from wrapper.log import log
from wrapper.loop.loop import NEVER
from wrapper.loop.poller import Notice
from wrapper.loop.stream import TURN_SIZE, ClientGone, Gone
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

    from wrapper.front.server import Server
    from wrapper.http1.message import Response
    from wrapper.http1.request import RequestHead
    from wrapper.loop.loop import Loop, Steps
    from wrapper.loop.stream import Stream
    from wrapper.proxy.body import RequestBody

LONG_CALL = 0.005  # seconds after which a call may be one that computes, for which the others must not wait long
QUEUED_BYTES = 256 * 1024  # of a stream that its client has not taken yet, before its thread waits
BODY_AHEAD = 64 * 1024  # bytes of a body that are awaited before a thread is taken, which may not even want it
BODY_TIMEOUT = 0.2  # seconds that they are awaited
SHORT_INTERVAL = 0.00001  # seconds, for the loop; others wait the kernel's timer slack of 50 us longer


class SwitchInterval:
    """How long one thread may keep the interpreter while others wait: short as long as one call or more asks for it.

    A handler that computes takes the interpreter whenever the loop waits for a socket, and the loop then waits for one
    interval, several times a request. A short one all the time would cost the relay with 128 clients a third of its
    p99.
    """

    def __init__(self) -> None:
        # Guards both: how many ask for a short one, and the interval to go back to.
        self._lock = threading.Lock()
        self._askers = 0
        self._before = 0.0

    def shorten(self) -> None:
        with self._lock:
            if not self._askers:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(SHORT_INTERVAL, self._before))
            self._askers += 1

    def lengthen(self) -> None:
        """Take one `shorten` back."""
        with self._lock:
            self._askers -= 1
            if not self._askers:
                sys.setswitchinterval(self._before)


switch_interval = SwitchInterval()  # one for the process: so is the interpreter


class Talk:
    """Between the thread that answers and the task of its client. The thread's half is also the body of the request."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.messages: deque[tuple[str, Any]] = deque()  # from the thread
        self._notice = Notice(loop)
        self._body: queue.SimpleQueue[bytes | memoryview | BaseException] = queue.SimpleQueue()
        # Guards the four below, and is notified where the thread may go on.
        self._changed = threading.Condition(threading.Lock())
        self._queued = 0  # bytes of pieces that the client has not taken
        self.is_closed = False  # nothing waits for what the thread says any more
        self._is_done = False
        self._is_long = False  # the interpreter switches more often because of this call

    # The thread's half

    def tell(self, kind: str, value: Any = None) -> None:
        self._loop.post(self._hear, kind, value)

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Raises: what reading it raises."""
        while True:
            if self._body.empty():
                self.tell("more")
            piece = ClientGone("the client left") if self.is_closed else self._body.get()
            if isinstance(piece, BaseException):
                raise piece
            if not piece:
                return
            yield bytes(piece)

    def limit_time(self, seconds: float | None, late: Callable[[], None]) -> None:
        """From now on the response may take so long; after that `late` is called, in another thread."""
        self.tell("limit", (seconds, late))

    def put(self, piece: bytes) -> None:
        """Send a piece of a stream, as soon as the client has taken most before it. Raises: ClientGone."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_closed or self._queued < QUEUED_BYTES)
            if self.is_closed:
                raise ClientGone("the client left")
            self._queued += len(piece)
        if piece:
            self.tell("piece", piece)

    def finish(self) -> None:
        """The thread has nothing more to say."""
        with self._changed:
            self._is_done = True
            is_long = self._is_long
        if is_long:
            switch_interval.lengthen()

    # The task's half

    def _hear(self, kind: str, value: Any) -> None:
        self.messages.append((kind, value))
        self._notice.give_now()

    def next(self, client: Stream | None, deadline: float) -> Steps:
        """The next message, None at the deadline; `client` is watched meanwhile. Raises: ClientGone."""
        if not self.messages:
            if client is None:
                yield deadline, self._notice
            else:
                yield from client.watch(deadline, self._notice)
        self._notice.is_given = False
        return self.messages.popleft() if self.messages else None

    def give(self, piece: bytes | memoryview | BaseException) -> None:
        """Hand the thread more of the body, b"" at its end, or the reason why there is no more."""
        self._body.put(bytes(piece) if isinstance(piece, memoryview) else piece)

    def took(self, size: int) -> None:
        """Note that the client has taken `size` bytes, so that the thread may go on."""
        with self._changed:
            self._queued -= size
            self._changed.notify_all()

    def grow_long(self) -> None:
        """Have the interpreter switch more often until the thread is done."""
        with self._changed:
            if self._is_done or self._is_long:
                return
            self._is_long = True
            switch_interval.shorten()

    def close(self) -> None:
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()
        self._body.put(ClientGone("the client left"))


class OwnExchange:
    """A request for one of the wrapper's own paths, and its response."""

    first_byte = held = 0.0  # as an `Exchange` has them; here nothing waits at a gate, or is sent twice
    is_replayed = False
    failure = ""

    def __init__(self, client: Stream, peer: str | None, port: Server, head: RequestHead, body: RequestBody,
                 path: str) -> None:
        self._client = client
        self._port = port
        self._body = body
        self._loop = client.loop
        self._talk = Talk(client.loop)
        self._request = Request(head, path, self._talk, peer, port.trusted)
        self._is_head = head.method == b"HEAD"
        self._minor = head.minor
        self._has_begun = False
        self._is_stream = False  # its pieces go out as they come
        self.keep = head.keep and not port.is_closing
        self.is_broken = False  # it ended before its end
        self.status = 0
        self.sent = 0
        if head.expects:
            body.before_wait = self._continue

    def run(self) -> Steps:
        """False where the path is not one of the wrapper's own after all."""
        try:
            response = yield from self._answer()
            if response is None:
                self._body.before_wait = bool
                return False
            self._body.ahead = b""
            yield from self._send(response)
        except Refusal as refusal:
            yield from self._refuse(refusal)
        except Gone:
            self._break_off()
        except Exception as error:  # noqa: BLE001  whatever a sidecar does, the client gets a response
            log.error("an own path failed", path=self._request.path, cause=repr(error))
            yield from self._refuse(Refusal("the wrapper failed"))
        finally:
            self._talk.close()
        return True

    def _answer(self) -> Steps:
        """The response, None where the path is the service's. Raises: a Refusal, what the thread raised; ClientGone."""
        if self._port.site.is_quick(self._request.path):
            return self._port.site.answer(self._request)
        if self._body.before_wait is bool:
            self._body.ahead = yield from self._body.read_within(BODY_TIMEOUT, BODY_AHEAD)
            if self._body.ahead:
                self._talk.give(self._body.ahead)
        try:
            self._port.workers.submit(self._work)
        except NoThread as error:
            self._port.shortage.note("threads", self._loop)
            raise Unavailable(f"no thread can be had for this path: {error}") from None
        return (yield from self._converse())

    def _converse(self) -> Steps:
        """Do what the thread asks for until it has its response."""
        talk, deadline, limit = self._talk, NEVER, NEVER
        late: Callable[[], object] = bool
        while True:
            message = yield from talk.next(None, deadline)
            if message is None:
                if self._loop.now >= limit:
                    if self._body.is_awaited:
                        raise RequestTimeout("the request's body did not come in time")
                    self._report(late)
                    raise GatewayTimeout("the sidecar did not answer in time")
                talk.grow_long()
                deadline = limit
                continue
            kind, value = message
            if kind == "answer":
                return value
            if kind == "failed":
                raise value
            if kind == "limit":
                seconds, late = value
                limit = self._body.end = NEVER if seconds is None else self._loop.now + seconds
                deadline = min(limit, self._loop.now + LONG_CALL)
            elif kind == "more":
                yield from self._read_more()

    def _report(self, late: Callable[[], object]) -> None:
        try:
            self._port.workers.submit(late)
        except NoThread as error:
            log.warning("no thread can be had to report a call that hangs", cause=error)

    def _read_more(self) -> Steps:
        try:
            self._talk.give((yield from self._body.read(self._loop.buffer)))
        except (Refusal, ClientGone) as error:
            self._talk.give(error)

    # In the thread

    def _work(self) -> None:
        talk, response = self._talk, None
        try:
            response = self._admitted(self._port.site.answer(self._request))
            talk.tell("answer", response)
        except BaseException as error:  # noqa: BLE001  sys.exit() in a sidecar is its own affair
            talk.tell("failed", _as_exception(error))
        finally:
            talk.finish()
        if response is not None:
            self._stream(response)

    def _admitted(self, response: Response | None) -> Response | None:
        """Raises: Unavailable for a stream where streams have half of all threads already."""
        self._is_stream = (response is not None and response.is_streamed and not self._is_head
                           and not has_no_body(response.status))
        if self._is_stream and not self._port.workers.begin_stream():
            assert response is not None
            response.close()
            self._loop.post(self._port.shortage.note, "threads", self._loop)
            raise Unavailable("there are too many streams already")
        return response

    def _stream(self, response: Response) -> None:
        """Hand over the pieces as they come, and close what they come from."""
        try:
            if self._is_stream:
                for piece in response.pieces():
                    for at in range(0, len(piece) or 1, TURN_SIZE):  # an empty one asks whether the client is there
                        self._talk.put(piece[at:at + TURN_SIZE])
                self._talk.tell("end")
        except ClientGone:
            pass
        except BaseException as error:  # noqa: BLE001  as above
            self._talk.tell("end", _as_exception(error))
        finally:
            response.close()
            if self._is_stream:
                self._port.workers.end_stream()

    # Back on the loop

    def _continue(self) -> None:
        if not self._has_begun:
            self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _send(self, response: Response) -> Steps:
        self.keep = self.keep and self._body.is_done and not self._port.is_closing
        self.status = response.status
        if response.is_streamed:
            yield from self._stream_out(response)
        else:
            head, body = response_parts(response.status, response.headers, None, response.whole(),
                                      not self.keep, self._is_head, self._minor)
            if len(body) <= TURN_SIZE:
                head, body = head + body, b""
            yield from self._say(head)
            if body:
                yield from self._say(body)

    def _stream_out(self, response: Response) -> Steps:
        fields, promised = unframed(response.headers)
        is_chunked = False
        if promised is not None and response.status != 204:
            fields.append(("Content-Length", str(promised)))
        elif not has_no_body(response.status):
            is_chunked = self._minor == 1
            self.keep = self.keep and is_chunked
            fields += [("Transfer-Encoding", "chunked")] if is_chunked else []
        yield from self._say(head_bytes(response.status, fields, not self.keep, self._minor))
        if self._is_head or has_no_body(response.status):
            return
        yield from self._pass_on(response, promised, is_chunked)
        if is_chunked:
            yield from self._say(last_chunk())

    def _pass_on(self, response: Response, promised: int | None, is_chunked: bool) -> Steps:
        """The pieces, as much as was promised. Raises: ValueError where that was less; what the thread raised."""
        talk, left = self._talk, sys.maxsize if promised is None else promised
        while left > 0:
            silence = self._loop.now + response.heartbeat_interval if response.heartbeat else NEVER
            message = yield from talk.next(self._client, silence)
            kind, value = message or ("piece", response.heartbeat)
            if kind == "more":
                yield from self._read_more()
                continue
            if kind == "end":
                if isinstance(value, BaseException):
                    raise value
                if promised is not None:
                    raise ValueError(f"the body is {left} bytes shorter than its Content-Length")
                return
            piece = value[:left]
            left -= len(piece)
            yield from self._say(chunk(piece) if is_chunked else piece)
            if message is not None:
                talk.took(len(value))

    def _refuse(self, refusal: Refusal) -> Steps:
        if self._has_begun:
            self._break_off()
            return
        self.status = refusal.status
        self.keep = self.keep and self._body.is_done
        try:
            yield from self._say(own_refusal_bytes(refusal, not self.keep, self._is_head, self._minor))
        except ClientGone:
            self._break_off()

    def _break_off(self) -> None:
        """Give the response up: what follows could only pretend to be its end."""
        self.keep = False
        self.is_broken = self._has_begun
        self.status = self.status or 499

    def _say(self, data: bytes) -> Steps:
        self._has_begun = True
        self.sent += len(data)
        yield from self._client.write(data, self._port.settings.idle_timeout)


def _as_exception(error: BaseException) -> Exception:
    """An error that may be raised on the loop: sys.exit() in a sidecar must end no more than its response."""
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
