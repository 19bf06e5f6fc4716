"""The pure grammar, fuzzed: any split of the same bytes gives the same result, and h11 reads what we pass on alike."""

import time
import tracemalloc
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings, strategies as st

from wrapper.errors import Refusal
from wrapper.http1 import request as http1
from wrapper.http1.chunked import Chunked, chunk, last_chunk
from wrapper.proxy import headers

LIMIT = 400

TOKENS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8).map(str.encode)
VALUES = st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if byte > 0x20 and byte != 0x7F))
TARGETS = st.text("/a%2F.?&=;:@\\", max_size=12).map(lambda text: b"/" + text.encode())
# Bytes that are nearly a request: the right words in any order, now and then broken.
WORDS = st.sampled_from([
    b"GET", b"POST", b" ", b"/", b"/x?y", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"\r\n", b"\n", b"\r", b"Host: h",
    b"Host:",
    b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Connection: close, x", b"X: y", b"X : y", b" X: y", b"\0",
    b"\xe9", b"Expect: 100-continue", b"Upgrade: websocket", b"x" * 200, b":", b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n"])
NEARLY = st.lists(WORDS, max_size=14).map(b"".join)


def outcome(data, limit=LIMIT, known=0):
    """What becomes of `data`, of which `known` bytes were judged before: a status, "more", or facts."""
    try:
        head = http1.read_request(data, limit, None, known)
    except Refusal as refusal:
        return refusal.status
    return "more" if head is None else facts(head)


def facts(head):
    return (head.method, head.target, head.minor, head.fields, head.end, head.host, head.length, head.is_chunked,
            head.keep, head.options, head.upgrade, head.expects)


@settings(max_examples=400)
@given(NEARLY, st.integers(1, 9))
@example(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 1)
@example(b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 1)
def test_a_request_head_is_judged_alike_however_it_is_split(data, step):
    whole, early, known = outcome(data), "more", 0
    for end in [*range(0, len(data), step), len(data)]:
        early, known = outcome(data[:end], known=known), end
        if early != "more":
            break
    assert early == whole


@settings(max_examples=300)
@given(st.lists(st.tuples(TOKENS, VALUES), max_size=6), st.sampled_from([b"GET", b"POST", b"X-Y"]), TARGETS, TARGETS)
def test_a_head_judged_again_is_judged_alike(fields, method, target, another):
    def request(place):
        return (method + b" " + place + b" HTTP/1.1\r\nHost: h\r\n"
                + b"".join(name + b": " + value + b"\r\n" for name, value in fields) + b"\r\n")

    try:
        first = http1.read_request(request(target), 65536)
        fresh = http1.read_request(request(another), 65536)
    except Refusal:
        return
    assert facts(http1.read_request(request(another), 65536, first)) == facts(fresh)


CHUNKED = st.one_of(
    st.lists(st.binary(min_size=1, max_size=40), max_size=5).map(
        lambda pieces: b"".join(map(chunk, pieces)) + last_chunk(b"X: y\r\n") + b"behind"),
    st.lists(st.sampled_from([b"3\r\n", b"abc", b"\r\n", b"0\r\n", b"\n", b"A;x=y\r\n", b"X: y\r\n", b"0x3\r\n", b" ",
                              b"+1", b"0\r\n\r\n", b"\r"]), max_size=10).map(b"".join))


def read_chunked(pieces):
    reader, payload = Chunked(LIMIT), b""
    try:
        for piece in pieces:
            if reader.is_done:
                reader.surplus += piece
            else:
                payload += b"".join(reader.feed(piece))
    except http1.Malformed:
        return "malformed"
    return payload, reader.is_done, reader.trailers, reader.surplus


@settings(max_examples=400)
@given(CHUNKED, st.data())
def test_a_chunked_body_is_read_alike_however_it_is_split(data, draw):
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)])]
    assert read_chunked(pieces) == read_chunked([data])


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
def test_what_we_chunk_is_read_back(pieces):
    text = b"".join(map(chunk, pieces)) + last_chunk(b"X-Sum: 1\r\n") + b"GET"
    payload, is_done, trailers, surplus = read_chunked([text])
    assert (payload, is_done, trailers, surplus) == (b"".join(pieces), True, b"X-Sum: 1\r\n", b"GET")



