"""Where configuration comes from: a URL, a file, a folder, or any callable. All answer `look()`, all are bounded."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import stat
import threading
import time
from collections import namedtuple
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from wrapper.deadline import Deadline

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol, Union

    class Source(Protocol):
        """One place to look at. `name` is fit to be shown: it holds no credentials."""

        name: str

        def look(self) -> Look:
            """What is there now. Raises: CannotLook."""

        def forget(self) -> None:
            """What was seen last was no good: look at it anew, even where it is the same."""

    Origin = Union[str, Callable[[], Any]]

MAX_BYTES = 16 * 1024 * 1024  # of one document, or of all files of a folder together
LOOK_TIMEOUT = 10.0  # seconds
REDIRECTS_MAX = 5  # as many as curl's users are told to allow; a loop ends with them
PIECE_BYTES = 64 * 1024
DEPTH_MAX = 8  # folders in folders; a link to a parent folder ends with it
YOUNG_SECONDS = 2.0  # the coarsest clock of a file system in use: FAT's
ATTEMPTS = 5  # to read a folder that nobody changes meanwhile

# `content`: bytes, {name: bytes} of a folder, or a callable's value; None where nothing has changed. `is_json`: True
# where the source says so, None where it does not say.
Look = namedtuple("Look", "content is_json changed")


class CannotLook(Exception):
    """The source cannot be read now; the sentence holds no credentials."""


def of(origin: Origin, *, timeout: float = LOOK_TIMEOUT, max_bytes: int = MAX_BYTES,
       token_file: str | None = None) -> Source:
    """The source for an `http(s)://` URL, a path of a file or folder, or a callable.

    Raises: ValueError for a text that is none of them.
    """
    if callable(origin):
        return Callback(origin, timeout)
    if origin.startswith(("http://", "https://")):
        return Url(origin, timeout, max_bytes, token_file)
    if "://" in origin and not origin.startswith("file://"):
        raise ValueError(f"no such kind of source: {origin.partition('://')[0]}://; there are http, https and paths")
    return Path(origin.partition("file://")[2] or origin, max_bytes)


# A URL


class Url:
    """Asked with If-None-Match, so that what has not changed costs a few bytes (RFC 9110 section 13.1.2)."""

    def __init__(self, url: str, timeout: float, max_bytes: int, token_file: str | None) -> None:
        self._url = url
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._token_file = token_file
        self._tag: str | None = None
        self._date: str | None = None
        self.name = masked(url)
        _target(url)

    def look(self) -> Look:
        deadline = Deadline(self._timeout)
        try:
            return self._follow(deadline)
        except http.client.HTTPException as error:
            raise CannotLook(f"{self.name}: what answers is no good HTTP: {type(error).__name__}") from error
        except OSError as error:
            if deadline.has_passed():
                raise CannotLook(f"{self.name}: no whole answer within {self._timeout:g} s") from error
            raise CannotLook(f"{self.name}: {error.strerror or error}") from error
        except (ValueError, UnicodeError) as error:
            raise CannotLook(f"{self.name}: {error}") from error

    def forget(self) -> None:
        self._tag = self._date = None

    def _follow(self, deadline: Deadline) -> Look:
        url = self._url
        for _ in range(REDIRECTS_MAX + 1):
            found = self._ask(url, deadline)
            if isinstance(found, Look):
                return found
            if url.startswith("https:") and found.startswith("http:"):
                raise CannotLook(f"{self.name}: redirects from https to http")
            url = found
        raise CannotLook(f"{self.name}: more than {REDIRECTS_MAX} redirects")

    def _ask(self, url: str, deadline: Deadline) -> Look | str:
        """The answer, or the URL it points to."""
        connection = _Connection(url, deadline)
        try:
            connection.request("GET", _target(url), headers=self._headers(url))
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308):
                return urljoin(url, answer.getheader("Location", ""))
            if answer.status == 304:
                return Look(None, None, False)
            if answer.status != 200:
                raise CannotLook(f"{self.name}: answers {answer.status}")
            return self._read(answer)
        finally:
            connection.close()

    def _headers(self, url: str) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "wrapper", "Accept": "application/json, */*;q=0.5"}
        if self._tag is not None:
            headers["If-None-Match"] = self._tag
        elif self._date is not None:
            headers["If-Modified-Since"] = self._date
        # Credentials are for the place they were given for, never for where a redirect leads (CVE-2018-18074).
        if _origin(url) == _origin(self._url):
            headers.update(self._credentials())
        return headers

    def _credentials(self) -> dict[str, str]:
        if self._token_file is not None:
            try:
                with open(self._token_file, encoding="utf-8") as file:
                    return {"Authorization": f"Bearer {file.read().strip()}"}
            except OSError as error:
                raise CannotLook(f"cannot read the token: {error.strerror}: {self._token_file}") from error
        parts = urlsplit(self._url)
        if parts.username is None:
            return {}
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}

    def _read(self, answer: http.client.HTTPResponse) -> Look:
        if answer.length is not None and answer.length > self._max_bytes:
            raise CannotLook(f"{self.name}: over {self._max_bytes} bytes")
        pieces, size = [], 0
        while piece := answer.read(PIECE_BYTES):
            size += len(piece)
            if size > self._max_bytes:
                raise CannotLook(f"{self.name}: over {self._max_bytes} bytes")
            pieces.append(piece)
        if answer.length:  # http.client ends a body that is cut short without a word when it is read in pieces
            raise CannotLook(f"{self.name}: the answer ends {answer.length} bytes too early")
        self._tag, self._date = answer.getheader("ETag"), answer.getheader("Last-Modified")
        kind = answer.getheader("Content-Type", "").partition(";")[0].strip().lower()
        return Look(b"".join(pieces), True if kind.endswith(("/json", "+json")) else None, True)


class _Connection(http.client.HTTPConnection):
    """A connection to a URL's origin, on which every single wait counts against one deadline."""

    def __init__(self, url: str, deadline: Deadline) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CannotLook(f"redirects to what is no http or https URL: {masked(url)}")
        self._is_secure = parts.scheme == "https"
        self._deadline = deadline
        super().__init__(parts.hostname, parts.port or (443 if self._is_secure else 80))

    def connect(self) -> None:
        self.timeout = self._deadline.remaining() or 0.001
        super().connect()
        raw: Any = self.sock
        if self._is_secure:
            import ssl  # start-up: a source without TLS does without its 8 ms

            raw.settimeout(self._deadline.remaining() or 0.001)
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=self.host)
        self.sock: Any = Timed(raw, self._deadline)


