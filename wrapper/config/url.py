"""A URL as a source: asked with If-None-Match, bounded in time and size, its credentials kept to itself.

And connections on which every single wait counts against one deadline: a server that drips a byte a second meets it.
"""

from __future__ import annotations

import base64
import http.client
import io
import re
import socket
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from wrapper import sockets
from wrapper.config.folder import content_of
from wrapper.config.snapshot import CannotFetch, Snapshot
from wrapper.deadline import Deadline
from wrapper.errors import NO_TLS
from wrapper.settings.address import tcp
from wrapper.settings.values import without_credentials
from wrapper.threads import BoundedCall

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any

    from wrapper.settings.address import Address

REDIRECTS_MAX = 5  # as many as curl's users are told to allow; a loop ends with them
PIECE_BYTES = 64 * 1024


class Url:
    """Asked with If-None-Match, so that what has not changed costs a few bytes (RFC 9110 section 13.1.2)."""

    def __init__(self, url: str, timeout: float, max_bytes: int, token_file: str | None) -> None:
        self._url = url
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._token_file = token_file
        # (URL, its ETag). No date: Last-Modified has seconds, and goes back where an older file is put in place.
        self._tag: tuple[str, str] | None = None
        self.name = without_credentials(url)
        _target(url)

    def fetch(self, within: float | None = None) -> Snapshot:
        timeout = self._timeout if within is None else min(self._timeout, within)
        deadline = Deadline(timeout)
        try:
            return self._follow(deadline)
        except http.client.HTTPException as error:
            raise CannotFetch(f"{self.name}: what answers is no good HTTP: {type(error).__name__}") from error
        except OSError as error:
            if deadline.has_passed():
                raise CannotFetch(f"{self.name}: no whole answer within {timeout:.3g} s") from error
            raise CannotFetch(f"{self.name}: {error.strerror or error}") from error
        except ValueError as error:  # http.client names what it refuses in full, the token too
            raise CannotFetch(f"{self.name}: a URL or a field that cannot be sent: {type(error).__name__}") from error

    def forget(self) -> None:
        self._tag = None

    def _follow(self, deadline: Deadline) -> Snapshot:
        url = self._url
        for _ in range(REDIRECTS_MAX + 1):
            found = self._ask(url, deadline)
            if isinstance(found, Snapshot):
                return found
            if url.startswith("https:") and found.startswith("http:"):
                raise CannotFetch(f"{self.name}: redirects from https to http")
            url = found
        raise CannotFetch(f"{self.name}: more than {REDIRECTS_MAX} redirects")

    def _ask(self, url: str, deadline: Deadline) -> Snapshot | str:
        """The answer, or the URL it points to."""
        connection = UrlConnection(url, deadline)
        try:
            headers = self._headers(url)
            connection.request("GET", _target(url), headers=headers)
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                return urljoin(url, answer.getheader("Location", ""))
            if answer.status == 304 and "If-None-Match" in headers:
                return Snapshot(None, None, False)
            if answer.status != 200:
                raise CannotFetch(f"{self.name}: answers {answer.status}")
            content = self._read(answer)
            tag = answer.getheader("ETag")
            self._tag = None if tag is None else (url, tag)
            kind = answer.getheader("Content-Type", "").partition(";")[0].strip().lower()
            return Snapshot(content, True if kind.endswith(("/json", "+json")) else None, True)
        finally:
            connection.close()

    def _headers(self, url: str) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "wrapper", "Accept": "application/json, */*;q=0.5"}
        if self._tag is not None and self._tag[0] == url:
            headers["If-None-Match"] = self._tag[1]
        # Credentials are for the place they were given for, never for where a redirect leads (CVE-2018-18074).
        if _origin(url) == _origin(self._url):
            headers.update(self._credentials())
        return headers

    def _credentials(self) -> dict[str, str]:
        if self._token_file is not None:
            return {"Authorization": f"Bearer {_token(self._token_file)}"}
        parts = urlsplit(self._url)
        if parts.username is None:
            return {}
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        coding = answer.getheader("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise CannotFetch(f"{self.name}: answers in {coding}, which was not asked for")
        if answer.length is not None and answer.length > self._max_bytes:
            raise CannotFetch(f"{self.name}: over {self._max_bytes} bytes")
        pieces, size = [], 0
        while piece := answer.read(PIECE_BYTES):
            size += len(piece)
            if size > self._max_bytes:
                raise CannotFetch(f"{self.name}: over {self._max_bytes} bytes")
            pieces.append(piece)
        if answer.length:  # http.client ends a body that is cut short without a word when it is read in pieces
            raise CannotFetch(f"{self.name}: the answer ends {answer.length} bytes too early")
        if not size:
            raise CannotFetch(f"{self.name}: the answer is empty")
        return b"".join(pieces)


class TimedConnection(http.client.HTTPConnection):
    """One request to an internal address, TCP or unix."""

    def __init__(self, address: Address, deadline: Deadline) -> None:
        super().__init__(address.host or "localhost", address.port or None)
        self._address = address
        self._deadline = deadline

    def connect(self) -> None:
        self.sock: Any = Timed(self._dial(), self._deadline)

    def _dial(self) -> socket.socket:
        return sockets.connect(self._address, self._deadline.remaining())


class UrlConnection(TimedConnection):
    """One to a URL's origin. Raises: CannotFetch."""

    def __init__(self, url: str, deadline: Deadline) -> None:
        scheme, host, port = _origin(url)
        if scheme not in ("http", "https") or not host:
            raise CannotFetch(f"redirects to what is no http or https URL: {without_credentials(url)}")
        self._context = _tls() if scheme == "https" else None
        super().__init__(tcp(host, port), deadline)

    def _dial(self) -> socket.socket:
        raw = _dial(self.host, self.port, self._deadline)
        if self._context is None:
            return raw
        raw.settimeout(self._deadline.remaining() or 0.001)
        return self._context.wrap_socket(raw, server_hostname=self.host)


class Timed:
    """As much of a socket as http.client uses."""

    def __init__(self, raw: socket.socket, deadline: Deadline) -> None:
        self._raw = raw
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self.set_timeout()
        self._raw.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self, self._raw.makefile("rb", buffering=0)))

    def close(self) -> None:
        self._raw.close()

    def set_timeout(self) -> None:
        """Give the next wait what is left. Raises: TimeoutError where nothing is."""
        if self._deadline.has_passed():
            raise TimeoutError("timed out")
        self._raw.settimeout(self._deadline.remaining() or 0.001)


