"""Tokens: the file that holds one, judged; and those who try wrong ones, counted and slowed down."""

from __future__ import annotations

import os
import stat
import threading
import time

from wrapper.errors import TooManyRequests
from wrapper.log import log

TOKEN_BYTES = 4096  # of a token file: what is longer fits into no header of ours together with the rest
TOKEN_SHORTEST = 16  # characters; 80 bits and more where they are chosen by chance (NIST SP 800-63B section 5.1.4)
BOM = b"\xef\xbb\xbf"

ALLOWANCE = 10.0  # wrong tries of one peer before it is slowed down
RECOVERY = 1.0  # tries that it gets back a second
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
    text = _judged(raw, token)
    if mode & stat.S_IROTH:
        return token, f"every user can read it (its mode is {stat.S_IMODE(mode):04o}); chmod o-r"
    return token, f"it is shorter than {TOKEN_SHORTEST} characters" if len(text) < TOKEN_SHORTEST else None


def _judged(raw: bytes, token: bytes) -> str:
    if not token:
        raise ValueError("it is empty")
    if len(raw) > TOKEN_BYTES:
        raise ValueError(f"it is longer than {TOKEN_BYTES} bytes")
    if raw.startswith(BOM):
        raise ValueError("it begins with a byte order mark; save it as UTF-8 without")
    if b"\n" in token or b"\r" in token:
        raise ValueError("it has more than one line")
    try:
        text = token.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    if not text.isprintable():
        raise ValueError("it holds a character that cannot be seen")
    return text


class Tries:
    """Wrong tokens, by the peer that brought them."""

    def __init__(self) -> None:
        # Guards all below.
        self._lock = threading.Lock()
        self._used: dict[str, tuple[float, float]] = {}  # peer: tries not yet recovered, and when that was so
        self._unsaid = 0
        self._is_watched = False  # a timer will tell of those to come

    def admit(self, peer: str | None) -> None:
        """Raises: TooManyRequests where `peer` has tried too often; its right token has to wait, too."""
        with self._lock:
            used = self._used_by(peer or "")
        if used > ALLOWANCE - 1:
            wait = max(1, round((used - ALLOWANCE + 1) / RECOVERY))
            raise TooManyRequests("too many wrong tokens came from your address", wait)

    def note(self, peer: str | None) -> None:
        """A wrong one; said in the log, once a minute."""
        with self._lock:
            self._used[peer or ""] = (self._used_by(peer or "") + 1, time.monotonic())
            if len(self._used) > PEERS_MAX:
                self._used.pop(next(iter(self._used)))
            self._unsaid += 1
            is_watched, self._is_watched = self._is_watched, True
        if not is_watched:
            self._say(peer)

    def _used_by(self, peer: str) -> float:
        used, since = self._used.pop(peer, (0.0, 0.0))  # what was used last stands last
        used = max(0.0, used - (time.monotonic() - since) * RECOVERY)
        if used:
            self._used[peer] = (used, time.monotonic())
        return used

    def _say(self, peer: str | None) -> None:
        with self._lock:
            count, self._unsaid = self._unsaid, 0
            self._is_watched = bool(count)
        if not count:
            return
        log.warning("wrong tokens were tried on guarded paths", count=count, last_peer=peer)
        timer = threading.Timer(REPORT_INTERVAL, self._say, (peer,))
        timer.name = "wrong-tokens"
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # no thread to be had: the next one is said at once
            with self._lock:
                self._is_watched = False
