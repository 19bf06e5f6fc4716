"""What must hold for any bytes whatever, one function for each parser that strangers' bytes reach.

Each takes bytes and raises AssertionError, or what nobody foresaw. The corpus beside it is kept: what once failed
stays in it.
"""

from __future__ import annotations

import functools
import re

from tests.sidecar.parts import Body, make_site
from wrapper.config import journal
from wrapper.errors import BadRequest, Refusal, Unauthorized
from wrapper.events import Feed
from wrapper.http1 import request as http1
from wrapper.http1.chunked import Chunked
from wrapper.http1.message import Request, Response
from wrapper.http1.request import Malformed, literal_path, normal_path
from wrapper.http1.response import read_response
from wrapper.problems import Board
from wrapper.proxy import headers
from wrapper.sidecar.access import Access
from wrapper.sidecar.router import Route

LIMIT = 2048
STRANGER, FRONT = headers.Peer("192.0.2.1", False, False), headers.Peer("192.0.2.2", False, True)
TOKEN = "sesame"
WORDS = [  # what mutations put in, besides bytes by chance
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b",", b";", b'"', b"\\", b"%", b"%2f", b"%5c", b"%2e", b"..",
    b"/", b"//", b"?", b"#", b"\0", b"\xff", b"GET ", b"POST ", b"OPTIONS * ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n", b"http/1.1 204 \n", b"Host: h\r\n", b"Host:\r\n", b"Connection: ", b"close", b"keep-alive",
    b"upgrade", b"Upgrade: websocket\r\n", b"Content-Length: ", b"0", b"3", b"18446744073709551616",
    b"Transfer-Encoding: ", b"chunked", b"identity", b"gzip", b"TE: trailers\r\n", b"Expect: 100-continue\r\n",
    b"X-Forwarded-For: ", b"X_Forwarded_Proto: https\r\n", b"Forwarded: ", b"for=", b"0\r\n\r\n", b'5;x="y"\r\n',
    b"http://h", b"/sidecar", b"/sidecar/healthz", b"/hook/", b"/app/", b"Bearer ", b"sesame", b'{"phase": ',
    b'"files"', b"[", b"]", b"{", b"}", b"null"]


def request(data: bytes) -> None:
    """A head is judged alike however it comes, and what is passed on is the same request to its next reader."""
    whole = _judged(data)
    middle = len(data) // 2
    first = _judged(data[:middle])
    assert first in ("more", whole), (first, whole)
    if first == "more":
        assert _judged(data, middle) == whole
    if not isinstance(whole, tuple):
        return
    head = http1.read_request(data, LIMIT)
    for peer in (STRANGER, FRONT):
        again = http1.read_request(headers.request_head(head, peer, b"up"), 2 * LIMIT + 4096)
        assert again is not None and again.end > 0
        assert (again.method, again.target, again.is_chunked, again.length) == (
            head.method, head.target, head.is_chunked, head.length)
        assert len(again.special[b"x-forwarded-for"]) == 1 and len(again.special[b"host"]) == 1


def _judged(data: bytes, known: int = 0):
    try:
        head = http1.read_request(data, LIMIT, None, known)
    except Refusal as refusal:
        return refusal.status
    if head is None:
        return "more"
    return head.method, head.target, head.fields, head.length, head.is_chunked, head.keep, head.host, head.options


def response(data: bytes) -> None:
    """What is passed on of a response frames the same body for its next reader, in one way."""
    try:
        head = read_response(data, LIMIT)
    except Malformed:
        return
    if head is None:
        return
    assert 0 < head.end <= len(data)
    head.frame_for(b"GET")
    again = read_response(headers.response_head(head, b"", head.is_chunked), 2 * LIMIT + 4096)
    assert again is not None and again.mended is None
    again.frame_for(b"GET")
    assert (again.status, again.length, again.is_chunked) == (head.status, head.length, head.is_chunked)
    assert not {b"connection", b"keep-alive", b"te", b"wrapper-held"} & set(again.special) or again.status in (101, 426)


