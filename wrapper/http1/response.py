"""Reads and judges the heads of a service's responses, and mends what is sloppy in them. Pure: bytes in, facts out.

RFC 9112 (message syntax), RFC 9110 section 8.6 (Content-Length). Mended is only what leaves no doubt about where the
body ends; all else is Malformed, with its reason.
"""

from __future__ import annotations

import math
import re

from wrapper.http1.request import NO_OPTIONS, SECTION, TOKEN, VALUE, Head, Malformed, content_length, tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.http1.request import SpecialFields

_RESPONSE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])((?: " + VALUE + rb")?)\r" + SECTION)
_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] [1-9][0-9][0-9](?: " + VALUE + rb")?")
_WRONG_END = re.compile(rb"(?<!\r)\n|\r(?=[^\n])")
# draft-thomson-hybi-http-timeout-03 section 2, as Apache and Node send it.
_KEPT_FOR = re.compile(rb"(?i:timeout)=([0-9]{1,6})")
LAST_MOMENT = 1.0  # seconds before an announced end in which a request may meet it; Node's agent has the same
_SPACE_BEFORE_COLON = re.compile(rb"(?<=\n)(" + TOKEN + rb")[ \t]+:")


class ResponseHead(Head):
    """One status line and its fields, judged; `line` is what follows the version: " 200 OK"."""

    __slots__ = ("has_date", "is_chunked", "is_interim", "keep", "kept_for", "length", "line", "mended", "minor",
                 "options", "passed_on", "status")

    def __init__(self, minor: int, status: int, line: bytes, fields: bytes, end: int) -> None:
        self.minor = minor
        self.status = status
        self.is_interim = status < 200
        self.line = line
        self.fields = fields
        self.end = end
        special = self._find_special()
        self.length: int | None = None  # None: until the connection ends, unless is_chunked
        self.is_chunked = False
        self.keep = minor > 0
        self.kept_for = math.inf  # seconds after which its connection is not to be used again
        self.options = NO_OPTIONS
        self.has_date = b"\ndate:" in fields.lower()
        self.passed_on = b""  # what `proxy.headers` made of it, for a client to whom we have nothing to add
        self.mended: bytes | None = None  # the line that stands for all of its Content-Length; None: as they came
        if special:
            self._judge(special)

    def _judge(self, special: SpecialFields) -> None:
        if b"connection" in special:
            self.options = tokens(special[b"connection"])
            if b"close" in self.options:
                self.keep = False
            elif b"keep-alive" in self.options:
                self.keep = True
        if b"keep-alive" in special:
            self._judge_keep_alive(special[b"keep-alive"])
        if b"content-length" in special:
            self._judge_length(special[b"content-length"])
        if b"transfer-encoding" in special:
            self._judge_codings(special[b"transfer-encoding"])

    def _judge_keep_alive(self, lines: list[tuple[int, int, bytes]]) -> None:
        if announced := _KEPT_FOR.search(b",".join(value for _, _, value in lines)):
            self.kept_for = before_end(int(announced[1]))

    def _judge_length(self, lines: list[tuple[int, int, bytes]]) -> None:
        """RFC 9110 section 8.6: the same number said twice is one."""
        if len(lines) > 1 or b"," in lines[0][2]:
            texts = {text.strip(b" \t") for _, _, value in lines for text in value.split(b",")}
            if len(texts) > 1:
                raise Malformed("it has two different Content-Lengths")
            lines = [(0, 0, texts.pop())]
            self.mended = b"Content-Length: %b\r\n" % lines[0][2]
        self.length = content_length(lines, Malformed)

    def _judge_codings(self, lines: list[tuple[int, int, bytes]]) -> None:
        """RFC 9112 sections 6.1 and 6.3, 7.1: chunked beats a length, and is applied once however often it is named.

        `identity` (RFC 2616 section 3.6) was the name of no coding at all.
        """
        names = [name.strip(b" \t").lower() for _, _, value in lines for name in value.split(b",")]
        names = [name for name in names if name != b"identity"]
        if not names:
            return
        if not self.minor:
            raise Malformed("it is HTTP/1.0 and has a Transfer-Encoding")
        if set(names) != {b"chunked"}:
            raise Malformed("it has a transfer coding other than chunked")
        self.is_chunked = True
        if self.length is not None:
            self.length, self.mended = None, b""
        if self.mended is not None or len(names) > 1:
            self.keep = False  # what it takes for the end may be another place than ours

    def frame_for(self, method: bytes) -> None:
        """RFC 9112 section 6.3: these have no body, whatever their fields say."""
        if method == b"HEAD" or self.status in (204, 304) or self.is_interim:
            self.is_chunked = False
            self.length = 0


