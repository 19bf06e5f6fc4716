"""From what an author's handler returns to an answer: dict, list, text, bytes, (status, body), Response, generator."""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import GeneratorType

from wrapper.errors import Refusal
from wrapper.message import Response
from wrapper.sidecar import sse
from wrapper.sidecar.isolation import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.message import Piece
    from wrapper.sidecar.isolation import Guard

# The server frames and dates its answers itself; two of these would contradict each other (RFC 9110 section 7.6.1).
NOT_THEIRS = frozenset({"connection", "date", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
                        "upgrade"})
FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
NO_CONTENT = 204
NOT_MODIFIED = 304
QUEUED_EVENTS = 16  # that a slow client may be behind its generator


def response_of(result: Any, guard: Guard, what: str, is_head: bool = False) -> Response:
    """Raises: TypeError for what nobody can send, ValueError for a field, a length or a status that is none."""
    status, body, headers = _taken_apart(result) if isinstance(result, tuple) else (None, result, ())
    given = body if isinstance(body, Response) else _response(body, guard, what)
    # A new one: an author may keep an answer and return it again and again.
    response = Response(given.body, status or given.status, clean([*given.headers, *headers]))
    if not isinstance(response.status, int) or not 200 <= response.status <= 599:
        raise ValueError(f"{response.status!r} is no status of an answer")
    if isinstance(response.body, (bytes, bytearray, str)):
        judge_length(response, is_head)
    elif not isinstance(response.body, Events):
        response.body = Stream(response.body, guard, what, length_of(response.headers))
    return response


def judge_length(response: Response, is_head: bool) -> None:
    """Raises: ValueError for a whole body that is not as long as its Content-Length says."""
    length, body = length_of(response.headers), response.whole()
    # RFC 9110 section 8.6: an answer to HEAD, or a 304, has the length of what GET would get.
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
        return Response(json.dumps(body) + "\n", content_type="application/json")
    if isinstance(body, str):
        return Response(body, content_type="text/plain; charset=utf-8")
    if isinstance(body, (bytes, bytearray)):
        return Response(bytes(body), content_type="application/octet-stream")
    if isinstance(body, GeneratorType):
        return sse.response(Events(body, guard, what))
    raise TypeError(f"{type(body).__name__} is no answer: return a dict, list, str, bytes, None, (status, body), "
                    "a Response or a generator")


def clean(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields that may go out.

    Raises: ValueError for one that is none: a line break in it would begin another answer.
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


class Stream:
    """Pieces of an author's body on their way out. What goes wrong breaks the answer off: an end would be a lie."""

    def __init__(self, pieces: Iterable[Piece], guard: Guard, what: str, length: int | None = None) -> None:
        self._source = pieces
        self._pieces = iter(pieces)
        self._guard = guard
        self._what = what
        self._left = length

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._next()) is not None:
            if self._left is not None:
                if len(piece) > self._left:
                    self._guard.failed(self._what, ValueError("more bytes than its Content-Length"))
                    yield piece[:self._left]
                    return
                self._left -= len(piece)
            yield piece
        if self._left:
            self._break(ValueError(f"{self._left} bytes less than its Content-Length"))

    def _next(self) -> bytes | None:
        try:
            piece = next(self._pieces)
            return piece.encode() if isinstance(piece, str) else bytes(piece)
        except StopIteration:
            return None
        except BaseException as error:  # sys.exit() too
            self._break(error)
            raise AssertionError from error

    def _break(self, error: BaseException) -> None:
        self._guard.failed(self._what, error)
        raise Refusal("the sidecar's code failed") from None

    def close(self) -> None:
        close(self._source)


class Events:
    """Events of an author's generator as they come, from a thread of its own.

    So a generator that is silent for long is no reason not to notice that the client left.
    """

    def __init__(self, generator: GeneratorType[Any, None, None], guard: Guard, what: str) -> None:
        self._generator = generator
        self._guard = guard
        self._what = what
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(QUEUED_EVENTS)
        self._has_begun = False
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        self._has_begun = True
        threading.Thread(target=self._pump, name=f"{self._guard.name} {self._what}", daemon=True).start()
        while True:
            try:
                item = self._queue.get(timeout=sse.HEARTBEAT_INTERVAL)
            except queue.Empty:
                yield sse.HEARTBEAT
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                self._guard.failed(self._what, item)
                raise Refusal("the sidecar's code failed")
            yield item

    def _pump(self) -> None:
        last: BaseException | None = None
        try:
            for item in self._generator:
                self._queue.put(event(item))
                if self._is_closed:
                    break
        except BaseException as error:  # noqa: BLE001  # sys.exit() too
            last = error
        close(self._generator)
        self._queue.put(last)

    def close(self) -> None:
        """Let the generator end at its next event: it cannot be ended while it runs."""
        self._is_closed = True
        if not self._has_begun:
            close(self._generator)
        while not self._queue.empty():
            self._queue.get_nowait()


def event(item: Any) -> bytes:
    """What one `yield` says: data, or (event, data); None is a sign of life; bytes go out as they are."""
    if item is None:
        return sse.HEARTBEAT
    if isinstance(item, bytes):
        return item
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
        return sse.message(item[1], item[0])
    return sse.message(item)
