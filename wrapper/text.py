"""Text that others wrote, made fit to be shown. Pure."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Control characters made visible, so that no event can pretend to be two."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable(text: str) -> str:
    """Whole lines, with tabs; all other control characters made visible, so that no terminal obeys them."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in lines)
