"""What a declaration may say; what it may not is refused at the author's line, not when it is carried out."""

from __future__ import annotations

import inspect

from wrapper.settings import address, values
from wrapper.service.state import MAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable, Union

    Span = Union[float, str, None]

POLICY = values.one_of("never", "on-failure", "always")


def seconds(span: float | str) -> float:
    """Raises: ValueError for what is no duration."""
    found = values.duration(span) if isinstance(span, str) else float(span)
    if not found >= 0:
        raise ValueError(f"{span!r} is no duration")
    return found


def bound(span: Span) -> float | None:
    """A duration above 0, or None for no bound. Raises: ValueError."""
    found = None if span is None else seconds(span)
    if found == 0:
        raise ValueError(f"{span!r} leaves no time; None is no bound")
    return found


def size(limit: int | str) -> int:
    found = limit if isinstance(limit, int) else values.size(limit)
    if found < 0:
        raise ValueError(f"{limit!r} is no size")
    return found


def name_of(function: Callable[..., Any], may_yield: bool = False) -> str:
    """Raises: TypeError for what cannot be called by a thread, or would do nothing when it is called."""
    call = function if inspect.isroutine(function) else getattr(function, "__call__", None)  # noqa: B004  # its code
    is_plain = callable(function) and not any(
        asks(one) for one in (function, call) for asks in (inspect.iscoroutinefunction, inspect.isasyncgenfunction))
    if not is_plain:
        raise TypeError(f"{function!r} is no plain function: sidecar code runs in threads, without an event loop")
    if not may_yield and any(inspect.isgeneratorfunction(one) for one in (function, call)):
        raise TypeError(f"{function!r} is no plain function: it yields, and only a route's events are asked for")
    return getattr(function, "__name__", type(function).__name__)


def judge_mount(path: str, application: Any) -> str:
    """The path without a slash at its end. Raises: ValueError; TypeError for what is no application."""
    root = path.rstrip("/")
    if not callable(application):
        raise TypeError(f"{application!r} is no WSGI application: it cannot be called")
    if not root:
        raise ValueError("an application cannot be mounted at /: that is the service's")
    if "{" in root:
        raise ValueError(f"{path!r}: an application is mounted at one path, without parameters")
    return root


def judge_service(name: str, command: Sequence[str], route: str, upstream: str | None, restart: str) -> None:
    """Raises: ValueError."""
    if not values.is_service_name(name):
        raise ValueError(f"{name!r} is no name for a service: lower case letters, digits, _ and -")
    if name == MAIN:
        raise ValueError(f"{name!r} is the main service; choose another name")
    if isinstance(command, str) or not command:
        raise ValueError(f"the service {name!r} needs a list of words as its command; no shell takes a line apart")
    if upstream is None and not any("{port}" in word for word in command):
        raise ValueError(f"the service {name!r}: put {{port}} into its command, or say where it listens (upstream=)")
    if upstream is not None:
        address.parse(upstream)
    if route:
        values.prefix(route)
    POLICY(restart)
