"""What authors put on the board, as JSON that every reader takes: one odd detail must not hide all that is known."""

from __future__ import annotations

import json
import math
from typing import Any

BITS_MAX = 10_000  # str() refuses what is very long (CVE-2020-10735)
DEPTH_MAX = 20  # of what stands in one another; also the end of what holds itself


def dumps(value: Any) -> str:
    """JSON (RFC 8259), whatever it is made from: what JSON does not have becomes text."""
    try:
        return json.dumps(value, default=_text, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(_plain(value, DEPTH_MAX))


def _plain(value: Any, depth: int) -> Any:
    if depth and isinstance(value, dict):
        return {_text(key): _plain(one, depth - 1) for key, one in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [_plain(one, depth - 1) for one in value]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and value.bit_length() < BITS_MAX:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # an author's __str__
        return type(value).__name__
