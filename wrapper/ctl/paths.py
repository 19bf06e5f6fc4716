"""Where the control socket is, and who listens there: for the wrapper that makes it, for `ctl` and for `health`."""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from collections.abc import Sequence

from wrapper import sockets
from wrapper.settings import address

NAME = "wrapper.sock"
DEFAULT_PREFIX = "/sidecar"  # what the control socket answers under, whatever --prefix says
# connect(2) on a unix socket that no process serves: no file, a file left behind, a file that is no socket.
UNSERVED = (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED, errno.ENOTSOCK)
ROOT, FIRST = 0, 1  # the user and the process that could do anything here without pretending

STRANGER = ("at {} listens a process of user {}, which is neither root nor you: it may be no wrapper; run this as that "
            "user if you trust it")


class NoWrapper(Exception):
    """There is no wrapper to talk to, or it went away; the message says what to do."""


class ControlSocket(namedtuple("ControlSocket", "path pid connection")):
    """A connected control socket; `pid` is 0 where the wrapper is in another container."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"pid {self.pid} at {self.path}"


def candidates() -> list[str]:
    """The default places, best first: /run, the temporary folder, and what a container with a read-only root has."""
    folders = ("/run", os.environ.get("TMPDIR") or "/tmp", "/dev/shm")
    return list(dict.fromkeys(os.path.join(folder, NAME) for folder in folders))


def places(given: str | None) -> list[str]:
    """Where to look: what was given, else what the environment of the container names, else the usual places."""
    chosen = given or os.environ.get("WRAPPER_CONTROL")
    return [chosen] if chosen else candidates()


def connect(paths: Sequence[str], timeout: float | None) -> ControlSocket:
    """A connection to the one wrapper that listens at one of `paths`; `timeout` in seconds, None waits.

    Raises: NoWrapper, also where there are two: which of them is meant is not ours to guess.
    """
    found, faults = [], []
    for path in paths:
        try:
            found.append(_open(path, timeout))
        except NoWrapper as error:
            faults.append(str(error))
    # Another container's, where /run is shared, counts only where there is none of this one.
    ours = [peer for peer in found if peer.pid] or found
    for peer in found:
        if peer not in ours[:1] or len(ours) > 1:
            peer.connection.close()
    if len(ours) > 1:
        raise NoWrapper(f"two wrappers run here: {' and '.join(map(str, ours))}; say which with --control PATH")
    if not ours:
        raise NoWrapper(next(filter(None, faults), f"no wrapper runs here: no process listens at {' or '.join(paths)}; "
                                                   "--control PATH names another socket"))
    return ours[0]


def _open(path: str, timeout: float | None) -> ControlSocket:
    """Raises: NoWrapper, with no word where there is nothing."""
    trusted = (ROOT, os.geteuid())
    try:
        # Before the connect, which a stranger could make us wait for; root may look after a wrapper of any user.
        if (user := os.stat(path).st_uid) not in trusted and ROOT not in trusted[1:]:
            raise NoWrapper(STRANGER.format(path, user))
        connection = sockets.connect(address.unix(path), timeout)
    except OSError as error:
        hint = "; be the user the wrapper runs as" if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise NoWrapper("" if error.errno in UNSERVED else
                        f"cannot open {path}: {error.strerror or error}{hint}") from error
    pid, user = sockets.peer(connection)
    if user not in trusted and pid != FIRST:
        connection.close()
        raise NoWrapper(STRANGER.format(path, user))
    return ControlSocket(path, pid, connection)
