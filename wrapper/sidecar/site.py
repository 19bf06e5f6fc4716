"""Everything that is answered here instead of being relayed, as the exposed port and the control socket see it."""

from __future__ import annotations

import re
import threading

from wrapper.errors import BadRequest, Busy, MethodNotAllowed, NotFound, Refusal, Unavailable
from wrapper.http1.request import literal_path
from wrapper.log import log
from wrapper.proxy.headers import TrustedProxies
from wrapper.service.state import ENDING
from wrapper.sidecar.access import Access, judge_origin, judge_token, protected
from wrapper.sidecar.accesslog import AccessLog
from wrapper.sidecar.api import PROBED, Api
from wrapper.sidecar.dashboard import Dashboard
from wrapper.sidecar.registry import Registry
from wrapper.sidecar.router import Route, Router, fixed_part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.gate import Gate
    from wrapper.http1.message import Ended, Request, Response
    from wrapper.service.service import Service, Surroundings


MOST_FRONTS = 100  # that are remembered; all who come later are strangers, not a fleet of proxies
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Site:
    """Own paths and the services behind all others. The first of `services` is the main one; helpers follow.

    A path is a candidate for `answer` where it begins with one of `prefixes`; the rest goes through `gate(path)`.
    """

    def __init__(self, around: Surroundings, services: list[Service]) -> None:
        settings = around.settings
        self.around = around
        self.services = services
        self._is_closed = False  # to further ones
        self.subscriptions: list[Any] = []  # sources of configuration that are watched
        self.registry = Registry()
        self.router = Router()
        self.access = Access(settings.token, settings.token_file, around.board)
        self._prefix = settings.prefix
        # Answered on the loop: no code of an author's, no disk, no lock held for long.
        self._quick = frozenset(f"{settings.prefix}/{name}" for name in PROBED)
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._fronts: set[str | None] = set()  # that have been named
        # Held by those who add prefixes and services; two sidecars may load at the same time.
        self._lock = threading.Lock()
        # Their words, while they load and where that failed: their paths are not known yet.
        self.loading: set[str] = set(settings.sidecar)
        self.failed: set[str] = set()
        self._starts: tuple[str, ...] = (settings.prefix,)
        self._set_prefixes()
        self._main_gate = services[0].gate
        self._learn_routes()
        self.dashboard = Dashboard(self)
        for route in (*Api(self).routes(settings.prefix), *self.dashboard.routes(settings.prefix)):
            self.router.add(route)
        self._access_log = AccessLog(settings.log_format == "json") if settings.access_log else None
        self._observers: list[Callable[[Ended], None]] = [self.dashboard.traffic.observe]
        if not settings.tls_cert:
            self._observers.append(self._name_front)
        if self._access_log is not None:
            self._observers.append(self._access_log.observe)

    # For the server

    def answer(self, request: Request) -> Response | None:
        """The response to a request for an own path; None where the path is the service's after all.

        Raises: Refusal.
        """
        try:
            found = self.router.find(request.method, request.path)
        except MethodNotAllowed:
            found = None  # an author's route took one method of a path of the service; the others stay the service's
        if found is None and not self._is_ours(request.path):
            self._keep_token(request)
            return None
        route = None
        try:
            if found is not None:
                route, request.params = found
            self._judge(request, route)
            if route is None:
                raise NotFound(f"no sidecar path {request.path}; {self._prefix}/api/status is one")
            response = route.answer(request)
        except Refusal as refusal:
            refusal.headers = protected(refusal.headers, route)
            raise
        response.headers = protected(response.headers, route)
        return response

    def _judge(self, request: Request, route: Route | None) -> None:
        """Raises: BadRequest, Forbidden, Unauthorized, TooManyRequests, MethodNotAllowed."""
        if not request.trusted and not self._is_literal(request, route):
            raise BadRequest("this is another spelling of an own path; write it as it is")
        if any(UNPRINTABLE.search(value) for value in request.params.values()):
            raise BadRequest("a part of the path holds a control character, or is no UTF-8")
        if not request.trusted:
            judge_origin(request, self.around.settings.allowed_hosts, route is not None and route.is_shared)
        judge_token(request, route, self.access, self.around.settings.private)
        if route is None:
            self.router.find(request.method, request.path)

    def _is_literal(self, request: Request, route: Route | None) -> bool:
        """Whether a front that goes by the bytes of the path knows it as this one; parameters may hold escapes."""
        raw = request.target.partition("?")[0]
        if raw == request.path:
            return True
        spelled = literal_path(raw)
        if spelled is None or route is None:
            return spelled is not None and self._is_ours(spelled)
        found = self.router.find(request.method, spelled)
        return found is not None and found[0] is route

    def _keep_token(self, request: Request) -> None:
        """Keep the token from the service: a request that brings it may be for a sidecar that is still loading.

        Raises: Unavailable.
        """
        if self.loading and not request.trusted and self.access.holds_token(request):
            raise Unavailable("a sidecar is still loading, and it may be the one that this is for")

    def _is_ours(self, path: str) -> bool:
        """True where no service could answer: under the prefix, and no helper's route."""
        is_under = path == self._prefix or path.startswith(self._prefix + "/")
        return is_under and self.gate(path) is self._main_gate

    def is_quick(self, path: str) -> bool:
        """True where probes must be answered even when no thread can be had for it."""
        return path in self._quick

    def gate(self, path: str) -> Gate:
        """The gate of the service that a path belongs to which is not our own."""
        for route, gate in self._routes:
            if path == route or path.startswith(route + "/"):
                return gate
        return self._main_gate

    def ended(self, facts: Ended) -> None:
        """Tell all observers of an exchange that is over."""
        for observer in self._observers:
            observer(facts)

    def _name_front(self, facts: Ended) -> None:
        """Name a peer that forwards like a proxy and is not trusted, once, where that changes something.

        A front says https where TLS ends with it; the service is told http.
        """
        if facts.head is None or facts.peer in self._fronts or len(self._fronts) >= MOST_FRONTS:
            return
        said = facts.head.special.get(b"x-forwarded-proto", ())
        if any(value.lower() == b"https" for _, _, value in said) and not self._proxies.trust(facts.peer):
            self._fronts.add(facts.peer)
            log.warning("X-Forwarded-Proto: https is replaced by http, because its sender is not in --trusted-proxies; "
                        "name it there where it is a proxy of yours", peer=facts.peer or "unix")

    def note_failure(self, status: int, reason: str, what: str) -> None:
        """Log a failure; the first of a kind is a problem, which counts those that follow."""
        log.warning(f"{status}: {reason}", request=what)
        self.around.board.report("relay", f"{status}: {reason}", reason, latest=what)

    def note_shortage(self, what: str, is_short: bool) -> None:
        """Put a limit of the container that is reached on the board, or take it off."""
        if is_short:
            self.around.board.report("limits", f"{what} run short: new clients get 503, the longest idle are closed; "
                                     "raise the container's limit or lower --max-connections", what)
        else:
            self.around.board.resolve("limits", what)

    def sidecars(self) -> dict[str, list[str]]:
        """The words of --sidecar whose sidecar is not there: those that load still, and those that failed."""
        with self._lock:
            return {"loading": sorted(self.loading), "failed": sorted(self.failed)}

    def finish(self) -> None:
        """End what observes exchanges: none will end any more."""
        self.dashboard.sampler.stop()
        if self._access_log is not None:
            self._access_log.finish()

    # For sidecars and their loader

    def add(self, route: Route) -> None:
        """Raises: ValueError for a path that is taken, or cannot be."""
        self.router.add(route)
        start = fixed_part(route.pattern)
        with self._lock:
            if not start.startswith(self._starts):
                self._starts = (*self._starts, start)
            self._set_prefixes()

    def _set_prefixes(self) -> None:
        """While a sidecar loads, requests for every path are searched for the token, which the service must not see."""
        self.prefixes = (*self._starts, "/") if self.loading and self.access.has_token else self._starts

    def note_loaded(self, word: str, is_loaded: bool) -> None:
        """Note that the import of a sidecar has ended, or hangs."""
        with self._lock:
            self.loading.discard(word)
            (self.failed.discard if is_loaded else self.failed.add)(word)
            self._set_prefixes()

    def add_service(self, service: Service) -> None:
        """Add a helper, whose route leads to it from now on.

        Raises: ValueError where its name or its route is taken; Busy once `close_services` was called.
        """
        with self._lock:
            if self._is_closed:
                raise Busy(f"cannot add {service.name}: {ENDING}")
            for other in self.services:
                if service.name == other.name or (service.route and service.route == other.route):
                    raise ValueError(f"the name {service.name} or the path {service.route} is taken by a service")
            self.services.append(service)
            self._learn_routes()

    def close_services(self) -> list[Service]:
        """All services, which are to end; none is added from now on."""
        with self._lock:
            self._is_closed = True
            return list(self.services)

    def _learn_routes(self) -> None:
        routes = [(service.route, service.gate) for service in self.services[1:] if service.route]
        self._routes = tuple(sorted(routes, key=lambda route: -len(route[0])))
