"""`Sidecar`: routes, tasks, watches, mounts and helper services of one author, what users write against.

A sidecar is a list of declarations. They are carried out once it has a host (`host.py`), which is when the wrapper
has started the service; a declaration that fails then is a problem, and the others stand. What may not be declared is
refused at the author's line, not when it is carried out.
"""

from __future__ import annotations

import inspect
import threading

from wrapper.config import source as configuration
from wrapper.config.declare import selection
from wrapper.config.subscription import Pace
from wrapper.http1.message import DEFAULT_LIMIT
from wrapper.problems import Problem
from wrapper.service.state import MAIN
from wrapper.settings import address, values
from wrapper.sidecar.handle import ServiceHandle
from wrapper.sidecar.registry import DEFAULT_BUCKETS, Counter, Gauge, Histogram
from wrapper.sidecar.router import Route, judge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable, TypeVar, Union

    from wrapper.config.source import Source
    from wrapper.sidecar.host import Host
    from wrapper.sidecar.mount import Application
    from wrapper.sidecar.registry import Metric

    Handler = TypeVar("Handler", bound=Callable[..., Any])
    Kind = TypeVar("Kind", bound=Metric)
    Span = Union[float, str, None]

HANDLER_TIMEOUT = "30s"
POLICY = values.one_of("never", "on-failure", "always")
KEYS_MAX = 1000  # of problems that are remembered; beyond that an unknown one is not told from one long gone


