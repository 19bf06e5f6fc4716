"""The client's end of a TLS connection: the same as a plain `Stream`, over OpenSSL that is fed from memory.

OpenSSL does not touch the socket here. Only so can close_notify be sent while the client goes on sending, as RFC 8446
section 6.1 allows and a tunnel needs: on a socket, `unwrap` reads what comes next and throws it away.
"""

from __future__ import annotations

import socket
import threading

from wrapper.poll import WRITABLE, ready
from wrapper.stream import ClientGone, Stream

try:
    import ssl
except ImportError:  # as in `certificate.py`: then there is no certificate, and none of these
    pass

BATCH = 64 * 1024  # bytes that one call of recv takes, or that are encrypted for one call of send: four records


class SecureStream(Stream):
    """A TLS client connection; `shake_hands` comes first.

    As with OpenSSL itself, a write that was not taken whole is to be followed by one of the rest of the same data.
    """

    __slots__ = ("_early", "_has_ended", "_incoming", "_is_broken", "_lock", "_outgoing", "_taken", "_tls", "_unsent")

    is_secure = True

    def __init__(self, connection: socket.socket, patience: float, context: ssl.SSLContext) -> None:
        super().__init__(connection, patience)
        # Guards all below: OpenSSL's objects are not thread-safe, and an upload is read while its answer is written.
        self._lock = threading.Lock()
        self._incoming = ssl.MemoryBIO()  # came from the socket, to be decrypted
        self._outgoing = ssl.MemoryBIO()  # encrypted, to be sent
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = b""  # encrypted, and more than the socket takes now
        self._taken = 0  # bytes of the data to be written that are encrypted, and not all sent
        self._early = b""  # decrypted before our goodbye, which would have lost it
        self._has_ended = False  # nothing more comes
        self._is_broken = False

    def shake_hands(self) -> bool:
        """True when the handshake is done, False while more of the client's part has to come.

        Raises: OSError (ssl.SSLError is one) when there is no agreement.
        """
        with self._lock:
            while True:
                try:
                    self._tls.do_handshake()
                    return True
                except ssl.SSLWantReadError:
                    pass
                finally:
                    self._flush_quietly()  # our part, or the alert that says what is wrong
                try:
                    self._fill()
                except BlockingIOError:
                    return False

    # In

    def read_now(self, size: int) -> bytes:
        with self._lock:
            if self._early:
                data, self._early = self._early[:size], self._early[size:]
                return data
            while not self._has_ended:
                if not (self._incoming.pending or self._incoming.eof or self._tls.pending()):
                    self._fill()
                try:
                    return self._decrypt(size)
                except ssl.SSLWantReadError:
                    continue  # all of `_incoming` was taken, and it is not a whole record yet
            return b""

    def _decrypt(self, size: int) -> bytes:
        assert self._lock.locked()
        try:
            data = self._tls.read(size)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # with a goodbye after ours, or without any
            data = b""
        self._has_ended = not data
        return data

    def read_into_now(self, buffer: memoryview) -> int:
        count = 0
        while count < len(buffer) and (not count or self.has_unseen()):
            try:
                data = self.read_now(len(buffer) - count)
            except BlockingIOError:
                if not count:
                    raise
                break
            if not data:
                break
            buffer[count:count + len(data)] = data
            count += len(data)
        return count

    def _fill(self) -> None:
        """Raises: BlockingIOError where nothing has come; OSError."""
        assert self._lock.locked()
        self._flush_quietly()  # what reading made OpenSSL say, such as the answer to a KeyUpdate
        data = self.socket.recv(BATCH, socket.MSG_DONTWAIT)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def wait_readable(self, seconds: float | None, other: int | None = None) -> bool:
        return self.has_unseen() or super().wait_readable(seconds, other)

    def has_unseen(self) -> bool:
        with self._lock:
            return bool(self._early or self._has_ended or self._incoming.pending or self._tls.pending())

    # Out

    def write_now(self, data: bytes | memoryview) -> int:
        view, sent = memoryview(data), 0
        with self._lock:
            try:
                while sent < len(view):
                    if not self._taken:
                        self._encrypt(view[sent:sent + BATCH])
                    self._flush()
                    if self._unsent:
                        break
                    sent += self._taken
                    self._taken = 0
            except OSError as error:
                raise ClientGone(str(error)) from None
        return sent

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view := view[self.write_now(view):]:
            if not ready(self.patience, (self.socket, WRITABLE)):
                raise ClientGone("the client took too long")

    def _encrypt(self, view: memoryview) -> None:
        assert self._lock.locked()
        while self._taken < len(view):
            self._taken += self._tls.write(view[self._taken:])

    def _flush(self) -> None:
        """Send what is encrypted, as far as the socket takes it. Raises: OSError."""
        assert self._lock.locked()
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        if self._unsent:
            try:
                self._unsent = self._unsent[self.socket.send(self._unsent, socket.MSG_DONTWAIT):]
            except BlockingIOError:
                pass

    def _flush_quietly(self) -> None:
        try:
            self._flush()
        except OSError:
            pass  # whoever reads will see it too

    # The end

    def finish_writing(self) -> None:
        self._say_goodbye()
        super().finish_writing()

    def reset(self) -> None:
        self._is_broken = True
        super().reset()

    def close(self) -> None:
        if not self._is_broken:  # a goodbye would say that nothing is missing
            self._say_goodbye()
        super().close()

    def _say_goodbye(self) -> None:
        """Send close_notify, without which a careful client calls the end a truncation (RFC 8446 section 6.1)."""
        with self._lock:
            try:
                while piece := self._decrypt(BATCH):
                    self._early += piece
            except (OSError, ValueError):
                pass  # mostly that there is no more
            try:
                self._tls.unwrap()
            except (OSError, ValueError):
                pass  # the client's own is still to come, or there was no handshake
            self._flush_quietly()
