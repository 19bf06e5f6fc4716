"""Moments as the wrapper's documents have them: the other way round of `log.timestamp`. Pure."""

from __future__ import annotations

import calendar
import time


def epoch(moment: str | float | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 timestamp in UTC; None for what is none, numbers as they are."""
    if isinstance(moment, (int, float)):
        return moment
    try:
        return calendar.timegm(time.strptime((moment or "")[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
