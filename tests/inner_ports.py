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
            port, claim = self._draw(), socket.socket(socket.AF_UNIX)
            try:
                claim.bind(name(port))
            except OSError:
                claim.close()
                continue
            self._kept.append(claim)
            if len(self._kept) > KEPT:
                self._kept.popleft().close()
            return port


def name(port: int) -> str:
    return f"\0image-sidecar-wrapper-tests-inner-{port}"


def install() -> None:
    sockets.free_port = Claims(sockets.free_port).free_port
