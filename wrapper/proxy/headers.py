"""What becomes of fields on their way through: hop-by-hop, framing, forwarded, Via. Pure.

RFC 9110 sections 6.5 (trailers), 7.6 (forwarding), 7.8 (Upgrade); RFC 7239 (Forwarded). Sections are raw bytes as
`http1` judged them, so a line that no rule is about is never taken apart.
"""

from __future__ import annotations

import ipaddress
import re
import time
from email.utils import formatdate

from wrapper.http1.request import NO_OPTIONS, split_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.http1.request import RequestHead, SpecialFields
    from wrapper.http1.response import ResponseHead

# RFC 9110 section 7.6.1: an intermediary removes these even where Connection does not name them.
_HOP_BY_HOP = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
    b"transfer-encoding", b"upgrade", b"http2-settings"))
# To CGI and WSGI services an underscore reads like a hyphen, so the twins of these names count too.
_FORWARDED = frozenset([b"forwarded"] + [
    b"x" + first + b"forwarded" + second + name
    for first in (b"-", b"_") for second in (b"-", b"_") for name in (b"for", b"host", b"proto")])
_FROM_REQUEST = _HOP_BY_HOP | _FORWARDED
_HELD = "Wrapper-Held"  # tells a client for how long we held its request: ours alone to say
_FROM_RESPONSE = _HOP_BY_HOP | {_HELD.lower().encode()}
# RFC 9110 section 7.6.1: Connection must not name what is meant for all on the road: these would change how we are
# read, or take away what a front says of the client, which has its own name for the client's address.
_NEVER_NOMINATED = frozenset((b"host", b"content-length", b"expect", b"trailer", b"close", b"date", b"via",
                              b"x-real-ip"))
# RFC 9110 section 6.5.1: framing, routing and authentication have no place in a trailer.
_NOT_IN_TRAILERS = _FROM_RESPONSE | _FORWARDED | frozenset((
    b"host", b"content-length", b"content-encoding", b"content-type", b"content-range", b"trailer", b"expect",
    b"authorization", b"cookie", b"set-cookie", b"cache-control", b"max-forwards", b"location", b"date", b"via",
    b"x-real-ip"))
VIA = b"Via: 1.1 wrapper\r\n"
VIA_OF_1_0 = b"Via: 1.0 wrapper\r\n"  # RFC 9110 section 7.6.3: the version that was received
# RFC 7239 section 4, as far as quotes go: behind an open one, what is appended would be a part of a text.
_FORWARDED_VALUE = re.compile(rb'(?:[^"\\]|"(?:[^"\\]|\\.)*")*')
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # IPv4 addresses as IPv6 sockets see them (RFC 4291 section 2.5.5.2)


class Peer:
    """What the service learns of the clients at one address, None for a unix socket, with Via where `sends_via`."""

    __slots__ = ("address", "is_trusted", "lines", "name", "scheme", "sends_via")

    def __init__(self, address: str | None, is_secure: bool, is_trusted: bool, sends_via: bool = False) -> None:
        self.address = address
        self.name = b"unknown" if address is None else address.encode()  # RFC 7239 section 6.2
        self.scheme = b"https" if is_secure else b"http"
        self.is_trusted = is_trusted
        self.sends_via = sends_via
        self.lines = b"X-Forwarded-For: %s\r\nX-Forwarded-Proto: %s\r\n" % (self.name, self.scheme) + (
            VIA if sends_via else b"")


