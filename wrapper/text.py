"""Text that others wrote, made fit to be shown. Pure."""

from __future__ import annotations

import os
import sys


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
    if os.path.basename(first) == "__main__.py" and not getattr(sys.modules["__main__"], "__package__", None):
        return f"python3 {first}"  # started as a file
    if first.endswith(".pyz"):
        return f"python3 {first}"
    if f"{sys.prefix}/lib/" in first and first.endswith(".pyc"):
        return f"{sys.prefix}/entry.sh"  # a bundle's, see image/bundle.py
    return "wrapper" if first.endswith("/wrapper") else "python3 -m wrapper"
