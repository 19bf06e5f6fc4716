"""What clients send, as an expert for smuggling would send it. RFC 9110, RFC 9112."""

import socket
import threading

import pytest

from tests.proxy.road import GET, OK, Line, answering, echoing, field, fields
from wrapper.front import connection as front_connection
from wrapper.http1.message import Response

CLOSE = b"Connection: close\r\n"
HOP_BY_HOP = [
    b"Connection", b"Keep-Alive", b"Proxy-Connection", b"Proxy-Authorization", b"Upgrade", b"HTTP2-Settings",
    b"Transfer-Encoding",
]


def reached(road, request, **settings):
    """The request as the service got it."""
    return road(echoing, **settings).ask(request).partition(b"\r\n\r\n")[2]


def outcome(road, data):
    """(status of the first answer, how many requests reached the service) for a client that sends `data` and ends."""
    seen = []

    def script(line):
        while True:
            try:
                seen.append(line.head())
            except AssertionError:
                return
            line.send(OK)

    made = road(script)
    answer = made.ask(data)
    return int(answer.split()[1]), seen


# Framing: RFC 9112 section 6. Whatever is doubtful must neither reach the service nor leave bytes that look like a
# request behind.


@pytest.mark.parametrize("framing", [
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 5\r\ncontent-length: 5",
    b"Content-Length: 5, 5",
    b"Content-Length: 5;5",
    b"Content-Length: +5",
    b"Content-Length: -5",
    b"Content-Length: 5_0",
    b"Content-Length: 0x5",
    b"Content-Length: 5 5",
    b"Content-Length: 5.0",
    b"Content-Length: 5e0",
    b'Content-Length: "5"',
    b"Content-Length:",
    b"Content-Length: \xd9\xa5",  # ARABIC-INDIC DIGIT FIVE, a digit to str.isdigit and int
    b"Content-Length: \xb2",  # a digit to str.isdigit in Latin-1
    b"Content-Length: 99999999999999999999",
    b"Content-Length : 5",
    b"Content-Length\t: 5",
    b"Content-Length: 5\r\n 5",
    b"Content-Length: 5\x0b",
    b"Content-Length: 5\x00",
    b"Content-Length: 5\rX: y",
    b"Content-Length: 5\nX: y",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: x",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunkedx",
    b"Transfer-Encoding: chunked;q=1",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding:",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked\x85",
    b"Transfer-Encoding: \xa0chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding\x00: chunked",
    b" Transfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
])
def test_doubtful_framing_is_refused_and_closes(road, framing):
    """RFC 9112 sections 2.2, 5.1, 5.2, 6.1, 6.3; RFC 9110 section 8.6."""
    request = b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n0\r\n\r\n"
    status, seen = outcome(road, request + b"GET /evil HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status in (400, 501) and seen == []


@pytest.mark.parametrize("body", [
    b"5 \r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"5_0\r\nhello\r\n0\r\n\r\n",
    b"\xd9\xa5\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b";x\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello\r0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"4\r\nhello\r\n0\r\n\r\n",
    b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    b"5;" + b"a" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    b"5\r\nhello\r\n0\r\nA: b\n\r\n",
    b"5\r\nhello\r\n0\r\nA : b\r\n\r\n",
    b"5\r\nhello\r\n0\r\nA: b\r\n folded\r\n\r\n",
    b"5\r\nhello\r\n0\n\r\n",
    (b"1;" + b"e" * 60 + b"\r\na\r\n") * 400 + b"0\r\n\r\n",
])
def test_abused_chunks_are_refused_and_close(road, body):
    """RFC 9112 sections 7.1, 7.1.1; CVE-2023-39326 for extensions without end."""
    request = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    status, seen = outcome(road, request + b"GET /evil HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status == 400
    assert not any(b"/evil" in head for head in seen)


@pytest.mark.parametrize("request_line", [
    b"POST http://h/ HTTP/1.0", b"POST / HTTP/1.0",
])
@pytest.mark.parametrize("host", [b"", b"Host: h\r\n"])
def test_a_body_is_never_the_beginning_of_another_request(road, request_line, host):
    """RFC 9112 section 6.3: framing counts whatever form the target has, and whether or not there is a Host."""
    seen = []

    def script(line):
        while True:
            try:
                seen.append(line.message())
            except AssertionError:
                return
            line.send(OK)

    made = road(script)
    made.ask(request_line + b"\r\n" + host + b"Content-Length: 5\r\n\r\nhello")
    line = made.connect()
    assert line.send(GET).message()[1] == b"ok"
    assert [body for _, body in seen] == [b"hello", b""]
    assert seen[1][0].startswith(b"GET / HTTP/1.1\r\n")


def test_transfer_encoding_of_an_http_1_0_client_is_refused(road):
    """RFC 9112 section 6.1."""
    for target in (b"/", b"http://h/"):
        status, seen = outcome(road, b"POST " + target + b" HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert status == 400 and seen == []


def test_an_unread_body_of_an_early_refusal_is_no_request(road):
    """RFC 9112 section 9.6, RFC 9110 section 15.5.14."""
    made = road(echoing, is_open=False, hold=0)
    answer = made.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n" + GET)
    assert answer.count(b"HTTP/1.1 ") == 1 and b"Connection: close" in answer
    made = road(echoing)
    made.site.answers["/sidecar/x"] = lambda request: Response(b"own")
    answer = made.ask(b"POST /sidecar/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n" + GET)
    assert answer.count(b"HTTP/1.1 ") == 1 and b"Connection: close" in answer


def test_the_answer_to_a_refused_upload_can_be_read_though_the_client_goes_on(road):
    """RFC 9112 section 9.6: an early close with bytes unread would reset, and the answer would be lost."""
    made = road(echoing, is_open=False, hold=0)
    line = made.connect().send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 300_000)
    assert line.head().startswith(b"HTTP/1.1 503 ")


def test_a_client_that_drips_on_behind_its_answer_is_left_to_itself_in_the_end(road, monkeypatch):
    """Nothing of it is wanted any more; nginx's lingering_time."""
    monkeypatch.setattr(front_connection, "LINGER_TIMEOUT", 0.05)
    line = road(echoing).connect().send(b"no request\r\n\r\n")
    assert line.head().startswith(b"HTTP/1.1 400 ")
    with pytest.raises(OSError, match="reset|[Pp]ipe"):  # noqa: PT012
        while not threading.Event().wait(0.01):  # the pace of the client
            line.send(b"x")


# Fields: RFC 9110 sections 7.6.1, 10.1.4


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_a_hop_by_hop_field_stays_behind_even_unnamed(road, name):
    """RFC 9110 section 7.6.1."""
    value = b"chunked" if name == b"Transfer-Encoding" else b"x"
    body = b"0\r\n\r\n" if name == b"Transfer-Encoding" else b""
    seen = reached(road, b"POST / HTTP/1.0\r\nHost: h\r\n" + name + b": " + value + b"\r\n\r\n" + body)
    if name == b"Transfer-Encoding":
        assert seen.startswith(b"400 ")
    else:
        assert name.lower() + b":" not in seen.lower()


@pytest.mark.parametrize("named", [b"X-A", b"x-a", b" X-A ,X-B", b"close,\tX-A", b",,X-A,"])
def test_what_connection_names_stays_behind(road, named):
    """RFC 9110 section 7.6.1."""
    seen = reached(road, b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"Connection: " + named
                   + b"\r\nX-A: 1\r\nX-C: 2\r\n\r\n")
    names = {name.lower() for name, _ in fields(seen)}
    assert b"x-a" not in names and b"x-c" in names


@pytest.mark.parametrize("named", [b"Host", b"Content-Length", b"X-Forwarded-For", b"Transfer-Encoding"])
def test_connection_cannot_take_away_what_we_rely_on(road, named):
    """RFC 9110 section 7.6.1: only what is meant for this hop can be named."""
    seen = reached(road, b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close, " + named
                   + b"\r\nContent-Length: 2\r\n\r\nhi")
    seen, _, body = seen.partition(b"\r\n\r\n")
    assert field(seen, b"Host") == b"h" and field(seen, b"Content-Length") == b"2" and body == b"hi"
    assert field(seen, b"X-Forwarded-For") == b"127.0.0.1"


def test_request_trailers_are_passed_on_without_what_connection_names(road):
    """RFC 9110 sections 6.5.1 and 7.6.1."""
    request = (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n"
               b"Connection: close, X-Hop\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\nX-Hop: 2\r\nHost: evil\r\n"
               b"Transfer-Encoding: chunked\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
    seen = reached(road, request)
    assert seen.endswith(b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")
    assert field(seen.partition(b"\r\n\r\n")[0], b"Trailer") == b"X-Sum"


def test_slow_request_trailers_are_passed_on_without_what_connection_names(road):
    """The same where the body does not come along with its head."""
    line = road(echoing).connect()
    line.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\n"
              b"Expect: 100-continue\r\n\r\n")
    line.send(b"1\r\na\r\n0\r\nX-Sum: 1\r\n").send(b"X-Hop: 2\r\n\r\n")
    assert line.message()[1].endswith(b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")


def test_repeated_requests_on_one_connection_are_each_judged(road):
    """What is remembered of one request must not leak into the next."""
    line = road(echoing, via=True).connect()
    plain = b"GET /a HTTP/1.1\r\nHost: h\r\nX: 1\r\n\r\n"
    for request, body in [(plain, b""), (plain, b""),
                          (b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi", b"hi"), (plain, b""),
                          (b"GET http://other/ HTTP/1.1\r\nHost: h\r\nX: 1\r\n\r\n", b""), (plain, b""),
                          (b"GET /a HTTP/1.0\r\nHost: h\r\nX: 1\r\nConnection: keep-alive\r\n\r\n", b"")]:
        text = line.send(request).message()[1]
        assert text.startswith(request.split()[0] + b" /") and text.endswith(b"\r\n\r\n" + body)
        head = text.partition(b"\r\n\r\n")[0]
        assert field(head, b"Host") == (b"other" if b"other" in request else b"h")
        assert field(head, b"Via") == (b"1.0 wrapper" if b"1.0" in request else b"1.1 wrapper")


# Targets and versions: RFC 9112 sections 2.3, 3


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.2", b"HTTP/1.9"])
def test_later_minor_versions_are_1_1(road, version):
    """RFC 9110 section 2.5."""
    assert reached(road, b"GET / " + version + b"\r\nHost: h\r\n" + CLOSE + b"\r\n").startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(("target", "host", "passed_on"), [
    (b"http://real/p?q", b"h", b"/p?q"), (b"HTTP://real", b"h", b"/"), (b"http://real?q", b"h", b"/?q"),
    (b"https://real//x", b"h", b"//x"), (b"http://real/%2e%2e/%2F?a=http://b/", b"", b"/%2e%2e/%2F?a=http://b/"),
])
def test_an_absolute_target_beats_host(road, target, host, passed_on):
    """RFC 9112 section 3.2.2."""
    seen = reached(road, b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + CLOSE + b"\r\n")
    assert seen.startswith(b"GET " + passed_on + b" HTTP/1.1\r\n")
    assert field(seen, b"Host") == b"real" and field(seen, b"X-Forwarded-Host") == b"real"


@pytest.mark.parametrize("target", [
    b"http://", b"http:///x", b"http://a b/", b"http://u:p@h/", b"http://h/#f", b"ftp://h/", b"h:80", b"?q", b"*x",
    b"x/y",
])
def test_targets_of_no_form_are_refused(road, target):
    """RFC 9112 section 3.2."""
    status, seen = outcome(road, b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status == 400 and seen == []


@pytest.mark.parametrize("target", [
    b"//sidecar/x", b"/%73idecar/x", b"/x/../sidecar/x", b"/./sidecar/x", b"/sidecar//x", b"/sidecar/./x",
    b"/%2fsidecar/x",
    b"/sidecar/%78", b"/sidecar/y/%2e%2e/x", b"http://h/sidecar/x", b"http://h//sidecar/x", b"/..//sidecar/x",
    b"/x/%2E%2E/sidecar/x", b"/sidecar%2Fx", b"/\\sidecar\\x", b"/sidecar/x?/../../y",
])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_no_spelling_passes_an_own_path_by(road, target, version):
    """RFC 3986 section 6.2.2: every spelling that some service would read as the own path is ours."""
    made = road(echoing)
    made.site.answers["/sidecar/x"] = lambda request: Response(b"mine")
    answer = made.ask(b"GET " + target + b" HTTP/" + version + b"\r\nHost: h\r\n" + CLOSE + b"\r\n")
    assert answer.endswith(b"\r\n\r\nmine"), answer


@pytest.mark.parametrize("target", [
    b"/%2573idecar/x", b"/x?/sidecar/x", b"/sidecarx", b"/sidecar/../y", b"/x/sidecar", b"/SIDECAR/x",
    b"/sidecar/x/../../y",
])
def test_what_is_no_own_path_is_relayed_byte_for_byte(road, target):
    """RFC 9112 section 3.2.1."""
    seen = reached(road, b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n")
    assert seen.startswith(b"GET " + target + b" HTTP/1.1\r\n")


# Forwarded fields: RFC 7239


FORGED = (b"X-Forwarded-For: 6.6.6.6\r\nx-forwarded-host: forged\r\nX_Forwarded_Proto: https\r\n"
          b"X-Forwarded_For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 7.7.7.7\r\n"
          b"Forwarded: for=6.6.6.6;host=forged\r\n")


@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
def test_forged_forwarded_fields_are_replaced_on_upgrades_too(road, upgrade):
    line = road(echoing).connect().send(b"GET / HTTP/1.1\r\nHost: h:81\r\n" + FORGED + upgrade + b"\r\n")
    seen = line.message()[1]
    assert b"6.6.6.6" not in seen and b"7.7.7.7" not in seen and b"forged" not in seen and b"https" not in seen
    assert field(seen, b"X-Forwarded-For") == b"127.0.0.1" and field(seen, b"X-Forwarded-Host") == b"h:81"
    assert field(seen, b"X-Forwarded-Proto") == b"http"
    assert field(seen, b"Forwarded") == b'for=127.0.0.1;host="h:81";proto=http'


OTHERS = (b"X-Forwarded-Port", b"x-forwarded-prefix", b"X-Forwarded-User", b"X_Forwarded_Ssl")


@pytest.mark.parametrize(("trusted", "kept"), [((), ()), (("127.0.0.0/8",), OTHERS)])
def test_every_other_forwarded_field_is_believed_from_trusted_proxies_only(road, trusted, kept):
    head = b"GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded: a\r\n" + b"".join(name + b": 6\r\n" for name in OTHERS)
    seen = reached(road, head + CLOSE + b"\r\n", trusted_proxies=trusted)
    assert tuple(name for name in OTHERS if field(seen, name) is not None) == kept
    assert field(seen, b"X-Forwarded-For") == b"127.0.0.1" and field(seen, b"X-Forwarded") == b"a"


def test_forwarded_fields_of_trusted_proxies_are_appended_to(road):
    seen = reached(road, b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE + FORGED + b"\r\n", trusted_proxies=("127.0.0.1/32",))
    assert field(seen, b"X-Forwarded-For") == b"6.6.6.6, 7.7.7.7, 127.0.0.1"
    assert field(seen, b"X-Forwarded-Host") == b"forged" and field(seen, b"X-Forwarded-Proto") == b"https"
    assert field(seen, b"Forwarded").startswith(b"for=6.6.6.6;host=forged, for=127.0.0.1;")
    assert b"_" not in seen.replace(b"wrapper", b"")


def test_a_client_cannot_take_away_what_a_trusted_front_added(road):
    """Fronts pass Connection on as they get it: RFC 9110 section 7.6.1 forbids that, and they do it all the same."""
    added = b"X-Forwarded-User: alice\r\nX-Real-IP: 6.6.6.6\r\nX-Auth: a\r\n"
    names = (b"X-Forwarded-User", b"X-Real-IP", b"X-Auth")
    named = b"Connection: close, X-Forwarded-User, X-Real-IP, X-Auth\r\n\r\n"
    seen = reached(road, b"GET / HTTP/1.1\r\nHost: h\r\n" + added + named, trusted_proxies=("127.0.0.1/32",))
    assert [field(seen, name) for name in names] == [b"alice", b"6.6.6.6", b"a"]
    seen = reached(road, b"GET / HTTP/1.1\r\nHost: h\r\n" + added + named)
    assert [field(seen, name) for name in names] == [None, b"6.6.6.6", None]


@pytest.mark.parametrize(("sent", "kept"), [
    (b'for="6.6.6.6', b""), (b'for=6.6.6.6;by="x\\"', b""), (b'for="[::1]";by="a\\"b"', b'for="[::1]";by="a\\"b", '),
    (b"for=6.6.6.6", b"for=6.6.6.6, ")])
def test_an_open_quote_does_not_swallow_our_part_of_forwarded(road, sent, kept):
    """RFC 7239 section 4: what is appended to it would be a part of its text."""
    request = b"GET / HTTP/1.1\r\nHost: h\r\nForwarded: " + sent + b"\r\n" + CLOSE + b"\r\n"
    seen = reached(road, request, trusted_proxies=("127.0.0.1/32",))
    assert field(seen, b"Forwarded") == kept + b'for=127.0.0.1;host="h";proto=http'


@pytest.mark.parametrize("network", ["::ffff:127.0.0.1", "::ffff:0:0/96", "::ffff:127.0.0.0/104", "127.0.0.0/8"])
def test_a_network_of_ipv4_addresses_may_be_written_in_ipv6(road, network):
    """RFC 4291 section 2.5.5.2: a socket for both sees IPv4 clients so."""
    seen = reached(road, b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE + FORGED + b"\r\n", trusted_proxies=(network,))
    assert field(seen, b"X-Forwarded-For") == b"6.6.6.6, 7.7.7.7, 127.0.0.1"


def test_a_client_that_names_no_host_did_not_ask_for_the_inner_one(road):
    """RFC 9112 section 3.2: HTTP/1.0 may leave it out."""
    seen = reached(road, b"GET / HTTP/1.0\r\nForwarded: for=x\r\n\r\n")
    assert field(seen, b"X-Forwarded-Host") is None and field(seen, b"Forwarded") == b"for=127.0.0.1;proto=http"
    assert field(seen, b"Host")


def test_only_we_say_how_long_a_request_was_held(road):
    answer = road(answering(b"HTTP/1.1 200 OK\r\nWrapper-Held: 9\r\nContent-Length: 2\r\n\r\nok")).ask(
        b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n")
    assert b"wrapper-held" not in answer.lower() and answer.endswith(b"\r\n\r\nok")


# HTTP/1.0 and connections: RFC 9112 sections 9.3, C.2.2


def test_a_refusal_tells_an_http_1_0_client_that_its_connection_is_kept(road):
    """RFC 9112 section C.2.2."""
    line = road(echoing, is_open=False, hold=0).connect()
    for _ in range(2):
        head, _ = line.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").message()
        assert head.startswith(b"HTTP/1.1 503 ") and field(head, b"Connection") == b"keep-alive"


def test_a_client_of_http_1_0_without_keep_alive_sees_the_end(road):
    """RFC 9112 section 9.3."""
    assert road(answering(OK)).ask(b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok")


def test_a_host_is_made_for_an_http_1_0_client(road):
    """RFC 9112 section 3.2: what we send on is HTTP/1.1 and needs one."""
    made = road(echoing)
    seen = made.ask(b"GET / HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2]
    assert field(seen, b"Host") == b"127.0.0.1:%d" % made.service.address.port


def test_an_expectation_of_http_1_0_is_ignored(road):
    """RFC 9110 section 10.1.1."""
    seen = reached(road, b"POST / HTTP/1.0\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi")
    head, _, body = seen.partition(b"\r\n\r\n")
    assert field(head, b"Expect") is None and body == b"hi"


def unframed(body):
    """Payload and trailers of a chunked body; where its chunks end is nobody's business (RFC 9112 section 7.1)."""
    payload = b""
    while size := int(body.partition(b"\r\n")[0], 16):
        body = body.partition(b"\r\n")[2]
        payload, body = payload + body[:size], body[size + 2:]
    return payload, body.partition(b"\r\n")[2]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_requests_split_anywhere_and_pipelined_are_answered_in_order(road, size):
    """RFC 9112 section 9.3.2."""
    data = b"".join(
        b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\nPOST /p%d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nab\r\n0\r\nT: 1\r\n\r\n\r\nPUT /q%d HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" % (at, at, at)
        for at in range(12))
    line = road(echoing).connect()

    def write():
        for at in range(0, len(data), size):
            line.send(data[at:at + size])

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    for at in range(12):
        for path, wanted in ((b"/%d", b""), (b"/p%d", (b"ab", b"T: 1\r\n\r\n")), (b"/q%d", b"abc")):
            head, _, body = line.message()[1].partition(b"\r\n\r\n")
            assert head.split()[1] == path % at
            assert (unframed(body) if b"chunked" in head else body) == wanted
    writer.join()


def test_many_pipelined_requests_are_all_answered(road):
    """RFC 9112 section 9.3.2: also where they take more than one turn."""
    line = road(echoing).connect()
    line.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % at for at in range(300)))
    assert [int(line.message()[1].split()[1][1:]) for _ in range(300)] == list(range(300))


def test_pipelined_requests_behind_the_last_are_not_served(road):
    """RFC 9112 section 9.6."""
    status, seen = outcome(road, b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n" + GET)
    assert status == 200 and len(seen) == 1


def test_an_empty_line_before_a_request_is_ignored(road):
    """RFC 9112 section 2.2."""
    line = road(answering(OK, OK)).connect()
    assert line.send(b"\r\n" + GET).message()[1] == b"ok"
    assert line.send(b"\r\n" + GET).message()[1] == b"ok"


def test_a_head_may_be_as_large_as_the_limit_and_no_larger(road):
    """RFC 6585 section 5."""
    made = road(echoing, max_header=2000)
    start = b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"X: "
    fits = start + b"a" * (2000 - len(start) - 4) + b"\r\n\r\n"
    assert made.ask(fits).startswith(b"HTTP/1.1 200 ")
    assert made.ask(fits.replace(b"X: ", b"X: a")).startswith(b"HTTP/1.1 431 ")
    assert made.ask(b"GET /" + b"a" * 3000).startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 414 "))


def test_a_client_that_ends_in_the_middle_of_a_head_reaches_nobody(road):
    """RFC 9112 section 8."""
    made = road(echoing)
    line = made.connect().send(GET[:-2])
    line.sock.shutdown(socket.SHUT_WR)
    assert isinstance(line, Line) and line.is_at_end() and not made.service.lines
