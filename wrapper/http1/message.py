"""A request and a response as the wrapper's own paths and sidecar authors see them. Pure but for the body's reader."""

from __future__ import annotations

import io
import json
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import parse_qsl

from wrapper.errors import BadRequest, ContentTooLarge
from wrapper.http1.request import RequestHead, split_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Protocol, Union

    Piece = Union[bytes, str]

    class BodySource(Protocol):
        """Where the body comes from: pieces as they arrive, once."""

        def pieces(self) -> Iterator[bytes]: ...

        def limit_time(self, seconds: float | None, late: Callable[[], None]) -> None: ...


BYTES = (bytes, bytearray, memoryview)
DEFAULT_LIMIT = 1024 * 1024  # bytes of a body that is read whole

# One line per exchange, for metrics and the access log. Times in seconds, sizes in bytes of bodies and heads alike;
# `first_byte` is from the end of the request head to the beginning of the response; `own` where we answered ourselves;
# `head` as it was read, so that what wants more of it pays for it; `replayed`: it travelled twice, its first run ended;
# `failure`: the reason of a 502 of ours; `cut`: whose end cut the response, "client", "service" or "sidecar".
Ended = namedtuple("Ended", "method target status seconds first_byte held received sent own peer head replayed failure"
                   " cut", defaults=(None, False, "", ""))


def joined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Values by name in lower case, repeated ones joined by ", " (RFC 9110 section 5.3)."""
    found: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found


class Headers(Mapping):  # type: ignore[type-arg]
    """Fields by name, in any case; repeated ones joined."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._fields = joined(pairs)

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


class Request:
    """One request to an own path. `path` is its normal form, `target` what the client sent.

    `host` is what the client asked, the target's authority before Host (RFC 9112 section 3.2.2). `peer` is the
    client's address, None on a unix socket; `trusted` on the control socket only.
    """

    def __init__(self, head: RequestHead, path: str, source: BodySource, peer: str | None, trusted: bool) -> None:
        self.method = head.method.decode("ascii")
        self.path = path
        self.target = head.target.decode("latin-1")
        self.version = f"1.{head.minor}"
        self.host = head.host.decode("latin-1")
        self.peer = peer
        self.trusted = trusted
        self.params: dict[str, str] = {}
        self.limit = DEFAULT_LIMIT
        self.content_length = None if head.is_chunked else head.length
        self.headers: Mapping[str, str] = Headers(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in split_fields(head.fields))
        self._source = source
        self._pieces = Pieces(source.pieces())
        self._reader: io.BufferedIOBase | None = None
        self._body: bytes | None = None

    @property
    def query_string(self) -> str:
        return self.target.partition("?")[2]

    @property
    def query(self) -> dict[str, str]:
        """Decoded query parameters; of repeated ones the last."""
        return dict(self._query_pairs())

    def query_all(self, name: str) -> list[str]:
        return [value for key, value in self._query_pairs() if key == name]

    def _query_pairs(self) -> list[tuple[str, str]]:
        # Clients send characters as they are too, in UTF-8, where they should be percent-encoded.
        text = self.query_string.encode("latin-1").decode("utf-8", "replace")
        try:
            return parse_qsl(text, keep_blank_values=True, max_num_fields=1000)
        except ValueError as error:
            raise BadRequest(f"the query is malformed: {error}") from None

    def body(self, limit: int | None = None) -> bytes:
        """The whole body, at most `limit` bytes of it: None means `self.limit`.

        Raises: ContentTooLarge; BadRequest or RequestTimeout when it does not come whole; RuntimeError where a part
        of it has been read as a stream.
        """
        most = self.limit if limit is None else limit
        if self._body is None:
            if self.content_length is not None and self.content_length > most:
                raise ContentTooLarge(f"the body is over {most} bytes")
            if self._pieces.has_begun:
                raise RuntimeError("a part of the body has been read as a stream already")
            self._body = self.stream().read(most + 1)
            self._reader = io.BytesIO(self._body)
        if len(self._body) > most:
            raise ContentTooLarge(f"the body is over {most} bytes")
        return self._body

    def json(self, limit: int | None = None) -> Any:
        """The body as JSON.

        Raises: BadRequest when it is none, and what `body` raises.
        """
        try:
            return json.loads(self.body(limit))
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is not JSON: {error}") from None

    def stream(self) -> io.BufferedIOBase:
        """The body as a file to read from, as WSGI wants it (PEP 3333)."""
        if self._reader is None:
            self._reader = io.BufferedReader(self._pieces)
        return self._reader

    def limit_time(self, seconds: float | None, late: Callable[[], None]) -> None:
        """Call `late` where the response takes over `seconds` from now on; None: never. For the wrapper itself."""
        self._source.limit_time(seconds, late)


class Pieces(io.RawIOBase):
    """Pieces of bytes as a file."""

    has_begun = False

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.has_begun = True
        self._rest = self._rest or memoryview(next(self._pieces, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


class Response:
    """A response of our own: `body` is bytes or str, or an iterable of them whose pieces go out as they come.

    An iterable with a `close` method is closed at the end, also when the client leaves early. `heartbeat` is sent where
    no piece came for `heartbeat_interval` seconds.
    """

    heartbeat = b""
    heartbeat_interval = 15.0

    def __init__(
        self,
        body: Piece | Iterable[Piece] = b"",
        status: int = 200,
        headers: Iterable[tuple[str, str]] = (),
        content_type: str | None = None,
    ) -> None:
        if not _is_body(body):
            raise TypeError(f"{type(body).__name__} is no body: give text, bytes or an iterable of them; "
                            "a handler returns JSON as a dict or list alone, or in (status, body)")
        self.body = body
        self.status = status
        self.headers = list(headers)
        if content_type is not None:
            self.headers.append(("Content-Type", content_type))

    @property
    def is_streamed(self) -> bool:
        return not isinstance(self.body, (bytes, bytearray, str))

    def pieces(self) -> Iterator[bytes]:
        return map(encoded, (self.body,) if isinstance(self.body, (bytes, bytearray, str)) else self.body)

    def whole(self) -> bytes:
        """The body of a response that is not streamed."""
        assert isinstance(self.body, (bytes, bytearray, str))
        return encoded(self.body)

    def close(self) -> None:
        close: Callable[[], None] | None = getattr(self.body, "close", None)
        if close is not None:
            close()


def encoded(piece: Piece) -> bytes:
    """Raises: TypeError for what is neither text nor bytes; a number would become as many zeros."""
    if isinstance(piece, str):
        return piece.encode("utf-8", "replace")
    if isinstance(piece, BYTES):
        return bytes(piece)
    raise TypeError(f"{type(piece).__name__} is neither text nor bytes")


def _is_body(body: Any) -> bool:
    """False for what would go out as something else than its author meant, such as the keys of a dict."""
    if isinstance(body, (list, tuple)):
        return all(isinstance(piece, (str, *BYTES)) for piece in body)
    return isinstance(body, (str, *BYTES)) or (isinstance(body, Iterable) and not isinstance(body, Mapping))
