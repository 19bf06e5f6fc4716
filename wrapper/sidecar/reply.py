"""From what an author's handler returns to a response: dict, list, text, bytes, (status, body), Response, generator."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import GeneratorType

from wrapper.http1.request import TOKEN, VALUE
from wrapper.http1.message import Response
from wrapper.text import dumps
from wrapper.sidecar import sse
from wrapper.sidecar.streams import AuthorStream, SlottedStream, event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.sidecar.isolation import Guard
    from wrapper.sidecar.streams import Slots

# The server frames and dates its responses itself; two of these would contradict each other (RFC 9110 section 7.6.1).
NOT_THEIRS = frozenset({"connection", "date", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
                        "upgrade"})
FIELD_NAME, FIELD_VALUE = re.compile(TOKEN.decode("latin-1")), re.compile(VALUE.decode("latin-1"))
NO_CONTENT = 204
NOT_MODIFIED = 304


def response_of(result: Any, guard: Guard, what: str, slots: Slots, is_head: bool = False) -> Response:
    """A stream takes one of `slots`.

    Raises: TypeError for what cannot be sent, ValueError for a field, a length or a status that is none; Unavailable.
    """
    status, body, headers = _taken_apart(result) if isinstance(result, tuple) else (None, result, ())
    given = body if isinstance(body, Response) else _response(body, guard, what)
    # A new one: an author may keep a response and return it again and again.
    response = Response(given.body, status or given.status, clean([*given.headers, *headers]))
    response.heartbeat, response.heartbeat_interval = given.heartbeat, given.heartbeat_interval
    if not isinstance(response.status, int) or not 200 <= response.status <= 599:
        raise ValueError(f"{response.status!r} is no status of an answer")
    if isinstance(response.body, (bytes, bytearray, str)):
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
        return sse.response(AuthorStream(body, guard, what, encode=event))
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
