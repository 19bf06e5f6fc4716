"""Where configuration comes from: a URL, a file, a folder, or any callable. All answer `fetch()`, all are bounded."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import stat
import time
from collections import namedtuple
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from wrapper import cause
from wrapper.config.connection import UrlConnection
from wrapper.config.folder import content_of
from wrapper.deadline import Deadline
from wrapper.errors import NO_TLS
from wrapper.settings.values import is_number, without_credentials
from wrapper.threads import BoundedCall

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol, Union

    class Source(Protocol):
        """One place to look at. `name` is fit to be shown: it holds no credentials."""

        name: str

        def fetch(self, within: float | None = None) -> Snapshot:
            """What is there now, `within` seconds where the source's own time is longer. Raises: CannotFetch."""

        def forget(self) -> None:
            """Fetch all of it anew the next time, even where it is the same: what was seen last was no good."""

    Origin = Union[str, Callable[[], Any]]

MAX_BYTES = 16 * 1024 * 1024  # of one document, or of all files of a folder together
FETCH_TIMEOUT = 10.0  # seconds
DEPTH_MAX = 8  # folders in folders; a link to a parent folder ends with it
JSON_BYTES = 4 * 1024 * 1024  # of a document that is read as JSON: in Python it takes thirty times the room
REDIRECTS_MAX = 5  # as many as curl's users are told to allow; a loop ends with them
PIECE_BYTES = 64 * 1024
YOUNG_SECONDS = 2.0  # the coarsest clock of a file system in use: FAT's
ATTEMPTS = 5  # to read a folder that does not change meanwhile

# `content`: bytes, {name: bytes} of a folder, or a callable's value; None where nothing has changed. `is_json`: True
# where the source says so, None where it does not say. `is_still`: False while it may be half written.
Snapshot = namedtuple("Snapshot", "content is_json changed is_still", defaults=(True,))


class CannotFetch(Exception):
    """The source cannot be read now; the sentence holds no credentials."""


def document(snapshot: Snapshot, *, must_be_json: bool = False) -> Any:
    """The content as Python sees it: JSON where it is JSON, else text, else bytes; a folder is {name: text or bytes}.

    Raises: CannotFetch where it has to be JSON and is not.
    """
    if isinstance(snapshot.content, dict) and snapshot.is_json is not False:
        return {name: _text(content) for name, content in snapshot.content.items()}
    if snapshot.is_json is False or not isinstance(snapshot.content, bytes):
        return snapshot.content
    if snapshot.is_json or must_be_json or snapshot.content[:1] in (b"{", b"["):
        is_too_much = len(snapshot.content) > JSON_BYTES
        if is_too_much and (snapshot.is_json or must_be_json):
            raise CannotFetch(f"what it holds is JSON of over {JSON_BYTES} bytes")
        try:
            return _text(snapshot.content) if is_too_much else json.loads(snapshot.content)
        except (ValueError, RecursionError) as error:
            if snapshot.is_json or must_be_json:
                place = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else None
                # Without content, which `str(error)` may hold.
                raise CannotFetch(f"what it holds is not JSON: {place or type(error).__name__}") from error
    return _text(snapshot.content)


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


def of(origin: Origin, *, timeout: float = FETCH_TIMEOUT, token_file: str | None = None) -> Source:
    """The source for an `http(s)://` URL, a path of a file or folder, or a callable.

    Raises: ValueError for a text that is none of them.
    """
    if callable(origin):
        return Callback(origin, timeout)
    if origin.startswith(("http://", "https://")):
        return Url(origin, timeout, token_file)
    if "://" in origin and not origin.startswith("file://"):
        raise ValueError(f"no such kind of source: {origin.partition('://')[0]}://; there are http, https and paths")
    return Path(origin.partition("file://")[2] or origin)


# A URL


