"""The control socket: the wrapper's own paths, without a token, for processes that may open it."""

from __future__ import annotations

import os

from wrapper import sockets
from wrapper.ctl.paths import DEFAULT_PREFIX
from wrapper.errors import NotFound
from wrapper.front.server import Server
from wrapper.log import log
from wrapper.settings import address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.gate import Gate
    from wrapper.http1.message import Ended, Request, Response
    from wrapper.sidecar.site import Site

MODE = 0o600  # of the socket: its owner only
ROOT = 0


class OwnPaths:
    """The site as the control socket shows it: what is not ours is not relayed from here."""

    prefixes: tuple[str, ...] = ("/", "*")

    def __init__(self, site: Site) -> None:
        self._site = site

    def answer(self, request: Request) -> Response | None:
        """Raises: Refusal."""
        response = self._site.answer(request)
        prefix = self._site.around.settings.prefix
        if response is None and prefix != DEFAULT_PREFIX and request.path.startswith(DEFAULT_PREFIX + "/"):
            # `ctl` is another process: it cannot know what --prefix this one was started with.
            request.path = prefix + request.path[len(DEFAULT_PREFIX):]
            response = self._site.answer(request)
        if response is None:
            raise NotFound(f"{request.path} is not a path of the wrapper's own")
        return response

    def is_quick(self, path: str) -> bool:
        return self._site.is_quick(path)

    def gate(self, path: str) -> Gate:
        return self._site.gate(path)

    def ended(self, ended: Ended) -> None:
        """Does nothing: what `ctl` asks is no traffic."""

    def note_failure(self, status: int, reason: str, what: str) -> None:
        return

    def note_shortage(self, what: str, is_short: bool) -> None:
        self._site.note_shortage(what, is_short)


class ControlServer(Server):
    """Serves own paths at `path` to processes of our own user, and of root; the file of one that is gone is replaced.

    Raises: OSError where it cannot be there.
    """

    def __init__(self, path: str, site: Site) -> None:
        try:
            listener = sockets.listen(address.parse(f"unix:{path}"), MODE)
        except ValueError as error:
            raise OSError(str(error)) from None
        super().__init__(listener, OwnPaths(site), site.around.settings, trusted=True)
        self._path = os.path.join(address.folder(), path)  # sidecar code may change the folder
        self._inode = os.stat(path).st_ino

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """The file's mode says who may connect; not every system heeds it (unix(7)), so the peer is looked at too."""
        _, user = sockets.peer(request)
        if user in (ROOT, os.geteuid()):
            return True
        log.warning("a stranger at the control socket was turned away", uid=user)
        return False

    def stop(self) -> None:
        super().stop()
        self.close_connections()
        try:
            # A wrapper that was started meanwhile may have put its own there.
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        except OSError:
            pass
