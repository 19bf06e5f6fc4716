"""What the exposed port proves itself with, where it speaks TLS."""

from __future__ import annotations

import os

from wrapper.errors import BadSettings, CannotStart
from wrapper.log import log

try:
    import ssl
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
            raise CannotStart("--tls-cert: this Python was built without TLS (its module _ssl); serve without, or use "
                              "another Python", BadSettings.exit_status)
        self._certificate = certificate
        self._key = key or certificate
        self._read_at = self._changed_at()
        try:
            self._context = self._read()
        except OSError as error:  # ssl.SSLError is one
            raise CannotStart(f"cannot read --tls-cert {certificate} with its key: {error.strerror or error}",
                              BadSettings.exit_status) from error

    def context(self) -> ssl.SSLContext:
        changed_at = self._changed_at()
        if changed_at != self._read_at:
            self._read_at = changed_at
            try:
                self._context = self._read()
            except OSError as error:  # half of a pair may have been replaced; the old one still serves
                log.warning("cannot read the new certificate", cause=error)
        return self._context

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
