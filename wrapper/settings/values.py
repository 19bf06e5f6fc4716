"""The kinds of value a setting can have: text in, value out, or a ValueError that says what was expected.

Pure, but for the working folder. Spans of time come out as float seconds, sizes as int bytes.
"""

from __future__ import annotations

import os
import re
import signal

from wrapper.settings.address import folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST = 24 * 24 * 3600.0  # seconds: poll(2) counts milliseconds in 31 bits, which is 24.8 days
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
BYTES = {"kib": 1024, "mib": 1024**2, "gib": 1024**3, "b": 1}


def is_service_link(text: str) -> bool:
    """What Kubernetes' service links put into <NAME>_PORT (kubernetes.io: "Accessing the Service")."""
    return text.startswith(("tcp://", "udp://", "sctp://"))


def is_service_link_name(name: str) -> bool:
    """The names of those variables: <NAME>_SERVICE_HOST, <NAME>_PORT_80_TCP_ADDR and so on."""
    return re.search(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)\Z", name) is not None


def is_number(text: str) -> bool:
    """Decimal digits, and nothing else that int() would take: no sign, no space, no underscore, no other script."""
    return text.isascii() and text.isdigit()


# No regular expression on the road of the defaults: to compile these few costs the start 2 ms.

def duration(text: str) -> float:
    unit = next((unit for unit in SECONDS if text.endswith(unit)), "")
    number = text[:len(text) - len(unit)]
    whole, dot, fraction = number.partition(".")
    if not is_number(whole) or (dot and not is_number(fraction)):
        raise ValueError("expected a duration such as 500ms, 10s, 2m or plain seconds")
    seconds = float(number) * SECONDS.get(unit, 1.0)
    if seconds > LONGEST:
        raise ValueError("expected a duration of at most 576h, which is 24 days")
    return seconds


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
    unit = next((unit for unit in BYTES if text.lower().endswith(unit)), "")
    number = text[:len(text) - len(unit)]
    if not is_number(number):
        raise ValueError("expected a size such as 64KiB, 1MiB or plain bytes")
    return int(number) * BYTES.get(unit, 1)


def head_size(text: str) -> int:
    """A size that an ordinary request fits into: under it no client would be served."""
    found = size(text)
    if found < BYTES["kib"]:
        raise ValueError("expected a size of at least 1KiB")
    return found


def count(text: str) -> int:
    if not is_number(text):
        raise ValueError("expected a whole number")
    return int(text)


def positive_count(text: str) -> int:
    number = count(text)
    if number == 0:
        raise ValueError("expected a whole number above 0")
    return number


def switch(text: str) -> bool:
    word = text.lower()
    if word in TRUE:
        return True
    if not word or word in FALSE:
        return False
    raise ValueError("expected true or false")


def text(value: str) -> str:
    if not value:
        raise ValueError("the value is empty")
    return value


def path(value: str) -> str:
    """A path from the working folder of the start: sidecar code may change ours, and means itself."""
    return os.path.join(folder(), text(value))


def dotted(value: str) -> str:
    """Names and positions on the way to a part of a document, with dots in between."""
    if "" in value.split("."):
        raise ValueError("expected a path such as a.b.c")
    return value


def url_path(value: str) -> str:
    """An absolute path of visible ASCII characters, as it stands in a request line (RFC 9112 section 3.2.1)."""
    if not value.startswith("/") or not all("!" <= character <= "~" for character in value):
        raise ValueError("expected a path such as /healthz, without spaces")
    return value


def prefix(value: str) -> str:
    """A path without a slash at its end, of characters that need no escape (RFC 3986 section 2.3)."""
    steps = value.rstrip("/").split("/")
    if steps[0] or len(steps) < 2 or not all(map(_is_step, steps[1:])):
        raise ValueError("expected a path such as /sidecar, of letters, digits and . _ ~ -")
    return "/".join(steps)


def _is_step(step: str) -> bool:
    return step.isascii() and step[:1] not in ("", ".") and all(c.isalnum() or c in "._~-" for c in step)


def status_list(text: str) -> tuple[tuple[int, int], ...]:
    """`200,204,300-399` as (first, last) pairs."""
    return tuple(_status_range(part.strip()) for part in text.split(","))


def _status_range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    last = last if dash else first
    if not (is_number(first) and is_number(last) and 100 <= int(first) <= int(last) <= 599):
        raise ValueError("expected HTTP codes and ranges such as 200,204,300-399")
    return int(first), int(last)


def signal_number(text: str) -> int:
    """A signal by name (TERM, SIGTERM, RTMIN+3) or by number."""
    name, plus, offset = text.upper().partition("+")
    number = getattr(signal, name if name.startswith("SIG") else "SIG" + name, None)
    if is_number(text):
        number = int(text)
    elif plus:
        number = number + int(offset) if number == signal.SIGRTMIN and is_number(offset) else None
    if not isinstance(number, int) or "_" in name or number not in signal.valid_signals():
        raise ValueError("expected a signal such as TERM, HUP or RTMIN+3")
    return int(number)


