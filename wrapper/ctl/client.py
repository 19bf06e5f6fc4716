"""The caller's end of the control socket: finds it, asks, and reads what the wrapper answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from wrapper.ctl import paths
from wrapper.ctl.paths import DEFAULT_PREFIX, NoWrapper

READ_BYTES = 64 * 1024
BYTES = "surrogateescape"  # words of the command line may be of another encoding: they go as they came


class Refused(Exception):
    """The wrapper said no; `status` is the HTTP status, `document` the whole response where it was JSON."""

    def __init__(self, status: int, message: str, document: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.document = document


class Client:
    """Speaks to the wrapper that listens at one of `places` (paths of sockets).

    `timeout` in seconds is for every step of an exchange but the pieces of a stream; None waits as long as it takes.
    """

    def __init__(self, places: Sequence[str], timeout: float | None = None) -> None:
        self._places = places
        self._timeout = timeout
        self.peer = ""  # which wrapper answered last, for people

    def ask(self, path: str, kind: type = dict, *, method: str = "GET", query: Mapping[str, str] | None = None) -> Any:
        """What is at a path under the prefix: a JSON object, a list of them, or a text, as `kind` says.

        Raises: NoWrapper, also for a response that is something else; Refused.
        """
        answer = self.open(path, method, query)
        with _connected():
            body = answer.read()
        document = _document(answer, body)
        inner = document if isinstance(document, list) else []
        if not isinstance(document, kind) or not all(isinstance(one, dict) for one in inner):
            raise NoWrapper(f"what listens there ({self.peer}) does not answer as a wrapper does")
        return document

    def open(self, path: str, method: str = "GET", query: Mapping[str, str] | None = None,
             is_stream: bool = False) -> http.client.HTTPResponse:
        """The response with its body still to be read. Raises: NoWrapper, Refused (then the body was read)."""
        peer = paths.connect(self._places, self._timeout)
        self.peer = str(peer)
        connection = http.client.HTTPConnection("wrapper")
        connection.sock = peer.connection
        with _connected():
            words = f"?{urlencode(query, errors=BYTES)}" if query else ""
            connection.request(method, f"{DEFAULT_PREFIX}/{path}{words}")
            answer = connection.getresponse()
            if answer.status >= 400:
                raise _refusal(answer.status, _document(answer, answer.read()))
        if is_stream:
            peer.connection.settimeout(None)
        return answer

    def events(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """Every kept event behind the one of that id, then each as it happens.

        The request has been made when this returns. Raises: NoWrapper, Refused.
        """
        return _events(self.open("api/events", query={"after": str(after)}, is_stream=True))

    def output(self, query: Mapping[str, str], in_lines: bool) -> Iterator[bytes]:
        """What a service printed last and then prints, as it comes or in whole lines. Raises: NoWrapper, Refused."""
        answer = self.open("api/logs", query={**query, "follow": "1"}, is_stream=True)
        with _connected():
            while piece := answer.readline() if in_lines else answer.read1(READ_BYTES):
                yield piece


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of each `data:` line (WHATWG HTML, section 9.2.6); the wrapper writes one for each event."""
    with _connected():
        while line := answer.readline():
            if line.startswith(b"data:"):
                yield json.loads(line[len(b"data:"):])


def _document(answer: http.client.HTTPResponse, body: bytes) -> Any:
    text = body.decode("utf-8", "replace")
    if (answer.getheader("Content-Type") or "").startswith("application/json"):
        try:
            return json.loads(text)
        except ValueError:
            pass
    return text


def _refusal(status: int, document: Any) -> Refused:
    if isinstance(document, dict) and document.get("error"):
        return Refused(status, str(document["error"]), document)
    return Refused(status, str(document).strip() or f"the wrapper answers {status}")


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Raises: NoWrapper where the connection breaks, or nothing comes in time."""
    try:
        yield
    except socket.timeout as error:  # TimeoutError since CPython 3.10
        raise NoWrapper("the wrapper does not answer in time") from error
    except (OSError, http.client.HTTPException) as error:
        raise NoWrapper(f"the wrapper went away: {error}") from error
