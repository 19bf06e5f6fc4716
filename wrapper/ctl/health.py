"""`health`: asked every few seconds for as long as a container lives, so it loads next to nothing."""

from __future__ import annotations

import os
import socket
import time

from wrapper.ctl.paths import DEFAULT_PREFIX, NoWrapper, connect, places
from wrapper.text import one_line, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT = 5.0  # seconds; an orchestrator gives a probe 1 to 30
READ_BYTES = 64 * 1024
BODY_MAX = 1024**2  # bytes
USAGE = """usage: {program} health [--control PATH] [--ready] [--timeout D] [--json]

exit 0 where all is well, 1 where not

  --control PATH  the control socket; default $WRAPPER_CONTROL, else the first of the usual places
  --ready         whether requests are served, not only the wrapper alive
  --timeout D     default 5s
  --json          for machines: JSON on stdout
"""


def main(words: Sequence[str]) -> int:
    """What follows `health` in, the exit status out."""
    try:
        options = _read(words)
    except ValueError as error:
        return _say(2, f"{USAGE.format(program=program())}\n{program()} health: {one_line(str(error))}", 2)
    if options is None:
        return _say(1, USAGE.format(program=program()).rstrip(), 0)
    control, timeout, is_ready_asked, wants_json = options
    try:
        return _tell(places(control), time.monotonic() + timeout, is_ready_asked, wants_json)
    except NoWrapper as error:
        return _say(2, f"wrapper health: {one_line(str(error))}", 1)


def _read(words: Sequence[str]) -> tuple[str | None, float, bool, bool] | None:
    """--control, --timeout, --ready, --json; None where help is wanted. Raises: ValueError."""
    given: dict[str, str] = {}
    rest = list(words)
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        if flag in ("-h", "--help"):
            return None
        if flag in ("--ready", "--json") and not equals:
            given[flag] = flag
        elif flag not in ("--control", "--timeout"):
            raise ValueError(f"{flag}: no such option")
        elif not equals and not rest:
            raise ValueError(f"{flag}: a value is missing")
        else:
            given[flag] = text if equals else rest.pop(0)
    return given.get("--control"), _seconds(given.get("--timeout")), "--ready" in given, "--json" in given


def _seconds(text: str | None) -> float:
    if text is None:
        return TIMEOUT
    from wrapper import values  # start-up: few give a time, and it brings `re`

    try:
        return values.positive_duration(text)
    except ValueError as error:
        raise ValueError(f"--timeout={text}: {error}") from None


def _tell(paths: Sequence[str], end: float, is_ready_asked: bool, wants_json: bool) -> int:
    status, body = _ask("readyz" if is_ready_asked else "healthz", paths, end)
    well = status == 200
    if wants_json:
        return _say(1, one_line(body), 0 if well else 1)
    if not well:
        return _say(2, f"wrapper health: {_error(status, body)}", 1)
    if is_ready_asked:
        return _say(1, "ready", 0)
    status, body = _ask("readyz", paths, end)
    return _say(1, "healthy" if status == 200 else f"the wrapper serves; {_error(status, body)}", 0)


def _ask(path: str, paths: Sequence[str], end: float) -> tuple[int, str]:
    """Status and body, by `end` of the monotonic clock. Raises: NoWrapper."""
    connection = connect(paths, max(end - time.monotonic(), 0.001)).connection
    data = b""
    with connection:
        try:
            connection.sendall(f"GET {DEFAULT_PREFIX}/{path} HTTP/1.1\r\nHost: wrapper\r\nConnection: close\r\n\r\n"
                               .encode())
            while len(data) < BODY_MAX and (piece := _receive(connection, end)):
                data += piece
        except socket.timeout as error:  # TimeoutError since CPython 3.10
            raise NoWrapper("the wrapper does not answer in time") from error
        except OSError as error:
            raise NoWrapper(f"the wrapper went away: {error.strerror or error}") from error
    head, _, body = data.partition(b"\r\n\r\n")
    status = head[len(b"HTTP/1.1 "):][:3]
    if not head.startswith(b"HTTP/1.1 ") or not status.isdigit() or not body.startswith(b"{"):
        raise NoWrapper("what listens at the control socket does not answer as a wrapper does")
    return int(status), body.decode("utf-8", "replace").strip()


def _receive(connection: socket.socket, end: float) -> bytes:
    connection.settimeout(max(end - time.monotonic(), 0.001))
    return connection.recv(READ_BYTES)


def _error(status: int, body: str) -> str:
    import json  # start-up: only where it is not well

    try:
        return one_line(str(json.loads(body)["error"]))
    except (ValueError, LookupError):
        return f"the wrapper answers {status}"


def _say(descriptor: int, text: str, status: int) -> int:
    try:
        os.write(descriptor, f"{text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # closed, full or not read: the status says it too
    return status