def test_a_head_and_trailers_in_small_pieces_cost_little():
    """Judged all over again for every piece, these took seconds of a processor each."""
    began = time.process_time()
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a: %b\r\n" % (b"b" * 300) * 199
    for end in range(20, len(head), 20):
        assert http1.read_request(head[:end], 65536, None, end - 20) is None
    body = Chunked(65536)
    body.feed(b"0\r\n")
    for _ in range(3_000):
        body.feed(b"a:b\r\n" * 4)
    assert time.process_time() - began < 1.0


def test_a_long_line_in_small_pieces_costs_little():
    """A target bit by bit took half a millisecond for each of them."""
    began = time.process_time()
    head = b"GET /" + b"a" * 60_000
    for end in range(5, len(head), 5):
        assert http1.read_request(head[:end], 65536, None, end - 5) is None
    assert time.process_time() - began < 1.0


def fields_of(count, line=b"a:b\r\n"):
    return b"GET / HTTP/1.1\r\nHost: h\r\n" + line * (count - 1)


@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_over_200_lines_are_too_many_however_they_come(before):
    """RFC 6585 section 5: 12,500 lines `te:` in 61 KiB cost 20 ms and kept 1.7 MiB while their request waited."""
    end = b"\r\n"
    for fine in (fields_of(200) + end, fields_of(200) + end + b"x\r\n" * 300):
        assert outcome(before + fine, 65536)[0] == b"GET"
    for many in (fields_of(201), fields_of(201) + end, fields_of(9000)):
        assert outcome(before + many, 65536) == 431
    bad = fields_of(150) + b"no colon\r\n" + b"a:b\r\n" * 100 + b"\r\n"
    assert outcome(before + bad, 65536) == 400
    piece, known = "more", 0
    for end in range(1, 3000):
        piece, known = outcome((before + fields_of(9000))[:end], 65536, known), end
        if piece != "more":
            break
    assert piece == 431


