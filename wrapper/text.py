"""Text and values that others wrote, made fit to be shown or read; JSON that every reader takes (RFC 8259). Pure."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

BITS_MAX = 10_000  # str() refuses what is very long (CVE-2020-10735)
HASH_LENGTH = 12  # hexadecimal digits: enough to tell configurations apart, short enough to read aloud
DEPTH_MAX = 20  # of what stands in one another; also the end of what holds itself


def one_line(text: str) -> str:
    """Control characters made visible, so that no event can pretend to be two."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable(text: str) -> str:
    """Whole lines, with tabs; all other control characters made visible, so that no terminal obeys them."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in lines)


def program() -> str:
    """The words that called this program, for messages that say how to call it again."""
    first = sys.argv[0]
    is_in_package = getattr(sys.modules["__main__"], "__package__", None)
    if first.endswith(".pyz") or (os.path.basename(first) == "__main__.py" and not is_in_package):
        return f"python3 {first}"
    if f"{sys.prefix}/lib/" in first and first.endswith(".pyc"):
        return f"{sys.prefix}/entry.sh"  # a bundle's, see image/bundle.py
    return "wrapper" if first.endswith("/wrapper") else "python3 -m wrapper"


def near(word: str, words: Iterable[str]) -> str:
    """`, did you mean ...?` for the one of `words` that looks like it, "" where none does."""
    import difflib  # start-up: only the road to a fault pays for it

    found = difflib.get_close_matches(word, words, 1)
    return f", did you mean {found[0]}?" if found else ""


def dumps(value: Any) -> str:
    """JSON, whatever it is made from: what JSON does not have becomes text, so that one odd detail hides no other."""
    import json  # start-up: a board without problems does without it

    try:
        return json.dumps(value, default=_shown, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(plain(value))


def plain(value: Any, depth: int = DEPTH_MAX) -> Any:
    """`value` in what JSON has; the rest as the text that it is to people."""
    if depth and isinstance(value, dict):
        return {_shown(key): plain(one, depth - 1) for key, one in value.items()}
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one, depth - 1) for one in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and value.bit_length() < BITS_MAX:
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    return _shown(value)


def _shown(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  an author's __str__, or a number that is too long
        return type(value).__name__


def fingerprint(value: Any) -> str:
    """Equal values have equal ones, however their parts are ordered; text and bytes that of `sha256sum`.

    Raises: ValueError, TypeError for a value that is not made of text, bytes, numbers, lists and dicts.
    """
    import hashlib  # start-up: only what configures a service is told apart
    import json

    if isinstance(value, bytes):
        raw = value
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
    else:
        raw = json.dumps(value, sort_keys=True, default=_sortable).encode()
    return hashlib.sha256(raw).hexdigest()[:HASH_LENGTH]


def _sortable(part: Any) -> Any:
    if isinstance(part, (bytes, bytearray)):
        return {"bytes": part.hex()}
    if isinstance(part, (set, frozenset)):
        return {"set": sorted(map(fingerprint, part))}
    raise TypeError(f"a {type(part).__name__}")


def epoch(moment: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 timestamp in UTC; None for what is none."""
    import calendar  # start-up: only for what is shown to people

    try:
        return calendar.timegm(time.strptime((moment or "")[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def elapsed(moment: str | None, now: float) -> float | None:
    """Seconds from an RFC 3339 timestamp in UTC to `now`, 0 where it is still to come; None for what is none."""
    then = epoch(moment)
    return None if then is None else max(0.0, round(now - then, 3))