class _Reader(io.RawIOBase):
    def __init__(self, timed: Timed, raw: Any) -> None:
        self._timed = timed
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        self._timed.set_timeout()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _tls() -> ssl.SSLContext:
    try:
        import ssl  # start-up: a source without TLS does without its 8 ms
    except ImportError:
        raise CannotFetch(f"https: {NO_TLS}") from None
    return ssl.create_default_context()


def _dial(host: str, port: int, deadline: Deadline) -> socket.socket:
    """A connection to the first address of a host that answers; they share the time, so that the last has some too.

    Raises: OSError.
    """
    error = OSError(f"no address for {host}")
    found = _resolve(host, port, deadline)
    for left, (family, kind, protocol, _, sockaddr) in zip(range(len(found), 0, -1), found):
        connected = socket.socket(family, kind, protocol)
        connected.settimeout((deadline.remaining() or 0.001) / left)
        try:
            connected.connect(sockaddr)
            return connected
        except OSError as failure:
            connected.close()
            error = failure
    raise error


def _resolve(host: str, port: int, deadline: Deadline) -> list[Any]:
    """What getaddrinfo(3) says in time. By itself it has some for every server and every try (resolv.conf(5)).

    Raises: OSError.
    """
    what = (host, port, 0, socket.SOCK_STREAM)
    call = BoundedCall(f"resolve-{host}", socket.getaddrinfo, what, deadline.remaining() or 0)
    if not call.is_over:
        raise TimeoutError(f"no address for {host} in time")
    if call.error is not None:
        raise call.error
    found: list[Any] = call.value
    return found


def _token(path: str) -> str:
    """Raises: CannotFetch."""
    try:
        token = content_of(path, PIECE_BYTES).decode().strip()
    except OSError as error:
        raise CannotFetch(f"cannot read the token: {error.strerror}: {path}") from error
    except UnicodeDecodeError:
        token = ""
    if not re.fullmatch(r"[!-~]+", token):
        raise CannotFetch(f"{path} holds no token: it must be one line of ASCII without spaces")  # RFC 6750 section 2.1
    return token


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _target(url: str) -> str:
    """Raises: ValueError for a URL whose port is no number, or that holds spaces or control characters."""
    parts = urlsplit(url)
    parts.port  # noqa: B018  raises where it is no number
    if not re.fullmatch(r"[!-~]*", url):
        raise ValueError("the URL holds characters that must be percent-encoded")
    return urlunsplit(SplitResult("", "", parts.path or "/", parts.query, ""))
