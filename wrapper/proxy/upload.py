"""A request's body on its way to the service, where it did not come along with its head."""

from __future__ import annotations

import threading

from wrapper.errors import Refusal
from wrapper.chunked import chunk, last_chunk
from wrapper.proxy.headers import trailers
from wrapper.stream import ClientGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.http1 import RequestHead
    from wrapper.pool import Worker
    from wrapper.proxy.upstream import Connection
    from wrapper.stream import Body


class Upload:
    """A body on its way to the service, in a thread of its own, so that the answer may begin before it ends."""

    def __init__(self, body: Body, connection: Connection, head: RequestHead) -> None:
        self._body = body
        self._connection = connection
        self._is_chunked = head.is_chunked
        self._nominated = head.options
        self._ended = threading.Event()
        self.refusal: Refusal | None = None
        self.has_client_left = False
        body.other = connection.sock.fileno()

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    def wait(self, seconds: float) -> bool:
        """True when the whole body has been sent."""
        return self._ended.wait(seconds) and self._body.is_done

    def run(self, worker: Worker) -> None:
        # A broken upload must never look complete: it ends with a cut, never with a last chunk.
        try:
            self._send_all(worker.buffer)
        except Refusal as refusal:
            self.refusal = refusal
            self._connection.cut()
        except ClientGone:
            self.has_client_left = True
            self._connection.cut()
        except OSError:
            pass  # the service takes no more; what it answers decides
        finally:
            self._ended.set()

    def _send_all(self, buffer: memoryview) -> None:
        send = self._connection.send
        for piece in self._body.pieces(buffer):
            send(chunk(piece) if self._is_chunked else piece)
        if self._is_chunked:
            send(last_chunk(trailers(self._body.trailers, self._nominated)))

    def finish(self) -> None:
        """End it, wherever it stands."""
        if not self._ended.is_set():
            self._connection.cut()
            self._ended.wait()
