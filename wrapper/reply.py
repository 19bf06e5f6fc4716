"""Answers of the wrapper's own, as bytes: errors for relayed paths, and whatever the sidecar answers."""

from __future__ import annotations

import json
from email.utils import formatdate
from http import HTTPStatus

from wrapper.errors import Refusal, Unavailable
from wrapper.chunked import chunk, last_chunk
from wrapper.log import log
from wrapper.stream import ClientGone, do_nothing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
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
        self.is_broken = False  # it ended before its end
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
            self._break_off()
        except Exception as error:  # noqa: BLE001  whatever a sidecar does, the client gets an answer
            log.error("an own path failed", path=request.path, cause=repr(error))
            self._refuse(Refusal("the wrapper failed"))
        return True

    def _continue(self) -> None:
        if not self._has_begun:
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
        fields, promised = unframed(response.headers)
        is_chunked = False
        if promised is not None and response.status != 204:
            fields.append(("Content-Length", str(promised)))
        elif not has_no_body(response.status):
            is_chunked = self._minor == 1
            self.keep = self.keep and is_chunked
            fields += [("Transfer-Encoding", "chunked")] if is_chunked else []
        self._write(head_bytes(response.status, fields, not self.keep, self._minor))
        if self._is_head or has_no_body(response.status):
            return
        for piece in self._pieces(response, promised):
            self._write(chunk(piece) if is_chunked else piece)
        if is_chunked:
            self._write(last_chunk())

    def _pieces(self, response: Response, promised: int | None) -> Iterator[bytes]:
        """What `response` yields, as much as it promised.

        Raises: ValueError where that was less.
        """
        left = promised
        for piece in response.pieces():
            if not piece:
                if self._stream.has_ended():
                    raise ClientGone("the client left")  # an empty piece is how a silent stream asks
                continue
            if left is None:
                yield piece
                continue
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return
        if left:
            raise ValueError(f"the body is {left} bytes shorter than its Content-Length")

    def _refuse(self, refusal: Refusal) -> None:
        if self._has_begun:
            self._break_off()
            return
        self.status = refusal.status
        self.keep = self.keep and self._body.is_done
        text = json.dumps({"error": refusal.message, "status": refusal.status}).encode() + b"\n"
        try:
            self._write(answer_bytes(refusal.status, refusal.headers, "application/json", text, not self.keep,
                                     self._is_head, self._minor))
        except ClientGone:
            self._break_off()

    def _break_off(self) -> None:
        """Nothing honest can be said any more: the end is missing."""
        self.keep = False
        self.is_broken = self._has_begun
        self.status = self.status or 499

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
    fields, promised = unframed(fields)
    if content_type is not None:
        fields.append(("Content-Type", content_type))
    length = _length(status, promised, body, is_head)
    if length is not None:
        fields.append(("Content-Length", str(length)))
    return head_bytes(status, fields, close, minor) + (b"" if is_head or has_no_body(status) else body)


def _length(status: int, promised: int | None, body: bytes, is_head: bool) -> int | None:
    """RFC 9110 section 8.6: to a HEAD and in a 304 it may say what a GET would be answered with; a 204 has none."""
    if status == 304:
        return promised
    if has_no_body(status):
        return None
    return promised if is_head and promised is not None else len(body)


def refusal_bytes(refusal: Refusal, close: bool, is_head: bool = False, held: float = 0.0, minor: int = 1) -> bytes:
    """An error of our own for a relayed path: a short page of text."""
    text = f"{refusal.status} {reason(refusal.status)}\n{refusal.message}\n".encode()
    fields = list(refusal.headers)
    if held:
        fields.append(("Wrapper-Held", f"{held:.3f}"))
    return answer_bytes(refusal.status, fields, "text/plain; charset=utf-8", text, close, is_head, minor)


def unframed(fields: Any) -> tuple[list[tuple[str, str]], int | None]:
    """The fields without those that frame the answer, which is our own business, and the length they promised."""
    promised = [int(value) for name, value in fields if name.lower() == "content-length" and value.isdecimal()]
    kept = [(name, value) for name, value in fields if name.lower() not in ("content-length", "transfer-encoding")]
    return kept, promised[0] if promised else None


def has_no_body(status: int) -> bool:
    """RFC 9112 section 6.3."""
    return status in (204, 304) or status < 200


def reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
