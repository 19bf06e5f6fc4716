"""Responses of the wrapper's own, as bytes: errors for relayed and for own paths, and what the sidecar answers."""

from __future__ import annotations

import html
import json
from email.utils import formatdate
from http import HTTPStatus

from wrapper.errors import BadSettings, CannotStart
from wrapper.proxy.headers import held_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wrapper.errors import Refusal
    from wrapper.http1.request import RequestHead


def head_bytes(status: int, fields: Any, close: bool, minor: int = 1) -> bytes:
    """The head of a response of our own (RFC 9110 section 6.6.1 asks for a Date)."""
    lines = [f"HTTP/1.1 {status} {reason(status)}", f"Date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in fields]
    if close:
        lines.append("Connection: close")
    elif not minor:
        lines.append("Connection: keep-alive")
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a line break in a field of a response")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


def response_bytes(status: int, fields: Any, content_type: str | None, body: bytes, close: bool, is_head: bool,
                 minor: int = 1) -> bytes:
    """A whole response of our own."""
    return b"".join(response_parts(status, fields, content_type, body, close, is_head, minor))


def response_parts(status: int, fields: Any, content_type: str | None, body: bytes, close: bool, is_head: bool,
                 minor: int = 1) -> tuple[bytes, bytes]:
    """Head and body of a response of our own, apart: a large body is not copied to join the two."""
    fields, promised = unframed(fields)
    if content_type is not None:
        fields.append(("Content-Type", content_type))
    length = _length(status, promised, body, is_head)
    if length is not None:
        fields.append(("Content-Length", str(length)))
    return head_bytes(status, fields, close, minor), b"" if is_head or has_no_body(status) else body


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
        fields.append(held_field(held))
    return response_bytes(refusal.status, fields, "text/plain; charset=utf-8", text, close, is_head, minor)


def own_refusal_bytes(refusal: Refusal, close: bool, is_head: bool, minor: int) -> bytes:
    """An error for an own path: JSON."""
    text = json.dumps({"error": refusal.message, "status": refusal.status}).encode() + b"\n"
    return response_bytes(refusal.status, refusal.headers, "application/json", text, close, is_head, minor)


def unframed(fields: Any) -> tuple[list[tuple[str, str]], int | None]:
    """The fields without those that frame the response, which is our own business, and the length they promised."""
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


STATUSES = (502, 503, 504)


class ErrorPage:
    """The page of --error-page, for relayed requests that get one of STATUSES from us and would rather have HTML.

    It is the text of `path`, in which {status}, {reason} and {retry_after} are filled in.
    """

    def __init__(self, path: str) -> None:
        """Raises: CannotStart where the file cannot be read."""
        try:
            with open(path, encoding="utf-8") as file:
                self._text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or error
            raise CannotStart(f"cannot read --error-page {path}: {said}", BadSettings.exit_status) from error

    def is_for(self, refusal: Refusal, head: RequestHead) -> bool:
        return refusal.status in STATUSES and _accepts_html(head)

    def answer(self, refusal: Refusal, close: bool, is_head: bool, minor: int) -> bytes:
        """The whole response, as bytes."""
        retry_after = dict(refusal.headers).get("Retry-After", "")
        text = self._text
        for name, value in (("{status}", str(refusal.status)), ("{reason}", reason(refusal.status)),
                            ("{retry_after}", retry_after)):
            text = text.replace(name, html.escape(value))
        return response_bytes(refusal.status, refusal.headers, "text/html; charset=utf-8", text.encode(), close,
                              is_head, minor)


def _accepts_html(head: RequestHead) -> bool:
    """RFC 9110 section 12.5.1, as browsers say it; a client that takes anything gets the short text."""
    lines = head.fields.lower().split(b"\r\n")
    return any(b"text/html" in line for line in lines if line.lstrip(b"\n").startswith(b"accept:"))
