"""A short hash of any value, to tell configurations apart."""

from __future__ import annotations

import hashlib
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


LENGTH = 12  # hexadecimal digits: enough to tell configurations apart, short enough to read aloud


def fingerprint(value: Any) -> str:
    """Equal values have equal ones, however their parts are ordered; text and bytes that of `sha256sum`.

    Raises: ValueError, TypeError for a value that is not made of text, bytes, numbers, lists and dicts.
    """
    if isinstance(value, bytes):
        raw = value
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
    else:
        raw = json.dumps(value, sort_keys=True, default=_plain).encode()
    return hashlib.sha256(raw).hexdigest()[:LENGTH]


def _plain(part: Any) -> Any:
    if isinstance(part, (bytes, bytearray)):
        return {"bytes": part.hex()}
    if isinstance(part, (set, frozenset)):
        return {"set": sorted(map(fingerprint, part))}
    raise TypeError(f"a {type(part).__name__}")