class Sidecar:
    """What one author adds to the wrapper. `name` is shown with its problems; default: the module's name.

    Every function is called with as many of its arguments as it needs: a handler is `handler(request)` or
    `handler(request, service)`, a hook `hook()` or `hook(service)`, and so on.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        # Guards what is below: a declaration is carried out once by each host there is.
        self._lock = threading.Lock()
        self._declared: list[tuple[str, Callable[[Host], object]]] = []
        self._host: Host | None = None
        self._metrics: dict[str, Metric] = {}
        self._services: set[str] = set()
        self._keys: set[str] = set()  # of the problems there have been

    def go_live(self, host: Host) -> None:
        """Carry out what was declared so far, and from now on every declaration at once. For the wrapper itself.

        Raises: ValueError where it has a host already.
        """
        with self._lock:
            if self._host is not None:
                raise ValueError("this sidecar runs already; was it given twice?")
            self._host, declared = host, list(self._declared)
        for what, action in declared:
            try:
                action(host)
            except BaseException as error:  # noqa: BLE001  the others are carried out all the same
                # Not `attempt`: that a task was begun takes no failure of the task itself back.
                host.guard.failed(what, error)
        host.hooks.begin()

    def retire(self) -> None:
        """Have no host any more; another one may come, and counts anew. For the test kit."""
        with self._lock:
            self._host = None
            for metric in self._metrics.values():
                metric.reset()

    def _declare(self, what: str, action: Callable[[Host], object], is_news: bool = False) -> None:
        """Carry out `action` now, or once there is a host; every later host does it too, unless it was only news."""
        with self._lock:
            host = self._host
            if host is None:
                self._declared.append((what, action))
                return
        action(host)
        if not is_news:  # nor is one tried again that was refused
            with self._lock:
                self._declared.append((what, action))

    # Requests

    def route(self, method: str, path: str, *, guarded: bool = False, timeout: Span = HANDLER_TIMEOUT,
              limit: int | str = DEFAULT_LIMIT, cross_site: bool = False) -> Callable[[Handler], Handler]:
        """Answer requests for `path` here, instead of relaying them: `handler(request, service)`.

        `path` is absolute, with parameters such as `/sidecar/things/{name}` in `request.params`. `guarded`: only with
        the token. `timeout`: after that the client gets 504. `limit`: bytes of a body that is read whole, else 413.
        `cross_site`: pages of other sites may ask it too. The handler returns a dict or list (JSON), str, bytes, None
        (204), (status, body), a `Response`, or is a generator: then each `yield` is one server-sent event.
        """
        judge(method, path)
        what, patience, most = f"{method} {path}", bound(timeout), size(limit)

        def take(handler: Handler) -> Handler:
            name_of(handler, may_yield=True)  # a handler that is none is said here
            self._declare(what, lambda host: host.site.add(Route(
                method, path, host.answer(what, handler, patience, most), guarded, is_shared=cross_site)))
            return handler

        return take

    def mount(self, path: str, application: Application, *, guarded: bool = False,
              timeout: Span = HANDLER_TIMEOUT, cross_site: bool = False) -> None:
        """Let a WSGI application answer everything under `path`; it must begin its response within `timeout`.

        `cross_site`: pages of other sites may ask it too.
        """
        patience, root = bound(timeout), judge_mount(path, application)
        self._declare(f"mount {path}", lambda host: host.add_mount(root, application, patience, guarded, cross_site))

    # In the background

    def task(self, function: Handler) -> Handler:
        """A thread of its own: `function(service, stopping)`; `stopping` is a `threading.Event`.

        One that raises is a problem, and is called again after a pause; one that returns is done.
        """
        name = name_of(function)
        self._declare(f"task {name}", lambda host: host.add_task(name, function))
        return function

    def watch(self, source: str | Callable[[], Any], *, every: float | str = "5s",
              select: Callable[[Any], Any] | str | None = None, name: str = "", timeout: float | str = "10s",
              token_file: str | None = None, splay: float | str = 0.0,
              min_interval: float | str = 0.0) -> Callable[[Handler], Handler]:
        """Watch a URL, a file, a folder or a function; `function(value, service)` is called when it changed.

        `select`: the part of a document that counts, as a function or a path such as `"a.b"`. The function returns what
        went wrong (a `Problem`, a sentence, several of them), or nothing where the value is in force now. `timeout`
        bounds one look; `token_file` holds the bearer token of a URL; `splay` spreads a fleet; `min_interval` is the
        least time between two changes.
        """
        pace = Pace(bound(every) or 0.0, seconds(splay), seconds(min_interval))
        patience, chosen = bound(timeout) or 0.0, selection(select) if isinstance(select, str) else select

        def origin() -> Source:
            return configuration.of(source, timeout=patience, token_file=token_file)

        def take(function: Handler) -> Handler:
            given = name_of(function)
            title = name or given
            self._declare(f"watch {title}", lambda host: host.add_watch(title, origin(), function, pace, chosen))
            return function

        origin()  # a malformed source is said here, at the author's line
        return take

    def on_start(self, function: Handler) -> Handler:
        """Call `function(service)` once, when the sidecar runs. The service need not be ready yet."""
        return self._hook("start", function)

    def on_ready(self, function: Handler) -> Handler:
        """Call `function(service)` whenever the service has become ready."""
        return self._hook("ready", function)

    def on_exit(self, function: Handler) -> Handler:
        """Call `function(service, facts)` whenever a process of the service ended: `facts["status"]`, `["planned"]`."""
        return self._hook("exit", function)

    def _hook(self, moment: str, function: Handler) -> Handler:
        name = name_of(function)
        self._declare(f"on_{moment} {name}", lambda host: host.hooks.add(moment, name, function))
        return function

    # Services

    def service(self, name: str, command: Sequence[str], *, route: str = "", upstream: str | None = None,
                ready_path: str | None = None, restart: str = "on-failure") -> ServiceHandle:
        """Run a second service, under its own path `route`; `{port}` in its command is a free port.

        Requests reach it with their whole path, as it came. It never keeps the main service from starting; its troubles
        are problems. The handle steers it like `service` the main one.
        """
        judge_service(name, command, route, upstream, restart)
        handle, words = ServiceHandle(name), tuple(command)
        with self._lock:
            if name in self._services:
                raise ValueError(f"this sidecar has a service {name!r} already")
            self._services.add(name)
        self._declare(f"service {name}", lambda host: host.add_service(
            handle, words, route=route, upstream=upstream, ready_path=ready_path, restart=restart))
        return handle

    # What is wrong, and how much of what there was

    def problem(self, message: str, key: str = "", **details: Any) -> None:
        """Put a problem on the board, or see it again. `key` tells several of one sidecar apart.

        Raises: ValueError as `Problem` does.
        """
        problem = Problem(message, key, **details)
        with self._lock:
            if len(self._keys) < KEYS_MAX:
                self._keys.add(key)
        self._declare("problem", lambda host: host.report(problem), is_news=True)

    def resolve(self, key: str = "", *, missing_ok: bool = False) -> None:
        """Take a problem off the board again; nothing happens where it is off already.

        Raises: ValueError for a key that no problem of this sidecar has had, unless `missing_ok`.
        """
        with self._lock:
            if not missing_ok and key not in self._keys and len(self._keys) < KEYS_MAX:
                raise ValueError(f"resolve({key!r}): no problem of this sidecar has had this key, but "
                                 f"{sorted(self._keys)}; where there need not have been one, say "
                                 f"resolve({key!r}, missing_ok=True)")
        self._declare("resolve", lambda host: host.resolve(key), is_news=True)

    def problems(self) -> list[Problem]:
        """What is wrong now, oldest first, whatever `source` found it; empty while no wrapper runs."""
        with self._lock:
            host = self._host
        return [] if host is None else host.site.around.board.problems()

    def counter(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Counter:
        """A number that only rises, on `/sidecar/metrics`: `.inc(amount, label=value)`."""
        return self._metric(Counter(name, help, labels))

    def gauge(self, name: str, help: str = "", labels: Sequence[str] = ()) -> Gauge:
        """A number that goes up and down: `.set(value, label=value)`."""
        return self._metric(Gauge(name, help, labels))

    def histogram(self, name: str, help: str = "", labels: Sequence[str] = (),
                  buckets: Sequence[float] = DEFAULT_BUCKETS) -> Histogram:
        """Values counted by size: `.observe(value, label=value)`."""
        return self._metric(Histogram(name, help, labels, buckets))

    def _metric(self, metric: Kind) -> Kind:
        """The metric of this name, declared now or before: a handler may say each time what it counts with."""
        with self._lock:
            present = self._metrics.setdefault(metric.name, metric)
        present.judge_second(metric)
        if present is metric:
            self._declare(f"metric {metric.name}", lambda host: host.site.registry.add(metric))
        return present  # type: ignore[return-value]  # the same kind, as judged


# What a declaration may say


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
    judge("GET", root)
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