class TrustedProxies:
    """The peers whose forwarded fields are believed: addresses, networks, and "unix" for unix sockets."""

    def __init__(self, networks: tuple[str, ...]) -> None:
        self._unix = "unix" in networks
        self._networks = [_network(text) for text in networks if text != "unix"]

    def trust(self, address: str | None) -> bool:
        if address is None:
            return self._unix
        if not self._networks:
            return False
        peer = ipaddress.ip_address(address.partition("%")[0])
        return any(peer in network for network in self._networks)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network of IPv4 addresses written as IPv6 ones is the network of those."""
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        inner = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return ipaddress.IPv4Network((inner, network.prefixlen - 96))
    return network


def request_head(head: RequestHead, peer: Peer, upstream_host: bytes) -> bytes:
    """The head to send to the service for `head`, which came from `peer`."""
    made = head.forwarded
    if made is not None and made[0] is peer and made[1] == upstream_host:
        return b"%b %b HTTP/1.1\r%b%b" % (head.method, head.target, made[2], made[3])
    kept, ours = _request_rest(head, peer, upstream_host)
    if head.rest:
        head.forwarded = peer, upstream_host, kept, ours
    return b"%b %b HTTP/1.1\r%b%b" % (head.method, head.target, kept, ours)


def _request_rest(head: RequestHead, peer: Peer, upstream_host: bytes) -> tuple[bytes, bytes]:
    """The fields behind the CR of the request line: those of the client that are passed on, and those of ours."""
    special = head.special
    if len(special) == 1 and head.host and not head.authority and head.minor:
        return head.fields, b"X-Forwarded-Host: %b\r\n%b\r\n" % (head.host, peer.lines)
    host_line = b"" if head.host and not head.authority else b"Host: %b\r\n" % (head.host or upstream_host)
    dropped = _FROM_REQUEST if peer.is_trusted else _FROM_REQUEST.union(filter(_is_forwarded, special))
    if host_line:
        dropped = dropped | {b"host"}
    if not head.expects:
        dropped = dropped | {b"expect"}
    if not head.is_chunked:
        dropped = dropped | {b"trailer"}
    # What a client names in Connection and its front passes on would take away what that front has added since.
    kept = without(head.fields, special, dropped, NO_OPTIONS if peer.is_trusted else head.options)
    return b"\n" + host_line + kept[1:], b"%b%b\r\n" % (
        _hop_lines(head), forwarded_lines(head, peer))


def _is_forwarded(name: bytes) -> bool:
    """X-Forwarded-Port, -Prefix, -User and all the others: what a front proxy says of the client."""
    return name.replace(b"_", b"-").startswith(b"x-forwarded-")


def _hop_lines(head: RequestHead) -> bytes:
    """Our own hop's Connection, Upgrade, TE and Transfer-Encoding."""
    lines = b"Transfer-Encoding: chunked\r\n" if head.is_chunked else b""
    options = []
    if head.upgrade:
        options.append(b"Upgrade")
        lines += b"Upgrade: %s\r\n" % head.upgrade
    if b"te" in head.special and accepts_trailers(head.special):
        options.append(b"TE")  # RFC 9110 section 10.1.4
        lines += b"TE: trailers\r\n"
    if options:
        lines += b"Connection: %s\r\n" % b", ".join(options)
    return lines


def accepts_trailers(special: SpecialFields) -> bool:
    members = (member for _, _, value in special[b"te"] for member in value.split(b","))
    return any(member.strip(b" \t").lower() == b"trailers" for member in members)


def forwarded_lines(head: RequestHead, peer: Peer) -> bytes:
    """X-Forwarded-* always, Forwarded where the client sent it: appended for a trusted peer, otherwise replaced.

    A client that names no host, as HTTP/1.0 may, asked for none: what the service is called inside is not one.
    """
    special = head.special
    client, host, scheme = peer.name, head.host, peer.scheme
    element = _forwarded_element(peer, host)
    if peer.is_trusted:
        client = b", ".join([*_values(special, b"x-forwarded-for"), client])
        host = b", ".join(_values(special, b"x-forwarded-host")) or host
        scheme = b", ".join(_values(special, b"x-forwarded-proto")) or scheme
        element = b", ".join([*filter(_FORWARDED_VALUE.fullmatch, _values(special, b"forwarded")), element])
    lines = b"X-Forwarded-For: %s\r\nX-Forwarded-Proto: %s\r\n" % (client, scheme)
    if host:
        lines += b"X-Forwarded-Host: %s\r\n" % host
    if b"forwarded" in special:
        lines += b"Forwarded: %s\r\n" % element
    if peer.sends_via:
        lines += VIA if head.minor else VIA_OF_1_0
    return lines


def _values(special: SpecialFields, name: bytes) -> list[bytes]:
    return [value for _, _, value in special.get(name, ()) if value]


def _forwarded_element(peer: Peer, host: bytes) -> bytes:
    """RFC 7239 section 4; an IPv6 address stands in brackets and quotes."""
    node = b'"[%s]"' % peer.name if b":" in peer.name else peer.name
    named = b';host="%s"' % host if host else b""
    return b"for=%s%s;proto=%s" % (node, named, peer.scheme)


