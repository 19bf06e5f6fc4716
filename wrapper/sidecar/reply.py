"""From what authors' code returns to a response: dict, list, text, bytes, (status, body), Response, generator.

A body in pieces and the events of a generator go out as they come. Each such stream has the thread of its call for as
long as its client likes, so there are only so many slots for them. What goes wrong breaks the response off: an end
would be a lie. A client that left is noticed at the next piece.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import GeneratorType

from wrapper.errors import Refusal, Unavailable
from wrapper.http1.message import Response, encoded
from wrapper.http1.request import TOKEN, VALUE
from wrapper.sidecar.isolation import close
from wrapper.text import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.http1.message import Piece, Request
    from wrapper.sidecar.access import Access
    from wrapper.sidecar.isolation import Guard

    Slots = set["SlottedStream"]

# The server frames and dates its responses itself; two of these would contradict each other (RFC 9110 section 7.6.1).
NOT_THEIRS = frozenset({"connection", "date", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
                        "upgrade"})
FIELD_NAME, FIELD_VALUE = re.compile(TOKEN.decode("latin-1")), re.compile(VALUE.decode("latin-1"))
NO_CONTENT = 204
NOT_MODIFIED = 304

MOST_STREAMS = 100  # of the wrapper's own, and of each sidecar
RETRY_AFTER = 5  # seconds

EVENT_STREAM = "text/event-stream; charset=utf-8"
HEARTBEAT_INTERVAL = 15.0  # seconds: gone clients are noticed, and no proxy in between takes silence for the end
HEARTBEAT = b": \n\n"
NO_STORE = ("Cache-Control", "no-store")
NO_BUFFER = ("X-Accel-Buffering", "no")  # nginx gathers what it passes on unless told otherwise


def response_of(result: Any, guard: Guard, what: str, slots: Slots, is_head: bool = False) -> Response:
    """The response that an author's `result` means; a stream takes one of `slots`.

    Raises: TypeError for what cannot be sent, ValueError for a field, a length or a status that is none; Unavailable.
    """
    status, body, headers = _taken_apart(result) if isinstance(result, tuple) else (None, result, ())
    given = body if isinstance(body, Response) else _response(body, guard, what)
    # A new one: an author may keep a response and return it again and again.
    fields = list(headers)
    said = {name.lower() for name, _ in fields} if given is not body else set()  # ours only stand in for the author's
    response = Response(given.body, status or given.status, clean(
        [*(field for field in given.headers if field[0].lower() not in said), *fields]))
    response.heartbeat, response.heartbeat_interval = given.heartbeat, given.heartbeat_interval
    if not isinstance(response.status, int) or not 200 <= response.status <= 599:
        raise ValueError(f"{response.status!r} is no status of an answer")
    if not response.is_streamed:
        judge_length(response, is_head)
    else:
        stream = response.body if isinstance(response.body, AuthorStream) else AuthorStream(
            response.body, guard, what, length_of(response.headers))
        response.body = SlottedStream(stream, slots)
    return response


def judge_length(response: Response, is_head: bool) -> None:
    """Raises: ValueError for a whole body that is not as long as its Content-Length says."""
    length, body = length_of(response.headers), response.whole()
    # RFC 9110 section 8.6: a response to HEAD, or a 304, has the length of what GET would get.
    is_absent = not body and (is_head or response.status == NOT_MODIFIED)
    if length not in (None, len(body)) and not is_absent:
        raise ValueError(f"the body has {len(body)} bytes, and its Content-Length is {length}")


def _taken_apart(result: tuple[Any, ...]) -> tuple[int, Any, Iterable[tuple[str, str]]]:
    if len(result) not in (2, 3):
        raise TypeError("expected (status, body) or (status, body, headers)")
    headers = result[2] if len(result) == 3 else ()
    return result[0], result[1], headers.items() if isinstance(headers, Mapping) else headers


def _response(body: Any, guard: Guard, what: str) -> Response:
    if body is None:
        return Response(status=NO_CONTENT)
    if isinstance(body, (dict, list)):
        return Response(dumps(body) + "\n", content_type="application/json")
    if isinstance(body, str):
        return Response(body, content_type="text/plain; charset=utf-8")
    if isinstance(body, (bytes, bytearray)):
        return Response(bytes(body), content_type="application/octet-stream")
    if isinstance(body, GeneratorType):
        return event_stream(AuthorStream(body, guard, what, encode=event))
    raise TypeError(f"{type(body).__name__} is no answer: return a dict, list, str, bytes, None, (status, body), "
                    "a Response or a generator")


def clean(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields that may go out.

    Raises: ValueError for one that is none: a line break in it would begin another response.
    """
    kept = []
    for name, value in headers:
        if FIELD_NAME.fullmatch(name) is None or FIELD_VALUE.fullmatch(value) is None:
            raise ValueError(f"the field {name!r} of the answer is malformed")
        if name.lower() not in NOT_THEIRS:
            kept.append((name, value))
    return kept