def signal_name(number: int) -> str:
    """TERM for 15; RTMIN+3 for the nameless ones in between."""
    try:
        return signal.Signals(number).name[3:]
    except ValueError:
        return f"RTMIN+{number - signal.SIGRTMIN}"


def exit_statuses(text: str) -> tuple[int, int]:
    """`A=B`: the service's exit status and the wrapper's."""
    ours, _, theirs = text.strip().partition("=")
    if not (is_number(ours) and is_number(theirs) and int(ours) <= 255 and int(theirs) <= 255):
        raise ValueError("expected two exit statuses from 0 to 255, such as 143=0")
    return int(ours), int(theirs)


def variable(text: str) -> tuple[str, str]:
    """`NAME=VALUE`: an environment variable."""
    name, equals, value = text.partition("=")
    if not name or not equals or "\0" in text:
        raise ValueError("expected NAME=VALUE")
    return name, value


def networks(text: str) -> tuple[str, ...]:
    """`10.0.0.0/8,::1`: networks or single addresses, or the word `unix` for peers on a unix socket."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if names:
        import ipaddress  # start-up: few containers set this option, so most never pay for it

        for name in names:
            if name != "unix":
                try:
                    ipaddress.ip_network(name)
                except ValueError as error:
                    raise ValueError(f"expected networks such as 10.0.0.0/8,::1: {error}") from None
    return names


def hosts(text: str) -> tuple[str, ...]:
    """`grafana.example,other.example`: names as they stand in Host, without a port."""
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    for name in names:
        if set(name) & set("/:@* "):
            raise ValueError(f"{name}: expected whole names such as grafana.example, without scheme and port")
    return names


def one_of(*words: str):  # type: ignore[no-untyped-def]  # the name of the inner function is the only type to add
    def choice(text: str) -> str:
        if text not in words:
            raise ValueError("expected " + " or ".join((", ".join(words[:-1]), words[-1])))
        return text

    return choice


def is_service_name(name: str) -> bool:
    """Lower case letters, digits, `_` and `-`: it stands in labels, paths and log lines."""
    return re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) is not None


def helper(text: str) -> tuple[str, str, tuple[str, ...]]:
    """`NAME=ROUTE=COMMAND`: a second service, the path it answers under, and what runs it."""
    import shlex  # start-up: few containers have a helper

    name, _, rest = text.partition("=")
    route, _, command = rest.partition("=")
    if not is_service_name(name) or not command.strip():
        raise ValueError("expected NAME=/ROUTE=COMMAND, such as alertmanager=/alerts=/bin/alertmanager")
    return name, prefix(route), tuple(shlex.split(command))


def action(text: str) -> str:
    """The text of an action that makes a service take its configuration, judged."""
    action_parts(text)
    return text


def action_parts(text: str) -> tuple[str, Any]:
    """`restart` or `none` with None, `signal` with its number, or the method of a call with its path."""
    if text in ("restart", "none"):
        return text, None
    if text.startswith("signal:"):
        return "signal", signal_number(text[len("signal:"):])
    method, _, path = text.partition(" ")
    if not re.fullmatch(r"[A-Z]+", method) or not re.fullmatch(r"/[!-~]*", path):
        raise ValueError("expected restart, signal:HUP, a call such as POST /-/reload, or none")
    return method, path


def origin(text: str) -> str:
    """Where configuration comes from; `config/source.py` says how."""
    if text.startswith(("http:", "https:")) and "://" not in text:
        raise ValueError("a URL has two slashes, as in http://host/path; a file of that name is ./http:...")
    if "://" in text and not re.fullmatch(r"(https?://(?!/)|file:///)[!-~]+", text, re.ASCII):
        raise ValueError("expected an http:// or https:// URL without spaces, or the path of a file or folder")
    return text if "://" in text else path(text)


def mode(text: str) -> int:
    """Rights of a file, in octal as chmod(1) takes them."""
    if not is_number(text) or len(text) > 4 or not set(text) <= set("01234567") or int(text, 8) > 0o777:
        raise ValueError("expected the mode of a file in octal, such as 0640")
    return int(text, 8)


def without_credentials(text: str) -> str:
    """A source without what may be a key to it, for people: user, password and query."""
    if "://" not in text:
        return text
    return re.sub(r"[?#].*", "?***", re.sub(r"(?<=://)[^/?#]*@", "***@", text, count=1), count=1)


def command(text: str) -> tuple[str, ...]:
    """A command line as a shell would split it; no shell runs it."""
    import shlex  # start-up: few containers check their configuration

    words = tuple(shlex.split(text))
    if not words:
        raise ValueError("the value is empty")
    return words
