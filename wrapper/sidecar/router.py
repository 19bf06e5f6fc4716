"""Which of our own paths a request is for. Pure: method and path in, a route and its parameters out."""

from __future__ import annotations

import re
import threading

from wrapper.errors import MethodNotAllowed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Callable

    from wrapper.http1.message import Request, Response
    from wrapper.sidecar.access import Access

    Handler = Callable[[Request], Response]

PARAMETER = re.compile(r"\{([A-Za-z_]\w*)\}")
METHOD = re.compile(r"[A-Z][A-Z0-9_-]*")


class Route:
    """One method on one path. `is_guarded`: only with the token, or over the control socket. `is_probed`: never so.
    `is_shared`: pages of other sites may ask it too. `is_tree`: it is for everything under its path, which has no
    parameters and no slash at its end, whatever the method. `access`: who may ask it, where it has a token of its own.

    Raises: ValueError for what can never match.
    """

    __slots__ = ("access", "answer", "is_guarded", "is_probed", "is_shared", "is_tree", "method", "pattern")

    def __init__(self, method: str, pattern: str, answer: Handler, is_guarded: bool = False, *, is_probed: bool = False,
                 is_shared: bool = False, is_tree: bool = False, access: Access | None = None) -> None:
        judge(method, pattern)
        self.method = method
        self.pattern = pattern
        self.answer = answer
        self.is_guarded = is_guarded
        self.is_probed = is_probed
        self.is_shared = is_shared
        self.is_tree = is_tree
        self.access = access


class Router:
    """A table of routes: whole paths first, then patterns in the order they came, then trees, the longest first.

    Routes come in while requests are answered: every table is replaced, never changed.
    """

    def __init__(self) -> None:
        # Held by those who add; two sidecars may load at the same time.
        self._lock = threading.Lock()
        self._paths: dict[str, dict[str, Route]] = {}
        self._patterns: tuple[Pattern, ...] = ()
        self._trees: tuple[Route, ...] = ()

    def add(self, route: Route) -> None:
        """Raises: ValueError for a path that is taken already."""
        with self._lock:
            if route.is_tree:
                self._add_tree(route)
            elif PARAMETER.search(route.pattern):
                self._add_pattern(route)
            else:
                self._add_path(route)

    def _add_path(self, route: Route) -> None:
        assert self._lock.locked()
        methods = self._paths.get(route.pattern, {})
        _refuse_second(route, methods)
        self._paths = {**self._paths, route.pattern: {**methods, route.method: route}}

    def _add_pattern(self, route: Route) -> None:
        assert self._lock.locked()
        pattern = Pattern(route.pattern)
        alike = [known for known in self._patterns if known.shape == pattern.shape]
        for known in alike:
            _refuse_second(route, known.methods)
        for known in alike:
            if known.names == pattern.names:
                known.methods[route.method] = route
                return
        pattern.methods[route.method] = route
        self._patterns = (*self._patterns, pattern)

    def _add_tree(self, route: Route) -> None:
        assert self._lock.locked()
        if any(route.pattern == tree.pattern for tree in self._trees):
            raise ValueError(f"{route.pattern} is mounted already")
        self._trees = tuple(sorted([*self._trees, route], key=lambda tree: -len(tree.pattern)))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route for a path in normal form, and its path parameters; None where it has none.

        A HEAD finds the route of GET (RFC 9110 section 9.3.2). Raises: MethodNotAllowed on a path known for others.
        """
        known: set[str] = set()
        for methods, parameters in self._candidates(path):
            route = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
            if route is not None:
                return route, parameters
            known.update(methods)
        for tree in self._trees:
            if path == tree.pattern or path.startswith(tree.pattern + "/"):
                return tree, {}
        if "GET" in known:
            known.add("HEAD")
        if known:
            raise MethodNotAllowed(f"{path} does not know {method}", sorted(known))
        return None

    def _candidates(self, path: str) -> Iterable[tuple[dict[str, Route], dict[str, str]]]:
        methods = self._paths.get(path)
        if methods is not None:
            yield methods, {}
        segments = path.split("/") if self._patterns else []
        for pattern in self._patterns:
            parameters = pattern.match(segments)
            if parameters is not None:
                yield pattern.methods, parameters


class Pattern:
    """`/things/{name}`, taken apart: a parameter is at least one character of one segment, and takes all it can.

    Matched by hand, because strangers choose the path: an expression with several parameters in one segment
    backtracks, and `re` stops every other thread meanwhile. Here each character is looked at once.
    """

    def __init__(self, text: str) -> None:
        parts = [PARAMETER.split(segment) for segment in text.split("/")]
        self.shape = [part[::2] for part in parts]  # what stands before, between and behind the parameters
        self.names = [part[1::2] for part in parts]
        self.methods: dict[str, Route] = {}

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """The parameters of a path, which came split at its slashes; None where it is another's."""
        if len(segments) != len(self.shape):
            return None
        found: dict[str, str] = {}
        for literals, names, segment in zip(self.shape, self.names, segments):
            if not _take(literals, names, segment, found):
                return None
        return found


def _take(literals: list[str], names: list[str], segment: str, found: dict[str, str]) -> bool:
    """Match one segment from its end: the last place of each literal leaves most to the parameters before it."""
    first, *others = literals
    if not others:
        return segment == first
    start, end = len(first), len(segment) - len(others[-1])
    if not segment.startswith(first) or not segment.endswith(others[-1]) or start >= end:
        return False
    for literal, name in zip(reversed(others[:-1]), reversed(names)):
        at = segment.rfind(literal, start + 1, end - 1)
        if at < 0:
            return False
        found[name] = segment[at + len(literal):end]
        end = at
    found[names[0]] = segment[start:end]
    return True


def fixed_part(pattern: str) -> str:
    """What every path that matches begins with."""
    return PARAMETER.split(pattern, maxsplit=1)[0]


def judge(method: str, pattern: str) -> None:
    """Raises: ValueError for what can never match."""
    if not pattern.startswith("/") or "//" in pattern or "?" in pattern:
        raise ValueError(f"{pattern!r} is no absolute path such as /sidecar/things/{{name}}")
    if METHOD.fullmatch(method) is None:
        raise ValueError(f"{method!r} is no HTTP method such as GET")
    names = PARAMETER.findall(pattern)
    if len(set(names)) < len(names) or set("{}") & set(PARAMETER.sub("", pattern)):
        raise ValueError(f"{pattern!r} has a malformed or repeated parameter")


def _refuse_second(route: Route, methods: dict[str, Route]) -> None:
    if route.method in methods:
        raise ValueError(f"{route.method} {route.pattern} is taken already")