@pytest.mark.parametrize("members", [b"a, " * 40, b",".join(b"x%d" % number for number in range(33))])
def test_over_32_members_of_connection_are_too_many(members):
    assert outcome(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: " + members + b"\r\n\r\n", 65536) == 431


def kept_by(data, turns=20):
    """Bytes that a request keeps while it waits, each of them sent on."""
    heads = []
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(turns):
            head = http1.read_request(bytes(bytearray(data)), 65536)
            headers.request_head(head, PEER, b"u")
            heads.append(head)
        return (tracemalloc.get_traced_memory()[0] - before) / turns
    finally:
        tracemalloc.stop()


PEER = headers.Peer("10.0.0.1", False, False)
SHARE = 6 * 1024  # bytes of the head's own object, what was taken apart of a few lines, and what we add


@pytest.mark.parametrize("data", [
    fields_of(200, b"te:\r\n"), fields_of(200, b"te: " + b"x" * 300 + b"\r\n"),
    b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-Forwarded-%d: %b\r\n" % (n, b"y" * 30) for n in range(199)),
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: " + b",".join(b"x%d" % n for n in range(32)) + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nX: " + b"y" * 7_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 60_000 + b"\r\n"])
def test_a_request_that_waits_keeps_three_bytes_for_each_that_came(data):
    """A hundred requests of 61 KiB kept 235 MiB."""
    data += b"\r\n"
    assert kept_by(data) <= 3 * len(data) + SHARE


@pytest.mark.parametrize("host", [b"", b" ", b":80", b":"])
def test_a_host_field_without_a_host_is_malformed(host):
    """RFC 9110 section 4.2.1. The service was told an inner address as the host that the client asked."""
    assert outcome(b"GET / HTTP/1.1\r\nHost:" + host + b"\r\n\r\n") == 400
    assert outcome(b"GET / HTTP/1.0\r\nHost:" + host + b"\r\n\r\n") == 400
    assert outcome(b"GET http://x/ HTTP/1.1\r\nHost:" + host + b"\r\n\r\n")[5] == b"x"


def test_an_over_long_line_is_too_large_however_it_comes():
    data = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * LIMIT
    assert [outcome(data[:end]) for end in (LIMIT - 1, LIMIT, LIMIT + 10)] == ["more", 431, 431]


def test_trailers_that_would_change_framing_are_dropped():
    """RFC 9110 section 6.5.1."""
    kept = headers.trailers(
        b"Content-Length: 3\r\nX-Sum: 1\r\nSet-Cookie: a\r\nConnection: x\r\nHost: h\r\nETag: e\r\nX-Hop: 1\r\n"
        b"X-Forwarded-User: alice\r\nX_Forwarded_For: 6\r\nX-Real-IP: 6\r\nWrapper-Held: 9\r\n",
        frozenset((b"x-hop",)))
    assert kept == b"X-Sum: 1\r\nETag: e\r\n"


def cost(data):
    """Processor seconds of judging a head and making the service's of it, the least of some turns."""
    def once():
        began = time.thread_time()
        try:
            headers.request_head(http1.read_request(data, 65536), PEER, b"u")
        except Refusal:
            pass
        return time.thread_time() - began

    return min(once() for _ in range(7))


@pytest.mark.parametrize("hostile", [
    fields_of(9_000, b"te:\r\n"), fields_of(200, b"te: " + b"x" * 300 + b"\r\n"),
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: " + b"a," * 30_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-Forwarded-%d: %b\r\n" % (n, b"," * 280) for n in range(199)),
    b"GET / HTTP/1.1\r\nHost: h\r\nX" + b" " * 60_000 + b": y\r\n",
    b"GET http://" + b"a" * 60_000 + b"# HTTP/1.1\r\nHost: h\r\n"])
def test_no_head_costs_over_20_times_a_plain_one_of_its_size(hostile):
    """12,500 field lines cost a hundred times as much, and a target of 60 kB seven seconds."""
    plain = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * (len(hostile) - 31) + b"\r\n\r\n"
    assert cost(hostile + b"\r\n") <= 20 * cost(plain)


# Targets


@pytest.mark.parametrize(("target", "path"), [
    ("/", "/"), ("/a?b=/../c", "/a"), ("//a///b", "/a/b"), ("/a/./b/..", "/a/"), ("/../../a", "/a"),
    ("/%61%2fb", "/a/b"),
    ("/a%5cb", "/a/b"), ("/a\\..\\b", "/b"), ("/a/", "/a/"), ("/%C3%A9", "/\u00e9"), ("/\u00c3\u00a9", "/\u00e9"),
])
def test_every_spelling_of_a_path_has_one_normal_form(target, path):
    """RFC 3986 section 6.2.2; own paths are decided on it."""
    assert http1.normal_path(target) == path


@pytest.mark.parametrize(("raw", "spelled"), [
    ("/a b", "/a b"), ("/a%20b", "/a b"), ("/%61", "/%61"), ("/%c3%a9", "/\u00e9"), ("/a/../b", None), ("//a", None),
    ("/a%2fb", "/a%2fb"),
])
def test_only_the_escapes_that_a_path_needs_are_taken_back(raw, spelled):
    assert http1.literal_path(raw) == spelled


@given(st.lists(st.sampled_from(
    ("%", "%4", "%41", "%25", "%5c", "%zz", "\\", "\\x41", "\\u0041", "a", "\xe9", "%c3", "%a9", "%C3%A9"))))
def test_escapes_are_taken_back_as_urllib_does(pieces):
    path = "/" + "".join(pieces)
    theirs = unquote_to_bytes(path.encode("latin-1")).decode("utf-8", "surrogateescape").replace("\\", "/")
    segments = [segment for segment in theirs.split("/") if segment]
    slash = "/" if segments and theirs.endswith("/") else ""
    assert http1.normal_path(path) == "/" + "/".join(segments) + slash
