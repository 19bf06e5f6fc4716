"""What configuration says of the service's environment, judged: the variables of its next run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LONGEST = 128 * 1024 - 2  # bytes of a name and its value, beside "=" and NUL (execve(2), MAX_ARG_STRLEN)


def judged(environment: Any) -> dict[str, str | None]:
    """Variables as the service gets them; None takes one away that it would inherit.

    A text stays as it is, a number is spelled as JSON spells it, a boolean is `true` or `false`.

    Raises: ValueError that names the variable and never its value.
    """
    if not isinstance(environment, Mapping):
        raise ValueError("the variables of the environment are members of an object, and what is there is none")  # noqa: TRY004
    return {_name(name): _value(name, value) for name, value in environment.items()}


def _name(name: Any) -> str:
    """Any text without "=" and NUL, as Docker takes it and POSIX bears it (Base Definitions, 8.1)."""
    if not isinstance(name, str) or not name or not _is_text(name) or "=" in name:
        raise ValueError(f"{name!r} is no name of a variable: it must be text without = and NUL")
    return name


def _value(name: str, value: Any) -> str | None:
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        text = None
    if text is None or not isinstance(value, (str, int, float)):
        raise ValueError(f"the variable {name} is a {type(value).__name__} that is none of text, number, true, false "
                         "and null")
    if not _is_text(text):
        raise ValueError(f"the variable {name} holds NUL, or what is no Unicode text")
    if len(name.encode()) + len(text.encode()) > LONGEST:
        raise ValueError(f"the variable {name} is too long: the kernel takes {LONGEST} bytes with its name")
    return text


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
