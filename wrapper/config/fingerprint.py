"""A short hash of any value, to tell configurations apart."""

from __future__ import annotations

import hashlib
import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def fingerprint(value: Any) -> str:
    """A hash of any value: equal values have equal ones, however their parts are ordered."""
    if isinstance(value, bytes):
        raw = value
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
    else:
        raw = json.dumps(value, sort_keys=True, default=repr).encode()
    return hashlib.sha256(raw).hexdigest()[:12]
