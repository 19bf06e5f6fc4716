"""The page of --error-page: for relayed requests that get 502, 503 or 504 from us and would rather have HTML."""

from __future__ import annotations

import html

from wrapper.errors import BadSettings, CannotStart
from wrapper.front.reply import reason, response_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.errors import Refusal
    from wrapper.http1.request import RequestHead

STATUSES = (502, 503, 504)


class ErrorPage:
    """The text of `path`, in which {status}, {reason} and {retry_after} are filled in."""

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
