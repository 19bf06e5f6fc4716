"""The kinds of value a setting can have: text in, value out, or a ValueError that says what was expected.

Pure. Spans of time come out as float seconds, sizes as int bytes.
"""

from __future__ import annotations

import re
import signal

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
BYTES = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
# What Kubernetes' service links put into <NAME>_PORT (kubernetes.io: "Accessing the Service", environment variables).
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://[0-9a-fA-F.:\[\]]+:\d+\Z")
SERVICE_LINK_NAME = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)\Z")


def duration(text: str) -> float:
    number = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text, re.ASCII)
    if number is None:
        raise ValueError("expected a duration such as 500ms, 10s, 2m or plain seconds")
    return float(number[1]) * SECONDS[number[2]]


def positive_duration(text: str) -> float:
    """A duration above 0, for spans that make no sense without any time in them."""
    seconds = duration(text)
    if seconds <= 0:
        raise ValueError("expected a duration above 0")
    return seconds


def span(text: str) -> tuple[float, float]:
    """`D..D`: the shortest and the longest of something."""
    low, dots, high = text.partition("..")
    if not dots:
        raise ValueError("expected two durations such as 500ms..30s")
    shortest, longest = positive_duration(low), positive_duration(high)
    if shortest > longest:
        raise ValueError("the first duration is longer than the second")
    return shortest, longest


def size(text: str) -> int:
    number = re.fullmatch(r"(\d+)([A-Za-z]*)", text, re.ASCII)
    if number is None or number[2].lower() not in BYTES:
        raise ValueError("expected a size such as 64KiB, 1MiB or plain bytes")
    return int(number[1]) * BYTES[number[2].lower()]


def count(text: str) -> int:
    if re.fullmatch(r"\d+", text, re.ASCII) is None:
        raise ValueError("expected a whole number")
    return int(text)


def positive_count(text: str) -> int:
    number = count(text)
    if number == 0:
        raise ValueError("expected a whole number above 0")
    return number


def switch(text: str) -> bool:
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("expected true or false")


def text(value: str) -> str:
    if not value:
        raise ValueError("the value is empty")
    return value


def url_path(value: str) -> str:
    """An absolute path of ASCII characters, as it stands in a request line (RFC 9112 section 3.2.1)."""
    if not re.fullmatch(r"/[!-~]*", value, re.ASCII):
        raise ValueError("expected a path such as /sidecar, without spaces")
    return value


def prefix(value: str) -> str:
    """A path without a slash at its end, of characters that need no escape."""
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+/?", value, re.ASCII) or "/." in value:
        raise ValueError("expected a path such as /sidecar, of letters, digits and . _ ~ -")
    return value.rstrip("/")


def status_list(text: str) -> tuple[tuple[int, int], ...]:
    """`200,204,300-399` as (first, last) pairs."""
    ranges = []
    for part in text.split(","):
        bounds = re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", part.strip(), re.ASCII)
        if bounds is None or int(bounds[2] or bounds[1]) < int(bounds[1]):
            raise ValueError("expected HTTP codes and ranges such as 200,204,300-399")
        ranges.append((int(bounds[1]), int(bounds[2] or bounds[1])))
    return tuple(ranges)


def signal_number(text: str) -> int:
    """A signal by name (TERM, SIGTERM, RTMIN+3) or by number."""
    if text.isascii() and text.isdigit() and int(text) in signal.valid_signals():
        return int(text)
    name = re.fullmatch(r"(?:SIG)?([A-Z0-9]+)(\+\d+)?", text.upper(), re.ASCII)
    number = getattr(signal, "SIG" + name[1], None) if name else None
    if isinstance(number, int) and (name[1] == "RTMIN" or not name[2]):
        number = int(number) + int(name[2] or 0)
        if number in signal.valid_signals():
            return number
    raise ValueError("expected a signal such as TERM, HUP or RTMIN+3")


def signal_name(number: int) -> str:
    """TERM for 15; RTMIN+3 for the nameless ones in between."""
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return f"RTMIN+{number - signal.SIGRTMIN}"


def exit_statuses(text: str) -> tuple[int, int]:
    """`A=B`: the service's exit status and the wrapper's."""
    pair = re.fullmatch(r"(\d{1,3})=(\d{1,3})", text.strip(), re.ASCII)
    if pair is None or int(pair[1]) > 255 or int(pair[2]) > 255:
        raise ValueError("expected two exit statuses from 0 to 255, such as 143=0")
    return int(pair[1]), int(pair[2])


def networks(text: str) -> tuple[str, ...]:
    """`10.0.0.0/8,::1`: networks or single addresses, or the word `unix` for peers on a unix socket."""
    import ipaddress  # start-up: few containers set this option, so most never pay for it

    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        if name != "unix":
            try:
                ipaddress.ip_network(name)
            except ValueError as error:
                raise ValueError(f"expected networks such as 10.0.0.0/8,::1: {error}") from None
    return names


def one_of(*words: str):  # type: ignore[no-untyped-def]  # the name of the inner function is the only type to add
    def choice(text: str) -> str:
        if text not in words:
            raise ValueError("expected " + " or ".join((", ".join(words[:-1]), words[-1])))
        return text

    return choice


def helper(text: str) -> tuple[str, str, tuple[str, ...]]:
    """`NAME=ROUTE=COMMAND`: a second service, the path it answers under, and what runs it."""
    import shlex  # start-up: few containers have a helper

    name, _, rest = text.partition("=")
    route, _, command = rest.partition("=")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or not command.strip():
        raise ValueError("expected NAME=/ROUTE=COMMAND, such as alertmanager=/alerts=/bin/alertmanager")
    return name, prefix(route), tuple(shlex.split(command))
