"""What the exposed port proves itself with, where it speaks TLS."""

from __future__ import annotations

import os

from wrapper.errors import NO_TLS, BadSettings, CannotStart
from wrapper.log import log
from wrapper.loop.stream import ClientGone
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from wrapper.loop.loop import Loop

READ_INTERVAL = 1.0  # seconds at least between two looks whether the files have changed

try:
    import ssl

    from wrapper.front.secure import SecureStream
except ImportError:  # a Python built without OpenSSL serves where no TLS is asked for
    HAS_TLS = False
else:
    HAS_TLS = True


class Certificate:
    """The certificate and key of the port, read again when a file has changed.

    Raises: CannotStart when they cannot be read at first.
    """

    def __init__(self, certificate: str, key: str | None) -> None:
        if not HAS_TLS:
            raise CannotStart(f"--tls-cert: {NO_TLS}", BadSettings.exit_status)
        self._certificate = certificate
        self._key = key or certificate
        self._read_at = self._changed_at()
        self._next_read = 0.0  # on the monotonic clock
        try:
            self.context = self._read()
        except OSError as error:  # ssl.SSLError is one
            raise CannotStart(f"cannot read --tls-cert {certificate} with its key: {error.strerror or error}",
                              BadSettings.exit_status) from error

    def stream(self, connection: socket.socket, loop: Loop) -> SecureStream:
        """The server's end of a TLS connection, before its handshake. Raises: OSError, ValueError."""
        if loop.now >= self._next_read:
            self._next_read = loop.now + READ_INTERVAL
            try:
                loop.workers.submit(self.renew)
            except NoThread:
                pass  # with the next one
        return SecureStream(connection, loop, ClientGone, self.context)

    def renew(self) -> None:
        """Read the files where one has changed; in a thread, since a disk may take its time."""
        changed_at = self._changed_at()
        if changed_at != self._read_at:
            self._read_at = changed_at
            try:
                self.context = self._read()
            except OSError as error:  # half of a pair may have been replaced; the old one still serves
                log.warning("cannot read the new certificate", cause=error)

    def _changed_at(self) -> tuple[int, int]:
        try:
            return os.stat(self._certificate).st_mtime_ns, os.stat(self._key).st_mtime_ns
        except OSError:
            return 0, 0

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._key)
        context.options |= ssl.OP_NO_RENEGOTIATION  # a write would have to wait for the client
        context.set_alpn_protocols(["http/1.1"])
        return context