class Timed:
    """As much of a socket as http.client uses. A server that drips a byte a second meets the deadline all the same."""

    def __init__(self, raw: socket.socket, deadline: Deadline) -> None:
        self._raw = raw
        self._deadline = deadline
        self._users = 1  # http.client closes the connection while its reader reads on, as with a socket's own files

    def sendall(self, data: bytes) -> None:
        self._raw.settimeout(self._left())
        self._raw.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        self._users += 1
        return io.BufferedReader(_Reader(self))

    def recv_into(self, buffer: Any) -> int:
        self._raw.settimeout(self._left())
        return self._raw.recv_into(buffer)

    def close(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._raw.close()

    def _left(self) -> float:
        if self._deadline.has_passed():
            raise TimeoutError("timed out")
        return self._deadline.remaining() or 0.001


class _Reader(io.RawIOBase):
    def __init__(self, timed: Timed) -> None:
        self._timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._timed.recv_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._timed.close()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _target(url: str) -> str:
    """Raises: ValueError for a URL whose port is no number, or that holds spaces or control characters."""
    parts = urlsplit(url)
    parts.port  # noqa: B018  raises where it is no number
    if not url.isascii() or any(c <= " " or c == "\x7f" for c in url):
        raise ValueError("the URL holds characters that must be percent-encoded")
    return urlunsplit(SplitResult("", "", parts.path or "/", parts.query, ""))


def masked(url: str) -> str:
    """The URL without what may be secret: user, password, and the values of the query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a malformed URL"
    place = ("***@" if "@" in parts.netloc else "") + parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path, "***" if parts.query else "", ""))


# A path


class Path:
    """A file, or a folder with all its files. Which of them it is may change between two looks."""

    def __init__(self, path: str, max_bytes: int) -> None:
        self.name = self._path = path
        self._max_bytes = max_bytes
        self._seen: object = None

    def look(self) -> Look:
        try:
            for _ in range(ATTEMPTS):
                before = self._state()
                if before == self._seen:
                    return Look(None, None, False)
                content = self._content()
                if self._state() == before:
                    # Like git's index: what changed within the clock's grain might change again and look the same.
                    self._seen = None if self._is_young() else before
                    return Look(content, True if self._path.endswith(".json") else None, True)
        except OSError as error:
            raise CannotLook(f"{error.filename or self._path}: {error.strerror}") from error
        raise CannotLook(f"{self._path}: changes all the time")

    def forget(self) -> None:
        self._seen = None

    def _state(self) -> object:
        """What differs when anything has changed: Kubernetes changes all files at once, by swapping `..data`."""
        swap = os.path.join(self._path, "..data")
        link = os.readlink(swap) if os.path.islink(swap) else None
        return link, [(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                      for path, status in self._files()]

    def _is_young(self) -> bool:
        newest = max((status.st_mtime for _, status in self._files()), default=0.0)
        return time.time() - newest < YOUNG_SECONDS

    def _content(self) -> bytes | dict[str, bytes]:
        contents, size = {}, 0
        for path, _ in self._files():
            with open(path, "rb") as file:
                contents[os.path.relpath(path, self._path)] = content = file.read(self._max_bytes + 1)
            size += len(content)
            if size > self._max_bytes:
                raise CannotLook(f"{self._path}: over {self._max_bytes} bytes")
        return contents if os.path.isdir(self._path) else contents["."]

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        status = os.stat(self._path)
        if stat.S_ISDIR(status.st_mode):
            yield from _files_under(self._path, DEPTH_MAX)
        else:
            yield self._path, _regular(self._path, status)


def _files_under(folder: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files in order of name. Names that begin with two dots are Kubernetes' own."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(".."):
            continue
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode) and depth > 0:
            yield from _files_under(path, depth - 1)
        elif stat.S_ISREG(status.st_mode):
            yield path, status


def _regular(path: str, status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
        raise CannotLook(f"{path}: neither a file nor a folder")
    return status


# A callable


class Callback:
    """Whatever a callable returns. It runs in a thread of its own, so that one that hangs holds up nothing else."""

    def __init__(self, callback: Callable[[], Any], timeout: float) -> None:
        self._callback = callback
        self._timeout = timeout
        self._thread: threading.Thread | None = None
        self.name = getattr(callback, "__qualname__", type(callback).__name__)

    def look(self) -> Look:
        if self._thread is not None and self._thread.is_alive():
            raise CannotLook(f"{self.name}: has not come back from an earlier look")
        result: list[tuple[Any, BaseException | None]] = []
        self._thread = threading.Thread(target=self._call, args=(result,), name=f"source-{self.name}", daemon=True)
        self._thread.start()
        self._thread.join(self._timeout)
        if not result:
            raise CannotLook(f"{self.name}: did not come back within {self._timeout:g} s")
        value, error = result[0]
        if error is not None:
            raise CannotLook(f"{self.name}: {type(error).__name__}: {error}") from error
        return Look(value, False, True)

    def forget(self) -> None:
        """Nothing is remembered."""

    def _call(self, result: list[tuple[Any, BaseException | None]]) -> None:
        try:
            result.append((self._callback(), None))
        except BaseException as error:  # noqa: BLE001  sys.exit in an author's code ends this look only
            result.append((None, error))


# What a look holds


def document(look: Look, *, must_be_json: bool) -> Any:
    """The content as Python sees it: JSON where it is JSON, else text, else bytes; a folder is {name: text or bytes}.

    Raises: CannotLook where it has to be JSON and is not.
    """
    if isinstance(look.content, dict) and look.is_json is not False:
        return {name: _text(content) for name, content in look.content.items()}
    if look.is_json is False or not isinstance(look.content, bytes):
        return look.content
    if look.is_json or must_be_json or look.content[:1] in (b"{", b"["):
        try:
            return json.loads(look.content)
        except (ValueError, RecursionError) as error:
            if look.is_json or must_be_json:
                raise CannotLook(f"what it holds is not JSON: {_brief(error)}") from error
    return _text(look.content)


def _brief(error: Exception) -> str:
    """What the JSON reader says, which names places and no content."""
    return f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else type(error).__name__


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


def fingerprint(value: Any) -> str:
    """A hash of any value: equal values have equal ones, however their parts are ordered."""
    if isinstance(value, bytes):
        raw = value
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
    else:
        raw = json.dumps(value, sort_keys=True, default=repr).encode()
    return hashlib.sha256(raw).hexdigest()[:12]
