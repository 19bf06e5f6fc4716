"""Reads and judges the heads of HTTP/1.1 requests and the paths in them, and what heads of responses share with them.

Pure: bytes in, facts out.

RFC 9112 (message syntax), RFC 9110 sections 5 to 7 (fields, framing, connection options). A head is judged by one
strict expression over its bytes; only when that fails are its lines looked at one by one to say what is wrong.
"""

from __future__ import annotations

import re

from wrapper.errors import (
    BadRequest,
    ExpectationFailed,
    HeadTooLarge,
    LineTooLong,
    NotImplementedHere,
    Refusal,
    VersionNotSupported,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    # name in lower case -> (start, end, value) of each line of that name, offsets into the field section
    SpecialFields = dict[bytes, list[tuple[int, int, bytes]]]

MAX_REMEMBERED = 8 * 1024  # bytes of fields that are kept for the next request of an idle connection
MAX_FIELDS = 200  # lines of a request's head; Apache's LimitRequestFields is 100, HAProxy's tune.http.maxhdr 101
MAX_OPTIONS = 32  # members of Connection
SHORTEST_FIELD = len(b"a:\r\n")
MAX_KEPT_LINES = 16  # fields of a head that stay taken apart; more of them are found again when they are needed
MAX_LENGTH_DIGITS = 18  # of a Content-Length: below 2**63, so that no reader's arithmetic overflows

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# RFC 9110 section 5.5 without obs-fold: visible characters, space, tab and obs-text; no other control character.
VALUE = rb"[\t\x20-\x7e\x80-\xff]*"
# A field section that begins with the LF of the line before it, so that every field is "\nname:value\r".
SECTION = rb"(\n(?:" + TOKEN + rb":" + VALUE + rb"\r\n)*)\r\n"
_REQUEST = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/1\.([0-9])\r" + SECTION)
_ORIGIN_LINE = re.compile(rb"(" + TOKEN + rb") (/[\x21-\x7e\x80-\xff]*) HTTP/1\.1")
_REQUEST_LINE = re.compile(TOKEN + rb" [\x21-\x7e\x80-\xff]+ HTTP/([0-9])\.([0-9])")
_BREAK = re.compile(rb"[\r\n\0]")  # what may end a line, or spoil it before its end
FIELD = re.compile(TOKEN + rb":" + VALUE)
# The fields that the relay has to look at; a section that names none is passed on as one slice.
# An underscore reads like a hyphen to CGI and WSGI services, so those twins of the forwarded fields count too.
_SPECIAL = re.compile(
    rb"\n(host|connection|content-length|transfer-encoding|expect|upgrade|te|trailer|keep-alive|http2-settings"
    rb"|wrapper-held|proxy-(?:connection|authenticate|authorization)|x[-_]forwarded[-_]" + TOKEN + rb"|forwarded)"
    rb":([^\r\n]*)\r")

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.vV]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=\x80-\xff]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]+)((?:[/?][^#]*)?)")
_ESCAPE = re.compile(r"%(?=[0-9A-Fa-f]{2})")
# Escapes of what a path may hold as it is: all that is printable but "%<>^`{|} (RFC 3986 section 3.3).
_NEEDLESS = re.compile(r"%(?=2[13467-9a-f]|3[0-9abdf]|4[0-9a-f]|5[0-9a-df]|6[1-9a-f]|7[0-9ae])", re.IGNORECASE)


class Malformed(Exception):
    """What the other side sent is not HTTP; its reader knows with which status to say so."""


class Head:
    """What the heads of requests and responses share. `fields` is the raw section, `end` where the body begins."""

    __slots__ = ("_special", "end", "fields")
    fields: bytes
    end: int
    _special: SpecialFields | None  # None where it takes too much to be kept

    @property
    def special(self) -> SpecialFields:
        """The lines of the fields that are judged or rewritten, by name."""
        return find_special(self.fields) if self._special is None else self._special

    def _find_special(self) -> SpecialFields:
        """Find `special` for the first time, and keep it where that takes little."""
        special = find_special(self.fields)
        self._special = special if self.fields.count(b"\n") <= MAX_KEPT_LINES or is_short(special) else None
        return special


class RequestHead(Head):
    """One request line and its fields, judged."""

    __slots__ = ("authority", "expects", "forwarded", "host", "is_chunked", "keep", "length", "method", "minor",
                 "options", "rest", "target", "upgrade")

    def __init__(self, method: bytes, target: bytes, minor: int, fields: bytes, end: int) -> None:
        self.method = method
        self.target = target
        self.minor = minor  # 0 or 1, whatever 1.x was spoken
        self.fields = fields
        self.end = end
        special = self._find_special()
        self.length = 0  # of the body in bytes; without meaning when is_chunked
        self.is_chunked = False
        self.keep = minor > 0  # RFC 9112 section 9.3
        self.options: frozenset[bytes] = NO_OPTIONS  # what Connection names, in lower case
        self.upgrade = b""
        self.expects = False
        self.authority = b""  # of an absolute-form target, which beats Host
        self.host = b""
        self.rest = b""  # all behind the request line, where another request with the same may be judged alike
        # What `proxy.headers` made of the fields, where another request with the same may follow.
        self.forwarded: tuple[object, bytes, bytes, bytes] | None = None
        if target[0] != 47:  # "/"
            self._judge_target()
        self._judge_host(special.get(b"host"))
        if len(special) > (b"host" in special):
            self._judge_special(special)

    @property
    def has_body(self) -> bool:
        return self.is_chunked or self.length > 0

    def let_go(self) -> None:
        """Forget what only the sending of it needed; the head itself may have to be kept for hours."""
        self._special, self.forwarded, self.rest = None, None, b""

    def again(self, method: bytes, target: bytes, end: int) -> RequestHead:
        """The head of another request with the very same fields and no body."""
        head: RequestHead = object.__new__(RequestHead)
        head.method, head.target, head.end = method, target, end
        head.minor, head.keep, head.length, head.is_chunked = 1, self.keep, 0, False
        head.fields, head._special, head.host, head.authority = self.fields, self._special, self.host, b""
        head.options, head.upgrade, head.expects = self.options, self.upgrade, False
        head.rest, head.forwarded = self.rest, self.forwarded
        return head

    def _judge_target(self) -> None:
        """RFC 9112 section 3.2: origin-form is the rule, asterisk-form is for OPTIONS, absolute-form is rewritten."""
        if self.method == b"CONNECT":
            raise NotImplementedHere("CONNECT is for forward proxies")
        if self.target == b"*" and self.method == b"OPTIONS":
            return
        match = _ABSOLUTE.match(self.target)  # not fullmatch, which would try every shorter host too
        # RFC 9110 section 4.2.1: an http URL without a host is none.
        if match is None or match.end() < len(self.target) or not _is_host(match[1]) or match[1].startswith(b":"):
            raise BadRequest("the request target is neither a path nor an absolute http URL")
        # RFC 9112 section 3.2.2: the target's authority replaces Host.
        self.authority = match[1]
        self.target = match[2] if match[2].startswith(b"/") else b"/" + match[2]
        if not match[2] and self.method == b"OPTIONS":
            self.target = b"*"  # section 3.2.4

    def _judge_host(self, lines: list[tuple[int, int, bytes]] | None) -> None:
        """RFC 9112 section 3.2: one well-formed Host, which only HTTP/1.0 may leave out."""
        if lines is None:
            if self.minor:
                raise BadRequest("the Host field is missing")
        elif len(lines) > 1:
            raise BadRequest("more than one Host field")
        else:
            self.host = lines[0][2]
            if not _is_host(self.host):
                raise BadRequest("the Host field is malformed")
        if self.authority:
            self.host = self.authority
        elif lines and (not self.host or self.host.startswith(b":")):
            # RFC 9110 section 4.2.1: an http URL has a host; what the service calls itself inside is none of its own.
            raise BadRequest("the Host field names no host")
        if self.method == b"CONNECT":
            raise NotImplementedHere("CONNECT is for forward proxies")

    def _judge_special(self, special: SpecialFields) -> None:
        if b"transfer-encoding" in special or b"content-length" in special:
            self._judge_framing(special)
        if b"connection" in special:
            self._judge_connection(special)
        if b"expect" in special:
            self._judge_expect(special)

    def _judge_framing(self, special: SpecialFields) -> None:
        codings = special.get(b"transfer-encoding")
        if codings is None:
            self.length = content_length(special[b"content-length"], BadRequest)
            return
        if b"content-length" in special:
            # RFC 9112 section 6.1 lets us refuse it, and names it as what smuggling looks like.
            raise BadRequest("Content-Length together with Transfer-Encoding")
        if not self.minor:
            raise BadRequest("Transfer-Encoding in an HTTP/1.0 request")
        if len(codings) > 1 or codings[0][2].lower() != b"chunked":
            raise _coding_refusal(codings)
        self.is_chunked = True

    def _judge_connection(self, special: SpecialFields) -> None:
        self.options = options = tokens(special[b"connection"], MAX_OPTIONS)
        if b"close" in options:
            self.keep = False
        elif b"keep-alive" in options:
            self.keep = True
        if self.minor and b"upgrade" in options and b"upgrade" in special:
            # RFC 9113 section 3.1 took h2c out of the registry: passed on, it would be a way around our own paths.
            wanted = (name.strip(b" \t") for _, _, value in special[b"upgrade"] for name in value.split(b","))
            self.upgrade = b", ".join(name for name in wanted if name and name.lower() != b"h2c")

    def _judge_expect(self, special: SpecialFields) -> None:
        values = special[b"expect"]
        if not self.minor:
            return  # RFC 9110 section 10.1.1: to be ignored in an HTTP/1.0 request
        if len(values) > 1 or values[0][2].lower() != b"100-continue":
            raise ExpectationFailed("only 100-continue can be expected")
        self.expects = self.has_body


def _is_host(value: bytes) -> bool:
    """RFC 3986 section 3.2.2; not by fullmatch, which would try every shorter one of a client's 60 kB too."""
    match = _HOST.match(value)
    return match is not None and match.end() == len(value)


def is_short(special: SpecialFields) -> bool:
    """Whether it may be kept: taken apart, a short line takes fifty times the bytes that came, and requests wait."""
    return sum(map(len, special.values())) <= MAX_KEPT_LINES


NO_OPTIONS: frozenset[bytes] = frozenset()


def _coding_refusal(codings: list[tuple[int, int, bytes]]) -> Refusal:
    """RFC 9112 section 6.1: 501 for a coding we do not know, 400 where chunked is not the last, or comes twice."""
    names = [name.strip(b" \t").lower() for _, _, value in codings for name in value.split(b",")]
    if names[-1] == b"chunked" and names.count(b"chunked") == 1 and all(re.fullmatch(TOKEN, name) for name in names):
        return NotImplementedHere("a transfer coding other than chunked")
    return BadRequest("the Transfer-Encoding field is malformed, or does not end in chunked")


def content_length(lines: list[tuple[int, int, bytes]], error: type[Exception]) -> int:
    """RFC 9112 section 6.3: one field, one number in decimal digits; lists and repeats are refused even if equal."""
    value = lines[0][2]
    if len(lines) > 1 or not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise error("the Content-Length field is repeated or not a number")
    return int(value)


def tokens(lines: list[tuple[int, int, bytes]], most: int = 0) -> frozenset[bytes]:
    """The members of a comma-separated list field, in lower case; empty ones say nothing (RFC 9110 section 5.6.1.2).

    Raises: HeadTooLarge for more than `most`, where that is not 0.
    """
    if len(lines) == 1 and b"," not in lines[0][2]:
        member = lines[0][2].lower()
        return frozenset((member,)) if member else NO_OPTIONS
    if most and sum(value.count(b",") + 1 for _, _, value in lines) > most:
        raise HeadTooLarge(f"a field has over {most} members")
    members = (member.strip(b" \t").lower() for _, _, value in lines for member in value.split(b","))
    return frozenset(member for member in members if member)


def find_special(section: bytes) -> SpecialFields:
    """The lines of `section` that are judged or rewritten, by name; offsets span "\\nname: value\\r"."""
    special: SpecialFields = {}
    for match in _SPECIAL.finditer(section.lower()):
        start, end = match.span(2)
        line = (match.start(), match.end(), section[start:end].strip(b" \t"))
        name = match[1]
        if name in special:
            special[name].append(line)
        else:
            special[name] = [line]
    return special


def split_fields(section: bytes) -> list[tuple[bytes, bytes]]:
    """The (name, value) pairs of a judged field section, order and case kept, white space around values gone."""
    pairs = []
    for line in section.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            pairs.append((name.lstrip(b"\n"), value.strip(b" \t")))
    return pairs


def read_request(data: bytes, limit: int, last: RequestHead | None = None, known: int = 0) -> RequestHead | None:
    """The request head at the beginning of `data`, or None while it is incomplete.

    `last` is the one before on this connection: clients mostly repeat their fields to the byte, and what has been
    judged once need not be judged again. `known`: how many bytes of `data` were found incomplete before.

    Raises: a Refusal, the same for every way of splitting the same bytes.
    """
    if known and len(data) < limit and not _BREAK.search(data, known - 1):
        return None  # more of a line that was no fault so far
    if last is not None and last.rest:
        line, _, rest = data.partition(b"\r")
        if rest == last.rest and len(data) <= limit and (match := _ORIGIN_LINE.fullmatch(line)):
            method, target = match.groups()
            if method != b"CONNECT":
                return last.again(method, target, len(data))
    if len(data) > MAX_FIELDS * SHORTEST_FIELD and data.count(b"\n", 0, limit) > MAX_FIELDS:
        _bound_fields(data, limit)
    begun = data.rfind(b"\r\n", 0, known) + 2
    if begun > 2 and len(data) < limit and b"\r\n\r\n" not in data[known - 3:]:
        # All over again for every piece would cost a client that sends bit by bit nothing, and us seconds.
        _judge_lines(data[begun:].split(b"\r\n"))
        return None
    # RFC 9112 section 2.2: an empty line before the request line is ignored.
    start = 2 if data.startswith(b"\r\n") else 0
    match = _REQUEST.match(data, start)
    if match is None or match.end() > limit:
        _refuse_or_wait(data[start:limit], len(data) >= limit)
        return None
    method, target, minor, fields = match.groups()
    head = RequestHead(method, target, 0 if minor == b"0" else 1, fields, match.end())
    is_whole = head.end == len(data) and len(fields) <= MAX_REMEMBERED
    if is_whole and head.minor and not head.has_body and not head.authority:
        head.rest = fields + b"\r\n"
    return head


def _bound_fields(data: bytes, limit: int) -> None:
    """Refuse a head of too many lines before they are taken apart, for the first that is wrong where one is.

    Raises: HeadTooLarge, BadRequest, VersionNotSupported.
    """
    start = 2 if data.startswith(b"\r\n") else 0
    end = data.find(b"\r\n\r\n", start, limit)
    end = limit if end < 0 else end + 2
    if data.count(b"\r\n", start, end) > MAX_FIELDS + 1:
        line, *fields = data[start:end].split(b"\r\n", MAX_FIELDS + 2)[:-1]
        _judge_request_line(line)
        _judge_lines([*fields, b""])
        raise HeadTooLarge(f"the request has over {MAX_FIELDS} header lines")


def _refuse_or_wait(head: bytes, is_full: bool) -> None:
    """Say what is wrong with the first wrong line, or return if more may still make it right."""
    lines = head.split(b"\r\n")
    is_whole = len(lines) > 1
    if is_whole:
        _judge_request_line(lines.pop(0))
    _judge_lines(lines)
    if is_full:
        raise HeadTooLarge("the request head is too large") if is_whole else LineTooLong("the request line is too long")


def _judge_lines(lines: list[bytes]) -> None:
    """Judge field lines; of the last one there may be a part alone. Raises: BadRequest."""
    *whole, rest = lines
    for line in whole:
        if not FIELD.fullmatch(line):
            raise BadRequest("a header line is malformed")
    if b"\n" in rest or b"\r" in rest[:-1] or b"\0" in rest:
        raise BadRequest("a line ends without CR LF, or holds a control character")


def _judge_request_line(line: bytes) -> None:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest("the request line is malformed")
    if match[1] != b"1":
        raise VersionNotSupported("only HTTP/1.0 and HTTP/1.1 are spoken here")


# Targets


def normal_path(target: str) -> str:
    """The path of a raw origin-form target in normal form: decoded once, slashes single, dots resolved.

    Own paths are decided on this form and on no other, so that no spelling of one passes it by.
    """
    path = target.partition("?")[0]
    if path.isascii() and "%" not in path and "//" not in path and "/." not in path and "\\" not in path:
        return path
    decoded = _unquoted(path).replace("\\", "/")
    kept: list[str] = []
    for segment in decoded.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    slash = "/" if kept and decoded.endswith(("/", "/.", "/..")) else ""
    return "/" + "/".join(kept) + slash


def literal_path(path: str) -> str | None:
    """A raw path with only those escapes taken back that it cannot do without (RFC 3986 sections 2.1 and 2.4).

    None where its normal form is more than that: dots resolved, slashes joined, backslashes turned.
    """
    if _unquoted(path) != normal_path(path):
        return None
    return _unquoted(_NEEDLESS.sub("%25", path))


def _unquoted(path: str) -> str:
    """`path` with its escapes taken back, in steps that are done in C: 64 KiB of them may come.

    Bytes in between: what arrived as raw UTF-8 and what arrived percent-encoded are the same path.
    """
    escaped = _ESCAPE.sub(r"\\x", path.replace("\\", r"\x5c")).encode("latin-1")
    return escaped.decode("unicode_escape").encode("latin-1").decode("utf-8", "surrogateescape")
