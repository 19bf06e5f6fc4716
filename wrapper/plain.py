"""What authors put on the board and into events, as JSON that every reader takes (RFC 8259). Pure.

One odd detail must not hide all that is known.
"""

from __future__ import annotations

import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BITS_MAX = 10_000  # str() refuses what is very long (CVE-2020-10735)
DEPTH_MAX = 20  # of what stands in one another; also the end of what holds itself


def dumps(value: Any) -> str:
    """JSON, whatever it is made from: what JSON does not have becomes text."""
    import json  # start-up: a board without problems does without it

    try:
        return json.dumps(value, default=_text, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(plain(value))


def plain(value: Any, depth: int = DEPTH_MAX) -> Any:
    """`value` in what JSON has; the rest as the text that it is to people."""
    if depth and isinstance(value, dict):
        return {_text(key): plain(one, depth - 1) for key, one in value.items()}
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one, depth - 1) for one in value]
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
    except Exception:  # noqa: BLE001  an author's __str__, or a number that is too long
        return type(value).__name__