class Url:
    """Asked with If-None-Match, so that what has not changed costs a few bytes (RFC 9110 section 13.1.2)."""

    def __init__(self, url: str, timeout: float, token_file: str | None) -> None:
        self._url = url
        self._timeout = timeout
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
        """What the response holds, or the URL that it redirects to."""
        scheme, host, port = _origin(url)
        if scheme not in ("http", "https") or not host:
            raise CannotFetch(f"redirects to what is no http or https URL: {without_credentials(url)}")
        connection = UrlConnection(host, port, _tls() if scheme == "https" else None, deadline)
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
        lengths = set(answer.headers.get_all("Content-Length", ()))
        if len(lengths) > 1 or not all(map(is_number, lengths)):  # RFC 9112 section 6.3; http.client takes the first
            raise CannotFetch(f"{self.name}: answers with two lengths, or with one that is no number")
        coding = answer.getheader("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise CannotFetch(f"{self.name}: answers in {coding}, which was not asked for")
        if answer.length is not None and answer.length > MAX_BYTES:
            raise CannotFetch(f"{self.name}: over {MAX_BYTES} bytes")
        content = bytearray()
        while piece := answer.read(PIECE_BYTES):
            content += piece
            if len(content) > MAX_BYTES:
                raise CannotFetch(f"{self.name}: over {MAX_BYTES} bytes")
        if answer.length:  # http.client ends a body that is cut short without a word when it is read in pieces
            raise CannotFetch(f"{self.name}: the answer ends {answer.length} bytes too early")
        if not content:
            raise CannotFetch(f"{self.name}: the answer is empty")
        return bytes(content)


def _tls() -> ssl.SSLContext:
    try:
        import ssl  # start-up: a source without TLS does without its 8 ms
    except ImportError:
        raise CannotFetch(f"https: {NO_TLS}") from None
    return ssl.create_default_context()


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


# A path


class Path:
    """A file, or a folder with all its files. Which of them it is may change between two fetches."""

    def __init__(self, path: str) -> None:
        self.name = self._path = path
        self._seen: object = None
        self._last: object = None  # the state at the last fetch
        self._filled: set[str] = set()  # the files that were not empty then

    def fetch(self, within: float | None = None) -> Snapshot:  # a disk knows no timeout
        try:
            for _ in range(ATTEMPTS):
                before = self._state()
                if before == self._seen:
                    return Snapshot(None, None, False)
                contents = self._contents()
                if self._state() == before:
                    return self._found(before, contents)
        except OSError as error:
            raise CannotFetch(f"{error.filename or self._path}: {error.strerror}") from error
        raise CannotFetch(f"{self._path}: changes all the time")

    def forget(self) -> None:
        self._seen = None

    def _found(self, state: tuple[str | None, Any], contents: dict[str, bytes]) -> Snapshot:
        """A snapshot of `contents`: still where the last fetch saw the same, or where all changed in one step."""
        newest = max((modified for _, _, _, modified, _ in state[1]), default=0)  # nanoseconds
        is_young = time.time() - newest / 1e9 < YOUNG_SECONDS
        is_still = state == self._last or state[0] is not None or (self._last is None and not is_young)
        self._last = state
        self._refuse_emptied(contents)
        # Like git's index: what changed within the clock's grain might change again and look the same.
        self._seen = state if is_still and not is_young else None
        return Snapshot(contents.get(".", contents), True if self._path.endswith(".json") else None, True, is_still)

    def _refuse_emptied(self, contents: dict[str, bytes]) -> None:
        """Raises: CannotFetch: a file that is written anew is empty at first, and a full disk leaves it so."""
        emptied = [name for name, content in contents.items() if not content and name in self._filled]
        if emptied or (self._filled and not contents):
            place = os.path.normpath(os.path.join(self._path, *emptied[:1]))
            raise CannotFetch(f"{place}: is empty, and was not before")
        self._filled = {name for name, content in contents.items() if content}

    def _state(self) -> tuple[str | None, Any]:
        """A value that differs when a file has changed: Kubernetes changes all at once, by swapping `..data`."""
        swap = os.path.join(self._path, "..data")
        link = os.readlink(swap) if os.path.islink(swap) else None
        return link, [(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                      for path, status in self._files()]

    def _contents(self) -> dict[str, bytes]:
        """The content of each file by its name; a single file's name is "."."""
        contents, size = {}, 0
        for path, _ in self._files():
            contents[os.path.relpath(path, self._path)] = content = content_of(path, MAX_BYTES)
            size += len(content)
            if size > MAX_BYTES:
                raise CannotFetch(f"{self._path}: over {MAX_BYTES} bytes")
        return contents

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        status = os.stat(self._path)
        if stat.S_ISDIR(status.st_mode):
            yield from _files_under(self._path, DEPTH_MAX)
        elif stat.S_ISREG(status.st_mode):
            yield self._path, status
        else:  # a pipe would block for ever
            raise CannotFetch(f"{self._path}: neither a file nor a folder")


def _files_under(folder: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files in order of name, see `is_passing`."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if is_passing(name):
            continue
        try:
            status = os.stat(path)
        except FileNotFoundError:  # a link that leads nowhere, as editors make for a lock
            continue
        if stat.S_ISDIR(status.st_mode) and depth > 0:
            yield from _files_under(path, depth - 1)
        elif stat.S_ISREG(status.st_mode):
            yield path, status


def is_passing(name: str) -> bool:
    """True for what is no configuration: hidden names (Kubernetes' `..data` among them) and what editors leave.

    `name~` and `#name#` are Emacs', `name.swp` and `4913` vim's, which tries with that whether it can write.
    """
    return name.startswith(".") or name.endswith(("~", ".swp", ".tmp")) or name == "4913" or (
        name.startswith("#") and name.endswith("#"))


# A callable


class Callback:
    """Whatever a callable returns."""

    def __init__(self, callback: Callable[[], Any], timeout: float) -> None:
        self._callback = callback
        self._timeout = timeout
        self._call: BoundedCall | None = None
        self.name = getattr(callback, "__qualname__", type(callback).__name__)

    def fetch(self, within: float | None = None) -> Snapshot:
        timeout = self._timeout if within is None else min(self._timeout, within)
        if self._call is not None and not self._call.is_over:
            raise CannotFetch(f"{self.name}: has not come back from an earlier fetch")
        self._call = call = BoundedCall(f"source-{self.name}", self._callback, (), timeout)
        if not call.is_over:
            raise CannotFetch(f"{self.name}: did not come back within {timeout:.3g} s")
        if call.error is not None:
            raise CannotFetch(cause.tell(self.name, call.error)) from call.error
        return Snapshot(call.value, False, True)

    def forget(self) -> None:
        """Does nothing: a callable is asked for its whole value each time."""
