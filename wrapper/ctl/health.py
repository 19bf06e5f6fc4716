"""`health`: asked every few seconds for as long as a container lives, so it loads next to nothing."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence

from wrapper.ctl.paths import DEFAULT_PREFIX, NoWrapper, connect, places
from wrapper.text import one_line, program

TIMEOUT = 5.0  # seconds; an orchestrator gives a probe 1 to 30
READ_BYTES = 64 * 1024
BODY_MAX = 1024**2  # bytes
USAGE = """usage: {} health [--control PATH] [--ready] [--timeout D] [--json]

exit 0 where all is well, 1 where not; with --ready: whether requests are served, not only the wrapper alive"""


def main(words: Sequence[str]) -> int:
    """Run `health` with the words behind it; returns the exit status."""
    try:
        given = _read(words)
        if "--timeout" in given:
            from wrapper.settings import values  # start-up: few give a time, and it brings `re`
        timeout = values.positive_duration(given["--timeout"]) if "--timeout" in given else TIMEOUT
    except ValueError as error:
        return _say(2, f"{USAGE.format(program())}\n\n{program()} health: {one_line(str(error))}", 2)
    if "--help" in given:
        return _say(1, USAGE.format(program()), 0)
    try:
        return _tell(given, places(given.get("--control")), time.monotonic() + timeout)
    except NoWrapper as error:
        return _say(2, f"wrapper health: {one_line(str(error))}", 1)


def _read(words: Sequence[str]) -> Mapping[str, str]:
    """Raises: ValueError."""
    given, rest = {}, list(words)
    valued, switches = ("--control", "--timeout"), ("--ready", "--json", "--help", "-h")
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        if flag in valued and (equals or rest):
            given[flag] = text if equals else rest.pop(0)
        elif flag in switches and not equals:
            given["--help" if flag == "-h" else flag] = ""
        else:
            wrong = "it takes no value" if equals else "a value is missing"
            raise ValueError(f"{flag}: {wrong if flag in valued + switches else 'no such option'}")
    return given


def _tell(given: Mapping[str, str], paths: Sequence[str], end: float) -> int:
    status, body = _ask("readyz" if "--ready" in given else "healthz", paths, end)
    if "--json" in given:
        return _say(1, one_line(body), 0 if status == 200 else 1)
    if status != 200:
        return _say(2, f"wrapper health: {_error(body)}", 1)
    if "--ready" in given:
        return _say(1, "ready", 0)
    status, body = _ask("readyz", paths, end)
    return _say(1, "healthy" if status == 200 else f"the wrapper serves; {_error(body)}", 0)


def _ask(path: str, paths: Sequence[str], end: float) -> tuple[int, str]:
    """Status and body, by `end` of the monotonic clock. Raises: NoWrapper."""
    data, piece = b"", b"?"
    with connect(paths, max(end - time.monotonic(), 0.001)).connection as connection:
        try:
            connection.sendall(f"GET {DEFAULT_PREFIX}/{path} HTTP/1.1\r\nHost: wrapper\r\nConnection: close\r\n\r\n"
                               .encode())
            while piece and len(data) < BODY_MAX:
                connection.settimeout(max(end - time.monotonic(), 0.001))
                piece = connection.recv(READ_BYTES)
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


def _error(body: str) -> str:
    import json  # start-up: only where it is not well

    try:
        return one_line(str(json.loads(body)["error"]))
    except (ValueError, LookupError):
        return "the wrapper says no, and not why"


def _say(descriptor: int, text: str, status: int) -> int:
    try:
        os.write(descriptor, f"{text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # closed, full or not read: the status says it too
    return status
