"""What one fetch of a source found, what it holds, and a short hash to tell it from others."""

from __future__ import annotations

import hashlib
import json
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HASH_LENGTH = 12  # hexadecimal digits: enough to tell configurations apart, short enough to read aloud
JSON_BYTES = 4 * 1024 * 1024  # of a document that is read as JSON: in Python it takes thirty times the room

# `content`: bytes, {name: bytes} of a folder, or a callable's value; None where nothing has changed. `is_json`: True
# where the source says so, None where it does not say. `is_still`: False while it may be half written.
Snapshot = namedtuple("Snapshot", "content is_json changed is_still", defaults=(True,))


class CannotFetch(Exception):
    """The source cannot be read now; the sentence holds no credentials."""


def document(snapshot: Snapshot, *, must_be_json: bool) -> Any:
    """The content as Python sees it: JSON where it is JSON, else text, else bytes; a folder is {name: text or bytes}.

    Raises: CannotFetch where it has to be JSON and is not.
    """
    if isinstance(snapshot.content, dict) and snapshot.is_json is not False:
        return {name: _text(content) for name, content in snapshot.content.items()}
    if snapshot.is_json is False or not isinstance(snapshot.content, bytes):
        return snapshot.content
    if snapshot.is_json or must_be_json or snapshot.content[:1] in (b"{", b"["):
        is_too_much = len(snapshot.content) > JSON_BYTES
        if is_too_much and (snapshot.is_json or must_be_json):
            raise CannotFetch(f"what it holds is JSON of over {JSON_BYTES} bytes")
        try:
            return _text(snapshot.content) if is_too_much else json.loads(snapshot.content)
        except (ValueError, RecursionError) as error:
            if snapshot.is_json or must_be_json:
                place = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else None
                # Without content, which `str(error)` may hold.
                raise CannotFetch(f"what it holds is not JSON: {place or type(error).__name__}") from error
    return _text(snapshot.content)


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content


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
    return hashlib.sha256(raw).hexdigest()[:HASH_LENGTH]


def _plain(part: Any) -> Any:
    if isinstance(part, (bytes, bytearray)):
        return {"bytes": part.hex()}
    if isinstance(part, (set, frozenset)):
        return {"set": sorted(map(fingerprint, part))}
    raise TypeError(f"a {type(part).__name__}")
