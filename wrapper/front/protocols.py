"""What a connection needs of the rooms above it, as types: who answers what, and the port it came in by."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Hashable
    from typing import Any, Protocol

    from wrapper.front.error_page import ErrorPage
    from wrapper.front.shortage import Shortage
    from wrapper.gate import Gate
    from wrapper.http1.request import RequestHead
    from wrapper.loop.loop import Loop
    from wrapper.loop.stream import Stream
    from wrapper.loop.workers import Workers
    from wrapper.http1.message import Ended, Request, Response
    from wrapper.proxy.headers import Peer

    class Directory(Protocol):
        """Who answers what: the wrapper's own paths, and the gates of the services behind the others."""

        prefixes: tuple[str, ...]

        @property
        def observes(self) -> bool: ...

        def answer(self, request: Request) -> Response | None:
            """The answer to a request below one of `prefixes`; None: relay it. May raise a Refusal."""

        def is_quick(self, path: str) -> bool:
            """True where the response to a path of the wrapper's own waits for nothing, not even the disk."""

        def gate(self, path: str) -> Gate: ...

        def ended(self, ended: Ended) -> None: ...

        def note_failure(self, status: int, reason: str, what: str) -> None:
            """A relayed request, `what`, was answered with `status`, 502 mostly, because of `reason`."""

        def note_shortage(self, what: str, is_short: bool) -> None:
            """`what` runs short, or does so no longer."""

    class Port(Protocol):
        """The port a connection came in by: `server.Server`, seen from here."""

        site: Directory
        settings: Any
        is_unix: bool
        trusted: bool
        workers: Workers
        loop: Loop
        shortage: Shortage
        error_page: ErrorPage | None
        latest_head: RequestHead | None
        is_closing: bool
        is_stopped: bool
        idle: dict[Any, None]
        surplus: dict[Any, None]

        def stream(self, connection: socket.socket, loop: Loop) -> Stream: ...

        def peer_at(self, host: str | None) -> Peer: ...

        def admit(self, connection: Any) -> str: ...

        def forget(self, connection: Hashable) -> None: ...
