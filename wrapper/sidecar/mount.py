"""WSGI applications under a path of their own (PEP 3333)."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterable, Iterator

from wrapper.http1.message import Response
from wrapper.log import log
from wrapper.proxy.headers import TrustedProxies
from wrapper.sidecar.isolation import close
from wrapper.sidecar.reply import AuthorStream, SlottedStream, clean, judge_length, length_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable

    from wrapper.http1.message import Request
    from wrapper.settings.settings import Settings
    from wrapper.sidecar.isolation import Guard
    from wrapper.sidecar.reply import StreamSlots

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
    Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

WRITTEN_MAX = 16 * 1024 * 1024  # bytes through write(), which are kept until the response begins
LINE_MAX = 8192  # characters written to `wsgi.errors` that are kept until a line end comes
PORTS = {"http": "80", "https": "443"}
STATUS = re.compile(r"[2-5][0-9][0-9](?: [^\r\n]*)?")


class Mount:
    """One application. `root` is its path without a slash at the end."""

    def __init__(self, root: str, application: Application, settings: Settings, guard: Guard,
                 slots: StreamSlots) -> None:
        self._root = root
        self._application = application
        self._errors = ErrorLog(guard.name)
        self._is_secure = bool(settings.tls_cert)
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._guard = guard
        self._slots = slots

    def answer(self, request: Request) -> Response:
        """Run it until its head is known, that is until its first bytes; the rest is streamed.

        Raises: what the application raises; Unavailable where too many streams are open.
        """
        start = StartResponse()
        pieces = self._application(self._environment(request), start)
        try:
            iterator = iter(pieces)
            first = next((piece for piece in iterator if piece), b"")
            status, headers = start.head()
            first = b"".join((*start.written, first))
            # PEP 3333, "Handling the Content-Length Header": a body of one piece is whole.
            is_whole = length_of(headers) == len(first) or (isinstance(pieces, (list, tuple)) and len(pieces) == 1)
        except BaseException:
            close(pieces)
            raise
        if is_whole or not first:
            close(pieces)
            return _whole(first, status, headers, request.method == "HEAD")
        stream = AuthorStream(itertools.chain([first], iterator), self._guard, f"mount {self._root}",
                              length_of(headers), owner=pieces)
        return Response(SlottedStream(stream, self._slots.of(request)), status, headers)

    def _environment(self, request: Request) -> dict[str, Any]:
        """What an application learns of a request: the `environ` of PEP 3333, named after CGI (RFC 3875)."""
        scheme = "https" if self._is_secure and not request.trusted else "http"
        name, port = _parted(request.host)
        environment = {
            "REQUEST_METHOD": request.method, "SCRIPT_NAME": _bytes_as_text(self._root),
            "PATH_INFO": _bytes_as_text(request.path[len(self._root):]), "QUERY_STRING": request.query_string,
            "SERVER_NAME": name or "localhost", "SERVER_PORT": port or PORTS[scheme],
            "SERVER_PROTOCOL": f"HTTP/{request.version}", "REMOTE_ADDR": request.peer or "",
            "wsgi.version": (1, 0), "wsgi.url_scheme": scheme, "wsgi.input": request.stream(),
            # Not of the PEP, but what every server says whose input ends with the body, chunked or not.
            "wsgi.input_terminated": True,
            "wsgi.errors": self._errors, "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False}
        environment.update((_variable(field), value) for field, value in self._fields(request))
        if request.host:
            environment["HTTP_HOST"] = request.host
        return environment

    def _fields(self, request: Request) -> Iterator[tuple[str, str]]:
        is_believed = self._proxies.trust(request.peer)
        for field, value in request.headers.items():
            if "_" in field or field == "transfer-encoding":
                continue  # it would read as its twin with a hyphen; or it speaks of chunks that are taken apart already
            if is_believed or not (field == "forwarded" or field.startswith("x-forwarded-")):
                yield field, value


def _whole(body: bytes, status: int, headers: list[tuple[str, str]], is_head: bool) -> Response:
    """Raises: ValueError where the body is not as long as it says."""
    if is_head and not body and status not in (204, 304) and length_of(headers) is None:
        # RFC 9110 section 8.6: what GET would get is unknown, so there is no length; a stream has none.
        return Response(iter(()), status, headers)
    response = Response(body, status, headers)
    judge_length(response, is_head)
    return response


class StartResponse:
    """`start_response` of one request; `written` is what came through the old `write`."""

    def __init__(self) -> None:
        self._head: tuple[int, list[tuple[str, str]]] | None = None
        self._is_out = False
        self._left = WRITTEN_MAX
        self.written: list[bytes] = []

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None) -> Any:
        if exc_info is not None and self._is_out:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._head is not None and exc_info is None:
            raise AssertionError("start_response was called twice")
        if STATUS.fullmatch(status) is None:
            raise ValueError(f"{status!r} is no status line")
        self._head = int(status[:3]), clean(headers)
        return self._write

    def _write(self, piece: bytes) -> None:
        """PEP 3333, "The write() Callable": for applications of old; all of it waits for the first piece."""
        if self._is_out:
            raise AssertionError("write() was called from within the iterable, which PEP 3333 forbids: yield instead")
        self._left -= len(piece)
        if self._left < 0:
            raise ValueError(f"over {WRITTEN_MAX} bytes through write(): return an iterable, which is streamed")
        self.written.append(piece)

    def head(self) -> tuple[int, list[tuple[str, str]]]:
        """The head, which goes out now."""
        if self._head is None:
            raise AssertionError("the application did not call start_response")
        self._is_out = True
        return self._head


class ErrorLog(threading.local):
    """`wsgi.errors`: lines for the wrapper's own log, from each thread its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rest = ""

    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            log.warning(line, sidecar=self._name)
        if len(self._rest) > LINE_MAX:
            self.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        if self._rest:
            self.write("\n")


def _parted(host: str) -> tuple[str, str]:
    """Name and port; an IPv6 address keeps its brackets (RFC 3875 section 4.1.14)."""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and not port.endswith("]") else (host, "")


def _variable(field: str) -> str:
    """RFC 3875 section 4.1: two fields have no prefix."""
    name = field.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


def _bytes_as_text(path: str) -> str:
    """PEP 3333, "Unicode Issues": text whose every character is one byte of the path."""
    return path.encode("utf-8", "surrogateescape").decode("latin-1")
