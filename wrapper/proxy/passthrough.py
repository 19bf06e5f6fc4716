"""A connection that is passed to the service as it is: HTTP/2 with prior knowledge (RFC 9113 section 3.3)."""

from __future__ import annotations

from wrapper.errors import Refusal
from wrapper.loop.stream import Gone
from wrapper.proxy.traveller import Cut, Travelling
from wrapper.proxy.tunnel import Tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.loop.loop import Steps
    from wrapper.proxy.upstream import Upstream

# RFC 9113 section 3.4. After its first 16 bytes alone a service would still take what follows for HTTP/1.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Passthrough(Travelling):
    """One HTTP/2 connection on its way. Nothing can be said to its client in words that HTTP/2 would understand."""

    def run(self) -> Steps:
        """Hold it at the gate where need be, then tunnel it until both sides have ended. Raises: ClientGone."""
        try:
            lane = yield from self.enter()
            self.stay(is_deaf=True)
            upstream: Upstream = lane.upstream
            connection = yield from upstream.connect(self.loop)
            try:
                yield from Tunnel(self.client, connection.stream, self.warning(), False, self).run()
            finally:
                connection.close()
        except (Refusal, Cut, Gone):
            pass
        finally:
            self.leave()
