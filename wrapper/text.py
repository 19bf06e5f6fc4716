"""Text that others wrote, made fit to be shown. Pure."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Control characters made visible, so that no event can pretend to be two."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
