"""Tokens: the file that holds one, judged; and those who try wrong ones, counted and slowed down."""

from __future__ import annotations

import math
import os
import stat
import threading
import time

from wrapper.errors import TooManyRequests
from wrapper.log import log

TOKEN_BYTES = 4096  # of a token file: what is longer fits into no header of ours together with the rest
TOKEN_SHORTEST = 16  # characters; 80 bits and more where they are chosen by chance (NIST SP 800-63B section 5.1.4)
BOM = b"\xef\xbb\xbf"

ALLOWANCE = 10  # wrong tries of one peer before it is slowed down
PAUSE = 1.0  # seconds until one of them is forgiven
PEERS_MAX = 1000
REPORT_INTERVAL = 60.0  # seconds between two lines of the log


def read(path: str) -> tuple[bytes, str | None]:
    """The token in a file, and what makes it a weak one.

    Raises: OSError; ValueError, with a sentence, where it can be no token.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO that no process writes to must not hang us
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("it is no regular file")
        raw = os.read(descriptor, TOKEN_BYTES + 1)
    finally:
        os.close(descriptor)
    token = raw.strip(b" \t\r\n")
    text = token.decode("utf-8", "surrogateescape")
    for is_so, fault in ((not token, "it is empty"), (len(raw) > TOKEN_BYTES, f"it is longer than {TOKEN_BYTES} bytes"),
                         (raw.startswith(BOM), "it begins with a byte order mark; save it as UTF-8 without"),
                         (b"\n" in token or b"\r" in token, "it has more than one line"),
                         (not text.isprintable(), "it is not UTF-8, or holds a character that cannot be seen")):
        if is_so:
            raise ValueError(fault)
    if mode & stat.S_IROTH:
        return token, f"every user can read it (its mode is {stat.S_IMODE(mode):04o}); chmod o-r"
    return token, f"it is shorter than {TOKEN_SHORTEST} characters" if len(text) < TOKEN_SHORTEST else None


class Tries:
    """Wrong tokens, by the peer that brought them."""

    def __init__(self) -> None:
        # Guards all below.
        self._lock = threading.Lock()
        self._until: dict[str | None, float] = {}  # when all tries of a peer are forgiven, the latest try last
        self._unsaid = 0
        self._say_at = 0.0

    def admit(self, peer: str | None) -> None:
        """Raises: TooManyRequests where `peer` has tried too often; its right token has to wait, too."""
        with self._lock:
            wait = self._until.get(peer, 0.0) - time.monotonic() - (ALLOWANCE - 1) * PAUSE
        if wait > 0:
            raise TooManyRequests("too many wrong tokens came from your address", math.ceil(wait))

    def note(self, peer: str | None) -> None:
        """Count a wrong one; the log has the count once a minute."""
        with self._lock:
            now = time.monotonic()
            self._until[peer] = max(now, self._until.pop(peer, now)) + PAUSE
            if len(self._until) > PEERS_MAX:
                self._until.pop(next(iter(self._until)))
            self._unsaid += 1
            count, is_due = self._unsaid, now >= self._say_at
            if is_due:
                self._unsaid, self._say_at = 0, now + REPORT_INTERVAL
        if is_due:
            log.warning("wrong tokens were tried on guarded paths", count=count, last_peer=peer)
