"""The ports that wrappers under test give their services: two suites on a machine draw none twice."""

from __future__ import annotations

import collections
import socket

from wrapper import sockets

KEPT = 2  # of the latest ports: a service and a helper that are about to bind theirs; each costs a descriptor


class Claims:
    """What `draw` returns, unless another process of tests has drawn that too: claims are names that end with us."""

    def __init__(self, draw) -> None:
        self._draw = draw
        self._kept: collections.deque[socket.socket] = collections.deque()

    def free_port(self) -> int:
        while True:
            port = self._draw()
            if (claimed := claim(f"inner-{port}")) is not None:
                break
        self._kept.append(claimed)
        if len(self._kept) > KEPT:
            self._kept.popleft().close()
        return port


def claim(name: str) -> socket.socket | None:
    """What keeps `name` from all other processes of tests until it is closed or we end (unix(7)); None: one has it."""
    claimed = socket.socket(socket.AF_UNIX)
    try:
        claimed.bind(f"\0image-sidecar-wrapper-tests-{name}")
    except OSError:
        claimed.close()
        return None
    return claimed


def install() -> None:
    sockets.free_port = Claims(sockets.free_port).free_port
