"""Where something listens: `HOST:PORT`, `:PORT`, `[::1]:PORT` or `unix:PATH`, read and printed."""

from __future__ import annotations

import os
from collections import namedtuple

LOOPBACK = "127.0.0.1"
UNIX_PATH_BYTES = 107  # unix(7): sun_path holds 108 bytes with the final NUL


class Address(namedtuple("Address", "host port path")):
    """A TCP address (`path` is None) or a unix socket (`path` is set); an empty host means all addresses."""

    __slots__ = ()
    host: str
    port: int
    path: str | None

    @property
    def is_unix(self) -> bool:
        return self.path is not None

    def covers(self, other: Address) -> bool:
        """True where a client that connects to `other` on this machine reaches what listens here."""
        if self.is_unix or other.is_unix:
            return self == other
        everywhere = ("", "0.0.0.0", "::")
        ours, theirs = (LOOPBACK if each.host in ("localhost", "::1") else each.host for each in (self, other))
        if ours in everywhere:
            return self.port == other.port and (theirs in everywhere or theirs.startswith("127."))
        return self.port == other.port and (ours == theirs or (ours == LOOPBACK and theirs in everywhere))

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def unix(path: str) -> Address:
    return Address("", 0, path)


def tcp(host: str, port: int) -> Address:
    return Address(host, port, None)


def parse(text: str) -> Address:
    """Read an address.

    Raises: ValueError, with a sentence that names the fault and a right example.
    """
    if text.startswith("unix:"):
        return unix(_unix_path(text[len("unix:"):]))
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not is_bracketed):
        raise ValueError("expected HOST:PORT, :PORT, [::1]:PORT or unix:PATH")
    return tcp(host[1:-1] if is_bracketed else _name(host), _port(port))


def _name(host: str) -> str:
    """Raises: ValueError where no lookup could take it, such as for two dots in a row."""
    try:
        host.encode("ascii" if host.isascii() else "idna")
    except UnicodeError:
        raise ValueError(f"the host {host!r} is not a name") from None
    return host


def _unix_path(path: str) -> str:
    if not path:
        raise ValueError("the path after unix: is empty")
    if len(path.encode()) > UNIX_PATH_BYTES:
        raise ValueError(f"the path of a unix socket has at most {UNIX_PATH_BYTES} bytes")
    full = os.path.join(folder(), path)  # sidecar code may change our working folder, and means itself
    return full if len(full.encode()) <= UNIX_PATH_BYTES else path


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ValueError(f"the port {text!r} is not a number from 1 to 65535")
    return int(text)


def folder() -> str:
    """The working folder; "" where it has no name any more, so that what is joined to it stays relative."""
    try:
        return os.getcwd()
    except OSError:
        return ""
