"""Who may ask own paths: clients with the token on the exposed port, processes that can open the control socket; and
no page of another site.

A token in a header that no form and no link of another site can set makes every guarded path safe from forged
requests (CSRF). RFC 6750 section 2.1. A browser carries requests of other sites, and names that lead to us by accident:
Fetch Metadata (https://www.w3.org/TR/fetch-metadata/) says where a request comes from, Host under which name it came
(DNS rebinding), Cross-Origin-Resource-Policy (Fetch standard, section 3.7) who may have the response.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import os
import stat
import threading
import time

from wrapper.errors import Forbidden, TooManyRequests, Unauthorized
from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from wrapper.http1.message import Request
    from wrapper.problems import Board
    from wrapper.sidecar.router import Route

TOKEN_BYTES = 4096  # of a token file: what is longer fits into no header of ours together with the rest
TOKEN_SHORTEST = 16  # characters; 80 bits and more where they are chosen by chance (NIST SP 800-63B section 5.1.4)
BOM = b"\xef\xbb\xbf"

ALLOWANCE = 10  # wrong tries of one peer before it is slowed down
PAUSE = 1.0  # seconds until one of them is forgiven
PEERS_MAX = 1000
REPORT_INTERVAL = 60.0  # seconds between two lines of the log

NO_SNIFFING = ("X-Content-Type-Options", "nosniff")
SAME_ORIGIN = ("Cross-Origin-Resource-Policy", "same-origin")


class Access:
    """Judges requests by their token. `path` names a token file, which is read again whenever it changes; `source` is
    what its problems go by. A token that `also` takes counts here too.
    """

    def __init__(self, token: str | None, path: str | None, board: Board, source: str = "access",
                 also: Access | None = None) -> None:
        self._token = None if token is None else token.strip(" \t\r\n").encode()
        self._tries = Tries()
        self._path = path
        self._board = board
        self._source = source
        self._also = also
        # Guards the token as it was read last and what the file looked like then.
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int, int] | None = None
        self._fault: str | None = None  # of the file as it was read last
        self._now()  # what is wrong with the file is said at the start, not when it is needed

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
        """The token that counts now; None where its file cannot be read: then no client has it."""
        if self._path is None:
            return self._token
        with self._lock:
            self._read_again(self._path)
            token, fault = self._token, self._fault
        if fault is None:
            self._board.resolve(self._source)
        else:
            self._board.report(self._source, f"the token file {self._path} "
                               f"{fault if token is None else 'is weak: ' + fault}")
        return token

    def _read_again(self, path: str) -> None:
        """Read the token file where it has changed."""
        assert self._lock.locked()
        try:
            facts = os.stat(path)
            # Kubernetes swaps secrets by symlink: the inode changes even where time and size do not. Written over
            # in place, with its time set back, it has another ctime, which no process can set (inode(7)).
            seen = (facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size)
            if seen != self._seen:
                self._token, self._seen, self._fault = None, seen, None
                self._token, self._fault = read_token(path)
        except OSError as error:
            self._token, self._seen, self._fault = None, None, f"cannot be read: {error.strerror}"
        except ValueError as error:
            self._fault = f"holds no token: {error}"


def _holds(request: Request, token: bytes) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Compared whatever the scheme: the time says nothing about the token.
    is_same = hmac.compare_digest(given.strip(" \t").encode("latin-1"), token)
    return scheme.lower() == "bearer" and is_same


def read_token(path: str) -> tuple[bytes, str | None]:
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


def judge_token(request: Request, route: Route | None, access: Access, is_private: bool) -> None:
    """Ask for the token where a path needs it: where its route says so, and with --private everywhere but for probes.

    Raises: see `Access.check`.
    """
    if route is not None and route.access is not None:
        route.access.check(request)
    elif is_private if route is None else route.is_guarded or (is_private and not route.is_probed):
        access.check(request)


def judge_origin(request: Request, hosts: Collection[str], is_shared: bool) -> None:
    """Judge who has a request sent to an own path. `hosts`: the names under which those are answered; empty: any.

    Raises: Forbidden.
    """
    if not is_shared and _is_foreign(request):
        raise Forbidden("pages of other sites may not ask this path")
    if hosts and not _is_known(request.host, hosts):
        raise Forbidden("this path is not answered under this host; --allowed-hosts names those it is")


def _is_known(host: str, hosts: Collection[str]) -> bool:
    """Judge a Host value, of which the port, brackets and the dot of the root say nothing."""
    inner, bracket, _ = host.partition("]")
    name = inner[1:] if bracket else host.partition(":")[0].rstrip(".").lower()
    try:
        return name in ("localhost", "") or name in hosts or bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_foreign(request: Request) -> bool:
    """True for what a page of another site fetches; a link there that is followed shows its response to people only."""
    if request.headers.get("sec-fetch-site") != "cross-site":
        return False
    is_followed = request.headers.get("sec-fetch-mode") == "navigate" and request.method in ("GET", "HEAD")
    return not (is_followed and request.headers.get("sec-fetch-dest") == "document")


def protected(headers: Iterable[tuple[str, str]], route: Route | None) -> list[tuple[str, str]]:
    """The fields of a response of ours, and those that keep it from other sites where it has none of that name."""
    fields = list(headers)
    names = {name.lower() for name, _ in fields}
    ours = (NO_SNIFFING,) if route is not None and route.is_shared else (NO_SNIFFING, SAME_ORIGIN)
    return fields + [field for field in ours if field[0].lower() not in names]