def before_end(seconds: float) -> float:
    """For how long of `seconds` of idleness, behind which the service ends a connection, it may be used again."""
    return seconds - min(LAST_MOMENT, seconds / 2)


def read_response(data: bytes, limit: int, known: int = 0) -> ResponseHead | None:
    """The response head at the beginning of `data`, or None while it is incomplete.

    `known`: how many bytes of `data` were found incomplete before.

    Raises: Malformed.
    """
    end = _response_end(data, limit, max(0, known - 3))
    if not end:
        # Lines that ended in LF alone were no fault as long as all of them did.
        _judge_beginning(data, limit, max(0, known - 1) if data.find(b"\r", 0, known) >= 0 else 0)
        return None
    match = _RESPONSE.fullmatch(data, 0, end)
    return _read_mended(data[:end]) if match is None else _response(match, end)


def _response(match: re.Match[bytes], end: int) -> ResponseHead:
    minor, status, reason, fields = match.groups()
    # RFC 9112 section 4: the space stays where there is no reason.
    return ResponseHead(0 if minor == b"0" else 1, int(status), b" " + status + (reason or b" "), fields, end)


def _response_end(data: bytes, limit: int, begin: int) -> int:
    """Where the body begins, 0 while that has not come. Lines end in LF alone only where all of them do."""
    end = data.find(b"\n\n", begin, limit) + 2
    if end > 1 and b"\r" not in data[:end]:
        return end
    end = data.find(b"\r\n\r\n", begin, limit)
    return end + 4 if end >= 0 else 0


def _judge_beginning(data: bytes, limit: int, begin: int) -> None:
    if len(data) >= limit:
        raise Malformed("its head is too large")
    if not b"HTTP/1.".startswith(data[:7].upper()):
        raise Malformed("it does not speak HTTP/1.1")
    if _WRONG_END.search(data, begin) and b"\r" in data:
        raise Malformed("its lines end now in LF, now in CR LF")
    if b"\0" in data[begin:]:
        raise Malformed("its head holds a control character")


def _read_mended(head: bytes) -> ResponseHead:
    """Read a head that is sloppy and beyond doubt.

    The version is in small letters, all lines end in LF (RFC 9112 section 2.2), or white space stands between name and
    colon, which a proxy removes from a response (section 5.1). Raises: Malformed.
    """
    text = head[:4].upper() + head[4:]
    if b"\r" not in text:
        text = text.replace(b"\n", b"\r\n")
    match = _RESPONSE.fullmatch(_SPACE_BEFORE_COLON.sub(rb"\1:", text))
    if match is None:
        raise Malformed(_fault(text))
    return _response(match, len(head))


def _fault(head: bytes) -> str:
    """What is wrong with a head that is whole; never its own words, which are for the service's client alone."""
    line, *fields = head[:-4].split(b"\r\n")
    if not _STATUS_LINE.fullmatch(line):
        return "its status line is malformed"
    if any(field[:1] in (b" ", b"\t") for field in fields):
        return "a header line is folded"
    return "a header line is malformed, or holds a control character"