def without(section: bytes, special: SpecialFields, dropped: frozenset[bytes], nominated: frozenset[bytes]) -> bytes:
    """`section` without the lines named in `dropped`, and without those that Connection names."""
    spans = sorted(line[:2] for name, lines in special.items() if name in dropped for line in lines)
    pieces, at = [], 0
    for start, end in spans:
        pieces.append(section[at:start])
        at = end
    pieces.append(section[at:])
    kept = b"".join(pieces)
    extra = nominated - _NEVER_NOMINATED - dropped - {b"keep-alive"}
    return _without_nominated(kept, extra) if extra else kept


def _without_nominated(section: bytes, nominated: frozenset[bytes]) -> bytes:
    lines = section[1:].split(b"\r\n")[:-1]
    return b"\n" + b"".join(line + b"\r\n" for line in lines if line.partition(b":")[0].lower() not in nominated)


def response_head(response: ResponseHead, added: bytes, is_chunked: bool) -> bytes:
    """The head to send to the client for `response`; `added` are lines of ours, `is_chunked` how we frame the body."""
    if not response.has_date and not response.is_interim:
        added += _date_line()
    if not added and not is_chunked:
        if not response.passed_on:
            response.passed_on = _response_head(response, b"", False)
        return response.passed_on
    return _response_head(response, added, is_chunked)


def _response_head(response: ResponseHead, added: bytes, is_chunked: bool) -> bytes:
    special = response.special
    via = VIA if response.minor else VIA_OF_1_0
    if not is_chunked and response.status >= 200 and response.status != 204 and response.mended is None and (
            not special or (len(special) == 1 and b"content-length" in special)):
        return b"HTTP/1.1%s\r%s%s%s\r\n" % (response.line, response.fields, via, added)
    dropped = _FROM_RESPONSE
    if not is_chunked:
        dropped = dropped | {b"trailer"}
    if response.status == 204 or response.is_interim:
        dropped = dropped | {b"content-length"}  # RFC 9110 section 8.6
    elif response.mended is not None:
        dropped = dropped | {b"content-length"}
        added += response.mended
    kept = without(response.fields, special, dropped, response.options)
    if response.status in (101, 426) and b"upgrade" in special:
        protocols = b", ".join(value for _, _, value in special[b"upgrade"])
        added += b"Connection: Upgrade\r\nUpgrade: %s\r\n" % protocols
    if is_chunked:
        added += b"Transfer-Encoding: chunked\r\n"
    return b"HTTP/1.1%s\r%s%s%s\r\n" % (response.line, kept, via, added)


_date = (0, b"")  # the present second and its line; replaced as one, so that no thread sees half of it


def held_field(seconds: float) -> tuple[str, str]:
    """Name and value, for the client of a request that the gate held so long."""
    return _HELD, f"{seconds:.3f}"


def _date_line() -> bytes:
    """RFC 9110 section 6.6.1: one who forwards a response without a Date records when it came."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, b"Date: %b\r\n" % formatdate(now, usegmt=True).encode())
    return _date[1]


def trailers(section: bytes, nominated: frozenset[bytes]) -> bytes:
    """The lines of a trailer section that may be passed on (RFC 9110 sections 6.5.1, 7.6.1).

    What is forwarded, or ours to say, stands in a head: some services read both as one.
    """
    dropped = _NOT_IN_TRAILERS | nominated
    return b"".join(b"%s: %s\r\n" % pair for pair in split_fields(section)
                    if pair[0].lower() not in dropped and not _is_forwarded(pair[0].lower()))


def is_event_stream(fields: bytes) -> bool:
    """True where Content-Type says text/event-stream; it is looked for line by line, so no other field can say it."""
    return any(name.lower() == b"content-type" and value.partition(b";")[0].strip().lower() == b"text/event-stream"
               for name, value in split_fields(fields))


def logs_in(request: RequestHead, response: ResponseHead) -> bool:
    """True where NTLM or Negotiate logs the connection in, not this request alone (RFC 4559 section 6)."""
    is_asked = b"\nauthorization:" in request.fields.lower() and _names_login(request.fields, b"authorization")
    return is_asked or (response.status == 401 and _names_login(response.fields, b"www-authenticate"))


def _names_login(fields: bytes, name: bytes) -> bool:
    schemes = (member.split(None, 1) for key, value in split_fields(fields.lower()) if key == name
               for member in value.split(b","))
    return any(words and words[0] in (b"ntlm", b"negotiate") for words in schemes)
