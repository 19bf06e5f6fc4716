"""The verb that compiles and copies all that the wrapper needs."""

from __future__ import annotations

from tests.running import run

PATIENCE = 120.0  # seconds; it is 2 s of a processor, and 20 s on one that twenty share


def bundled(*words, **options):
    """`python3 -m wrapper bundle WORDS`, to its end."""
    return run("bundle", *words, timeout=PATIENCE, **options)
