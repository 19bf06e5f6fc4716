"""What a connection needs of the rooms above it, as types: who answers what, and the port it came in by."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import ssl
    import threading
    from typing import Any, Protocol

    from wrapper.gate import Gate
    from wrapper.message import Ended, Request, Response
    from wrapper.pool import Lot, Pool
    from wrapper.proxy.headers import Peer

    class Site(Protocol):
        """Who answers what: the wrapper's own paths, and the gates of the services behind the others."""

        prefixes: tuple[str, ...]

        @property
        def observes(self) -> bool: ...

        def answer(self, request: Request) -> Response | None:
            """The answer to a request below one of `prefixes`; None: relay it. May raise a Refusal."""

        def is_quick(self, path: str) -> bool:
            """True where the answer to a path of the wrapper's own waits for nobody."""

        def gate(self, path: str) -> Gate: ...

        def ended(self, ended: Ended) -> None: ...

    class Port(Protocol):
        """What a connection needs of the port it came in by: `server.Server`, seen from here."""

        site: Site
        settings: Any
        pool: Pool
        trusted: bool
        max_header: int
        held_lock: threading.Lock
        idle: Lot
        heading: Lot
        holding: Lot
        leaving: Lot
        lingering: Lot
        awaiting: Lot
        greeting: Lot

        def tls_context(self) -> ssl.SSLContext | None: ...

        def peer_of(self, connection: socket.socket, address: Any) -> Peer: ...

        def left(self, handler: object) -> None: ...