def length_of(headers: Iterable[tuple[str, str]]) -> int | None:
    """The Content-Length, None where there is none.

    Raises: ValueError where it is no length.
    """
    lengths = {value.strip() for name, value in headers if name.lower() == "content-length"}
    if not lengths:
        return None
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit()):
        raise ValueError("the Content-Length of the answer is malformed")
    return int(length)


# Streams


class AuthorStream:
    """Pieces of an author's on their way out, as `encode` makes them; not more than `length` bytes where it has one.

    `owner` is what is closed in the end, where that is not the source itself.
    """

    def __init__(self, source: Iterable[Any], guard: Guard, what: str, length: int | None = None,
                 encode: Callable[[Any], bytes] = encoded, owner: object = None) -> None:
        self._source = source
        self._pieces: Iterator[Any] | None = None
        self._owner = source if owner is None else owner
        self._guard = guard
        self._what = what
        self._left = length
        self._encode = encode
        self._has_begun = False
        self._has_failed = False

    def __iter__(self) -> Iterator[bytes]:
        self._has_begun = True
        while (piece := self._next()) is not None:
            if self._left is not None:
                if len(piece) > self._left:
                    self._fail(ValueError("more bytes than its Content-Length"))
                    yield piece[:self._left]
                    return
                self._left -= len(piece)
            yield piece
        if self._left:
            raise self._fail(ValueError(f"{self._left} bytes less than its Content-Length"))

    def _next(self) -> bytes | None:
        try:
            if self._pieces is None:
                self._pieces = iter(self._source)  # authors' code, too
            return self._encode(next(self._pieces))
        except StopIteration:
            return None
        except BaseException as error:  # noqa: BLE001  sys.exit() too
            raise self._fail(error) from None

    def _fail(self, error: BaseException) -> Refusal:
        self._has_failed = True
        self._guard.failed(self._what, error)
        return Refusal("the sidecar's code failed")

    def close(self) -> None:
        """Close what the pieces come from: all of them are out, or the client has left."""
        if self._has_begun and not self._has_failed:
            self._guard.went_well(self._what)
        close(self._owner)


def event_stream(pieces: Iterable[Piece]) -> Response:
    """A stream that nothing in between may keep or gather."""
    made = Response(pieces, headers=(NO_STORE, NO_BUFFER), content_type=EVENT_STREAM)
    made.heartbeat, made.heartbeat_interval = HEARTBEAT, HEARTBEAT_INTERVAL
    return made


def event(item: Any) -> bytes:
    """What one `yield` says: data, or (event, data); None is a sign of life; bytes go out as they are."""
    if item is None:
        return HEARTBEAT
    if isinstance(item, bytes):
        return item
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return message(item[1], item[0])
    return message(item)


def message(data: Any, event: str | None = None, name: str | None = None) -> bytes:
    """One server-sent event (WHATWG HTML, section 9.2): `data` as it is where it is text, else as JSON.

    `event` is its type, `name` its id.
    """
    text = data if isinstance(data, str) else dumps(data)
    if any(character in f"{event}{name}" for character in "\r\n"):
        raise ValueError("a line break in the name of an event")  # it would begin another field
    lines = [f"id: {name}"] if name is not None else []
    if event is not None:
        lines.append(f"event: {event}")
    lines.extend(f"data: {line}" for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


# Guards all sets of streams that have a slot: no more get in than there are slots.
ENTERING = threading.Lock()


class SlottedStream:
    """A stream that stands in `slots`, with MOST_STREAMS others at most, until it is closed.

    Raises: Unavailable where all are taken; the stream is closed then, and its client is told to come again.
    """

    def __init__(self, pieces: Iterable[Piece], slots: Slots) -> None:
        self._pieces = pieces
        self._slots = slots
        with ENTERING:
            is_full = len(slots) >= MOST_STREAMS
            if not is_full:
                slots.add(self)
        if is_full:
            close(pieces)
            raise Unavailable(f"{MOST_STREAMS} streams are open already", RETRY_AFTER)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def close(self) -> None:
        close(self._pieces)
        self._slots.discard(self)


class StreamSlots:
    """Slots for streams: strangers must not be able to take those of an operator."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._strangers: Slots = set()
        self._operators: Slots = set()

    def of(self, request: Request) -> Slots:
        return self._operators if self._access.knows(request) else self._strangers
