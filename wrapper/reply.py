"""Answers of the wrapper's own, as bytes: errors for relayed paths, and whatever the sidecar answers."""

from __future__ import annotations

import json
from email.utils import formatdate
from http import HTTPStatus

from wrapper.errors import Refusal, Unavailable
from wrapper.chunked import chunk
from wrapper.log import log
from wrapper.stream import ClientGone, do_nothing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.http1 import RequestHead
    from wrapper.message import Request, Response
    from wrapper.pool import Worker
    from wrapper.port import Site
    from wrapper.stream import Body, Stream


class OwnAnswer:
    """The answer to a request for one of the wrapper's own paths."""

    def __init__(self, stream: Stream, head: RequestHead, body: Body, worker: Worker, keep: bool) -> None:
        self._stream = stream
        self._body = body
        self._worker = worker
        self._is_head = head.method == b"HEAD"
        self._minor = head.minor
        self._has_begun = False
        self.keep = keep
        self.status = 0
        self.sent = 0
        if head.expects:
            body.before_wait = self._continue

    def answer(self, site: Site, request: Request) -> bool:
        """Let `site` answer; False where the path is not one of its own after all."""
        try:
            # Nobody knows how long a sidecar takes.
            if not self._worker.step_aside() and not site.is_quick(request.path):
                raise Unavailable("no thread can be had for this path")
            response = site.answer(request)
            if response is None:
                self._body.before_wait = do_nothing
                return False
            self._send(response)
        except Refusal as refusal:
            self._refuse(refusal)
        except ClientGone:
            self.keep = False
        except Exception as error:  # noqa: BLE001  whatever a sidecar does, the client gets an answer
            log.error("an own path failed", path=request.path, cause=repr(error))
            self._refuse(Refusal("the wrapper failed"))
        return True

    def _continue(self) -> None:
        self._stream.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _send(self, response: Response) -> None:
        try:
            self.keep = self.keep and self._body.is_done
            self.status = response.status
            if response.is_streamed:
                self._stream_out(response)
            else:
                self._write(answer_bytes(response.status, response.headers, None, response.whole(), not self.keep,
                                         self._is_head, self._minor))
        finally:
            response.close()

    def _stream_out(self, response: Response) -> None:
        has_length = any(name.lower() == "content-length" for name, _ in response.headers)
        is_chunked = self._minor == 1 and not has_length
        if not is_chunked and not has_length:
            self.keep = False
        framing = [("Transfer-Encoding", "chunked")] if is_chunked else []
        self._write(head_bytes(response.status, response.headers + framing, not self.keep, self._minor))
        if self._is_head or response.status in (204, 304):
            return
        for piece in response.pieces():
            if piece:
                self._write(chunk(piece) if is_chunked else piece)
            elif self._stream.has_ended():
                raise ClientGone("the client left")  # an empty piece is how a silent stream asks
        if is_chunked:
            self._write(b"0\r\n\r\n")

    def _refuse(self, refusal: Refusal) -> None:
        if self._has_begun:  # nothing honest can be said any more: the end is missing
            self.keep = False
            return
        self.status = refusal.status
        self.keep = self.keep and self._body.is_done
        text = json.dumps({"error": refusal.message, "status": refusal.status}).encode() + b"\n"
        try:
            self._write(answer_bytes(refusal.status, refusal.headers, "application/json", text, not self.keep,
                                     self._is_head, self._minor))
        except ClientGone:
            self.keep = False

    def _write(self, data: bytes) -> None:
        self._has_begun = True
        if not self._worker.is_seated:
            self._stream.write(data)
        elif self._stream.write_now(data) < len(data):
            raise ClientGone("no thread can be had to wait for the client")
        self.sent += len(data)


def head_bytes(status: int, fields: Any, close: bool, minor: int = 1) -> bytes:
    """The head of an answer of our own (RFC 9110 section 6.6.1 asks for a Date)."""
    lines = [f"HTTP/1.1 {status} {reason(status)}", f"Date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in fields]
    if close:
        lines.append("Connection: close")
    elif not minor:
        lines.append("Connection: keep-alive")
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a line break in a field of an answer")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


def answer_bytes(status: int, fields: Any, content_type: str | None, body: bytes, close: bool, is_head: bool,
                 minor: int = 1) -> bytes:
    """A whole answer of our own."""
    fields = list(fields)
    if content_type is not None:
        fields.append(("Content-Type", content_type))
    if status in (204, 304) or status < 200:
        return head_bytes(status, fields, close, minor)
    if not any(name.lower() == "content-length" for name, _ in fields):
        fields.append(("Content-Length", str(len(body))))
    return head_bytes(status, fields, close, minor) + (b"" if is_head else body)


def reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
