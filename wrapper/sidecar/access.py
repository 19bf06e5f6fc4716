"""Who may act: a client with the token on the exposed port, each process that can open the control socket.

A token in a header that no form and no link of another site can set makes every guarded path safe from forged
requests (CSRF). RFC 6750 section 2.1.
"""

from __future__ import annotations

import hmac
import os
import threading

from wrapper.errors import Forbidden, Unauthorized
from wrapper.sidecar import tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.http1.message import Request
    from wrapper.problems import Board


class Access:
    """Judges requests. `path` names a token file, which is read again whenever it changes; `source` is what its
    problems go by. What `also` knows may act here too.
    """

    def __init__(self, token: str | None, path: str | None, board: Board, source: str = "access",
                 also: Access | None = None) -> None:
        self._token = None if token is None else token.strip(" \t\r\n").encode()
        self._tries = tokens.Tries()
        self._path = path
        self._board = board
        self._source = source
        self._also = also
        # Guards the token as it was read last and what the file looked like then.
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int, int] | None = None
        self._fault: str | None = None  # of the file as it was read last
        if path is not None:
            self._from_file(path)  # what is wrong with it is said at the start, not when it is needed

    def check(self, request: Request) -> None:
        """Return where the request may act.

        Raises: Unauthorized without the right token; Forbidden where there is no token to have; TooManyRequests.
        """
        if request.trusted:
            return
        token = self._now()
        if not token and self._path is not None:
            raise Forbidden("the token file is empty or cannot be read; see the problems on the control socket")
        if not token:
            raise Forbidden("this path needs a token and none is configured (--token-file); "
                            "it works over the control socket: wrapper ctl")
        is_try = "authorization" in request.headers
        if is_try:
            self._tries.admit(request.peer)
        if not (_holds(request, token) or (self._also is not None and self._also.holds_token(request))):
            if is_try:
                self._tries.note(request.peer)
            raise Unauthorized("this path needs the header Authorization: Bearer TOKEN, and the right token")

    @property
    def has_token(self) -> bool:
        return self._token is not None or self._path is not None

    def holds_token(self, request: Request) -> bool:
        """Whether the request brings the token, wherever it is going."""
        token = self._now() if "authorization" in request.headers else None
        return bool(token) and _holds(request, token or b"")

    def knows(self, request: Request) -> bool:
        """Whether the request may be told what is not for strangers."""
        return request.trusted or self.holds_token(request)

    def _now(self) -> bytes | None:
        return self._token if self._path is None else self._from_file(self._path)

    def _from_file(self, path: str) -> bytes | None:
        """The token that the file holds now; None where it cannot be read: then no client has it."""
        with self._lock:
            try:
                facts = os.stat(path)
                # Kubernetes swaps secrets by symlink: the inode changes even where time and size do not. Written over
                # in place, with its time set back, it has another ctime, which no process can set (inode(7)).
                seen = (facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)
                if seen != self._seen:
                    self._token, self._seen, self._fault = None, seen, None
                    self._token, self._fault = tokens.read(path)
            except OSError as error:
                self._token, self._seen, self._fault = None, None, f"cannot be read: {error.strerror}"
            except ValueError as error:
                self._fault = f"holds no token: {error}"
            token, fault = self._token, self._fault
        if fault is None:
            self._board.resolve(self._source)
        else:
            self._board.report(self._source, f"the token file {path} {fault if token is None else 'is weak: ' + fault}")
        return token


def _holds(request: Request, token: bytes) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Compared whatever the scheme: the time says nothing about the token.
    is_same = hmac.compare_digest(given.strip(" \t").encode("latin-1"), token)
    return scheme.lower() == "bearer" and is_same
