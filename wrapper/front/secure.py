"""TLS at the exposed port: the client's end of a connection, and what the port proves itself with.

OpenSSL is fed from memory and does not touch the socket. Only so can close_notify be sent while the client goes on
sending, as RFC 8446 section 6.1 allows and a tunnel needs: on a socket, `unwrap` reads what comes next and throws it
away.
"""

from __future__ import annotations

import os
import socket

from wrapper.errors import NO_TLS, BadSettings, CannotStart
from wrapper.log import log
from wrapper.loop.loop import Loop
from wrapper.loop.stream import READ_SIZE, ClientGone, Gone, Stream
from wrapper.threads import NoThread

try:
    import ssl
except ImportError:  # a Python built without OpenSSL serves where no TLS is asked for
    HAS_TLS = False
else:
    HAS_TLS = True

READ_INTERVAL = 1.0  # seconds at least between two looks whether the files of the certificate have changed
BATCH = 64 * 1024  # bytes that one call of recv takes, or that are encrypted for one call of send: four records
ANSWERED_MAX = 64 * 1024  # bytes that OpenSSL says by itself: 2,400 KeyUpdates, one for each of 2**24 records or so
BARREN_MAX = 24 * 1024  # bytes without payload: over one record, 18 KiB at most (RFC 5246 section 6.2.3)


class SecureStream(Stream):
    """A TLS client connection, the same as a plain `Stream` once `shake_hands` is done."""

    is_secure = True

    def __init__(self, connection: socket.socket, loop: Loop, gone: type[Gone], context: ssl.SSLContext) -> None:
        super().__init__(connection, loop, gone)
        self._incoming = ssl.MemoryBIO()  # came from the socket, to be decrypted
        self._outgoing = ssl.MemoryBIO()  # encrypted, to be sent
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._early = b""  # decrypted before our goodbye, which would have lost it
        self._has_ended = False  # nothing more comes
        self._answered = 0  # bytes
        self._barren = 0  # bytes that came since the latest payload

    def shake_hands(self) -> bool:
        """True when the handshake is done, False while more of the client's part has to come.

        Raises: OSError (ssl.SSLError is one) when there is no agreement.
        """
        while True:
            try:
                self._tls.do_handshake()
                return True
            except ssl.SSLWantReadError:
                pass
            finally:
                self._push_quietly()  # our part, or the alert that says what is wrong
            if not self._fill():
                return False

    # In

    def receive(self, size: int = READ_SIZE) -> bytes | None:
        pieces: list[bytes] = []
        while size and (not pieces or self.has_unseen()):
            if not (data := self._take(size)):
                return b"".join(pieces) if pieces else data
            pieces.append(data)
            size -= len(data)
        return b"".join(pieces)

    def _take(self, size: int) -> bytes | None:
        """Up to `size` bytes of one record, else as `receive`."""
        if self._early:
            data, self._early = self._early[:size], self._early[size:]
            return data
        if self._has_ended:
            return b""
        incoming = self._incoming
        try:
            if not (incoming.pending or incoming.eof or self._tls.pending() or self._fill()):
                return None
            waiting = incoming.pending
            try:
                data = self._decrypt(size)
            except ssl.SSLWantReadError:
                self._push_responses()
                self._note_barren(waiting)
                return None
        except OSError as error:
            raise self._gone(str(error)) from None
        self._barren = 0
        return data

    def _note_barren(self, taken: int) -> None:
        """OpenSSL has taken so many bytes, and waits for the rest of a record. Raises: `_gone` where that is no rest.

        Where more has come, the kernel tells: a flood of such records must leave the others their turn.
        """
        self._barren += taken
        if self._barren > BARREN_MAX:
            raise self._gone("too many TLS records without payload")

    def _decrypt(self, size: int) -> bytes:
        try:
            data = self._tls.read(size)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # with a goodbye after ours, or without any
            data = b""
        self._has_ended = not data
        return data

    def receive_into(self, view: memoryview) -> int | None:
        count = 0
        while count < len(view) and (not count or self.has_unseen()):
            data = self._take(len(view) - count)
            if not data:
                return count or (None if data is None else 0)
            view[count:count + len(data)] = data
            count += len(data)
        return count

    def _fill(self) -> bool:
        """Feed OpenSSL with what has come; False where nothing has. Raises: OSError."""
        self._push_responses()
        try:
            data = self.socket.recv(BATCH)
        except BlockingIOError:
            return False
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return True

    def _push_responses(self) -> None:
        """Send what reading made OpenSSL say: to a KeyUpdate, or that it does not renegotiate. Raises: OSError."""
        self._answered += self._outgoing.pending
        if self._answered > ANSWERED_MAX:
            raise OSError("too many TLS records that want a response")
        self._push_quietly()

    def has_unseen(self) -> bool:
        return bool(self._early or self._has_ended or self._incoming.pending or self._tls.pending())

    # Out

    def send(self, data: bytes | memoryview, *, is_last: bool = False) -> bool:
        """See `Stream.send`; `is_last` changes nothing, since TLS says goodbye before the end."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.write(view[:BATCH]):]
                if self._outgoing.pending >= BATCH:
                    self._push()
            return self._push()
        except OSError as error:
            raise self._gone(str(error)) from None

    def send_unsent(self) -> None:
        self.send(b"")

    def _push(self) -> bool:
        """Send what is encrypted; True where the socket took all of it. Raises: OSError."""
        if self._outgoing.pending:
            encrypted = self._outgoing.read()
            self.unsent = self.unsent + encrypted if self.unsent else encrypted
        if self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent):]
            except BlockingIOError:
                pass
        return not self.unsent

    def _push_quietly(self) -> None:
        try:
            self._push()
        except OSError:
            pass  # what reads sees it too

    # The end

    def finish_writing(self) -> None:
        """Say goodbye (close_notify), and close our side behind what is on its way."""
        self._say_goodbye()
        super().finish_writing()

    def reset(self) -> None:
        self._has_ended = True  # no goodbye: it would say that nothing is missing
        super().reset()

    def close(self) -> None:
        if not self._has_ended:
            self._say_goodbye()
        super().close()

    def _say_goodbye(self) -> None:
        """Send close_notify, without which a careful client calls the end a truncation (RFC 8446 section 6.1)."""
        try:
            while piece := self._decrypt(BATCH):
                self._early += piece
        except (OSError, ValueError):
            pass  # mostly that there is no more
        try:
            self._tls.unwrap()
        except (OSError, ValueError):
            pass  # the client's own is still to come, or there was no handshake
        self._push_quietly()


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