def chunked(data: bytes) -> None:
    """A body is the same one however it is split."""
    assert _taken_apart([data]) == _taken_apart([data[at:at + 3] for at in range(0, len(data), 3)])


def _taken_apart(pieces: list[bytes]):
    body, payload, rest = Chunked(LIMIT), b"", b""
    try:
        for piece in pieces:
            rest += piece
            while rest and not body.is_done:
                payload += b"".join(body.feed(rest))
                rest = body.surplus
    except Malformed:
        return "malformed"
    return body.is_done, payload, body.trailers, rest


def forwarded(data: bytes) -> None:
    """Whatever a trusted front sends, our own part of Forwarded is one of its own, and the last."""
    value = bytes(byte for byte in data if (byte >= 0x20 and byte != 0x7F) or byte == 9)
    head = http1.read_request(b"GET / HTTP/1.1\r\nHost: h\r\nForwarded: " + value + b"\r\n\r\n", 65536)
    made = http1.read_request(headers.request_head(head, FRONT, b"up"), 2 * 65536)
    ((_, _, said),) = made.special[b"forwarded"]
    parts = re.findall(rb'(?:[^",]|"(?:[^"\\]|\\.)*")+', said)
    assert parts[-1].strip() == b'for=192.0.2.2;host="h";proto=http', said


@functools.cache
def site():
    made = make_site("--token", TOKEN)
    made.add(Route("GET", "/hook/{name}", lambda asked: Response(asked.params["name"])))
    made.add(Route("GET", "/two/{a}.{b}", lambda asked: Response(asked.params["a"] + asked.params["b"])))
    made.add(Route("GET", "/app", lambda asked: Response(asked.path), is_tree=True))
    return made


def path(data: bytes) -> None:
    """An own path is answered in its literal spelling only, and never relayed in another."""
    target = b"/" + bytes(byte for byte in data if byte > 0x20 and byte != 0x7F)
    head = http1.read_request(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n", 65536)
    if head is None:
        return
    raw = head.target.decode("latin-1")
    normal = normal_path(raw)
    assert normal.startswith("/") and (literal_path(raw.partition("?")[0]) is None or "//" not in normal)
    asked = Request(head, normal, Body(), "192.0.2.1", False)
    try:
        asked.query  # noqa: B018
        answered = site().answer(asked) is not None
    except BadRequest:
        return
    except Refusal:
        answered = True
    is_own = re.match(r"/sidecar(/|\Z)|/hook/[^/]+\Z|/two/[^/]+\.[^/]+\Z|/app(/|\Z)", normal) is not None
    assert answered == is_own, (raw, normal)
    assert not answered or raw.startswith(("/sidecar", "/hook/", "/two/", "/app"))
    assert not any(character < " " or "\ud800" <= character <= "\udfff" for value in asked.params.values()
                   for character in value) or not answered


def token(data: bytes) -> None:
    """One token is the token, and what is not it is a refusal and nothing else."""
    value = bytes(byte for byte in data if (byte >= 0x20 and byte != 0x7F) or byte == 9)
    head = http1.read_request(b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: " + value + b"\r\n\r\n", 65536)
    try:
        Access(TOKEN, None, Board(Feed())).check(Request(head, "/", Body(), "192.0.2.1", False))
        may = True
    except Unauthorized:
        may = False
    scheme, _, given = value.strip(b" \t").partition(b" ")
    assert may == (scheme.lower() == b"bearer" and given.strip(b" \t") == TOKEN.encode())


def change(data: bytes) -> None:
    """A journal with anything in it is read, or is none."""
    left = journal._Left(Holding(data), ".0.wrapper-journal")
    assert not any("/" in file or file in ("", ".", "..") for file in left.files), "files of its own folder only"
    assert [change.path for change in left.changes] == [f"/folder/{file}" for file in left.files]


class Holding:
    """A folder with one journal in it."""

    path = "/folder"

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, name: str, most: int) -> bytes:
        return self._content[:most]


TARGETS = {function.__name__: function
           for function in (request, response, chunked, forwarded, path, token, change)}
