"""The wrapper's own paths, but for the page: health, status, problems, events, output, and the actions."""

from __future__ import annotations

import os
import time

from wrapper import __version__, threads
from wrapper.config import history
from wrapper.config.change import roll_back
from wrapper.errors import BadRequest, NotFound, Unavailable
from wrapper.http1.message import Response
from wrapper.log import log
from wrapper.problems import outlined
from wrapper.service import procfs
from wrapper.settings import values
from wrapper.sidecar import reply
from wrapper.sidecar.router import Route
from wrapper.text import dumps
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Callable, TypeVar

    from wrapper.events import Feed
    from wrapper.http1.message import Piece, Request
    from wrapper.service.output import Output
    from wrapper.service.service import Service
    from wrapper.sidecar.router import Handler
    from wrapper.sidecar.site import Site

    Value = TypeVar("Value")

ACTIONS = ("start", "stop", "restart", "reload")
PROBED = ("healthz", "readyz")  # by orchestrators, which bring no token
PAUSE_MAX = 30.0  # seconds that requests are held for an operator at most
DEFAULT_LINES = 100
BODY_LIMIT = 64 * 1024  # bytes of what an action says about itself
REASON_LENGTH = 200  # characters of a reason that are kept
DIGITS_MAX = 18  # of an event's number; int() refuses what is very long (CVE-2020-10735)
RETRY_MS = 1000  # how long a browser waits before it comes back


class Api:
    """Answers for all services of a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._around = site.around
        self._stream = FeedStream(site.around.feed)
        self._slots = reply.StreamSlots(site.access)
        self._started = time.monotonic()
        self._identity = {"host": os.uname().nodename, "container": procfs.container_id()}

    def routes(self, prefix: str) -> Iterator[Route]:
        for path, answer in (("healthz", self._healthz), ("readyz", self._readyz), ("api/status", self._status),
                             ("api/problems", self._problems), ("api/config", self._config),
                             ("api/events", self._events)):
            yield Route("GET", f"{prefix}/{path}", answer, is_probed=path in PROBED)
        for path, answer in (("logs", self._logs), ("config/history", self._history), ("config/diff", self._diff)):
            yield Route("GET", f"{prefix}/api/{path}", answer, is_guarded=True)
        for name, act in (("config", self._fetch_now), ("config/rollback", self._roll_back), ("signal", self._signal),
                          ("pause", self._pause), ("resume", self._resume),
                          *((kind, self._action(kind)) for kind in ACTIONS)):
            yield Route("POST", f"{prefix}/api/{name}", act, is_guarded=True)

    # To read

    def _healthz(self, request: Request) -> Response:
        return as_json({"healthy": True})

    def _readyz(self, request: Request) -> Response:
        main = self._site.services[0]
        reason = main.readiness()
        if reason is not None:
            raise Unavailable(reason)
        # For all alike, without regard to any token: it is answered on the loop, where nothing may wait for a disk.
        stale = [status for status in self._config_status(is_told=False) if status.get("stale_since")]
        return as_json({"ready": True, "state": main.life.state.value, "stale": stale,
                        "sidecars": self._site.sidecars()})

    def _status(self, request: Request) -> Response:
        return as_json(self._status_of(self._site.services[0]))

    def _status_of(self, service: Service) -> dict[str, Any]:
        """The record of a service; the main one's with what is known of everything around it."""
        main, *helpers = self._site.services
        if service is not main:
            return service.status()
        return {**main.status(), **self._identity, "problems": len(self._around.board),
                "uptime_seconds": round(time.monotonic() - self._started, 3), "version": __version__,
                "helpers": {helper.name: helper.status() for helper in helpers}, "last_event": self._around.feed.last}

    def _problems(self, request: Request) -> Response:
        board = self._around.board
        return as_json(board.list() if self._site.access.knows(request) else board.outline())

    def _config(self, request: Request) -> Response:
        return as_json(self._config_status(self._site.access.knows(request)))

    def _config_status(self, is_told: bool) -> list[dict[str, Any]]:
        """The record of each subscription; strangers are not told why a fetch or a change failed."""
        known = [subscription.status() for subscription in list(self._site.subscriptions)]
        return known if is_told else [
            {**status, "last_result": status["last_result"].partition(":")[0]} for status in known]

    def _history(self, request: Request) -> Response:
        return as_json(history.of(self._service(request)).outline())

    def _diff(self, request: Request) -> Response:
        try:
            number = query_value(request, "version", "", values.count)
            return as_json(history.of(self._service(request)).diff(number))
        except LookupError as error:
            raise NotFound(str(error.args[0])) from None

    def _events(self, request: Request) -> Response:
        known = request.headers.get("last-event-id") or request.query.get("after")
        pieces = self._stream.pieces(self._stream.known(known), self._site.access.knows(request))
        return reply.event_stream(self._slotted(request, pieces))

    def _slotted(self, request: Request, pieces: Iterator[bytes]) -> Iterable[Piece]:
        """Bound the streams, which strangers may ask for; those who could end the wrapper anyway are not kept out."""
        return pieces if request.trusted else reply.SlottedStream(pieces, self._slots.of(request))

    def _logs(self, request: Request) -> Response:
        output = self._service(request).output
        if output is None:
            raise NotFound("no output is kept; start the wrapper with --capture-output")
        count = query_value(request, "lines", str(DEFAULT_LINES), values.count)
        if _is_on(request, "follow"):
            pieces = self._slotted(request, _follow(output, *output.tail(count)))
            return Response(pieces, headers=(reply.NO_STORE, reply.NO_BUFFER), content_type="text/plain; charset=utf-8")
        body = "".join(line + "\n" for line in output.lines(count))
        return Response(body, headers=[reply.NO_STORE], content_type="text/plain; charset=utf-8")

    # To do

    def _action(self, kind: str) -> Handler:
        def act(request: Request) -> Response:
            service, is_awaited = self._service(request), _is_on(request, "wait")
            job = service.controller.ask(kind, _reason(request))
            if not is_awaited:
                return as_json(self._status_of(service), 202)
            if job.wait():
                return as_json(self._status_of(service))
            return as_json({**self._status_of(service), "error": job.error, "status": 500}, 500)

        return act

    def _pause(self, request: Request) -> Response:
        """Hold every request for `?for=` at most, without touching the service; a timer ends it."""
        service = self._service(request)
        seconds = min(query_value(request, "for", f"{PAUSE_MAX:g}s", values.positive_duration), PAUSE_MAX)
        reason = _reason(request)
        number = service.gate.pause(reason)
        self._around.feed.publish("paused", service=service.name, seconds=seconds, reason=reason)
        log.info("paused", service=service.name, seconds=seconds, reason=reason)
        try:
            threads.start_timer("end of a pause", seconds, self._let_through, service, "its time is over", number)
        except NoThread as error:
            self._let_through(service, str(error), number)
            raise Unavailable(f"cannot pause, no thread can be had to end it: {error}") from None
        return as_json({**self._status_of(service), "paused_seconds": seconds})

    def _resume(self, request: Request) -> Response:
        service = self._service(request)
        self._let_through(service, _reason(request))
        return as_json(self._status_of(service))

    def _let_through(self, service: Service, reason: str, number: int | None = None) -> None:
        """End a pause, with its number only where it is the latest one, and tell so where there was one."""
        if service.gate.resume(number):
            self._around.feed.publish("resumed", service=service.name, reason=reason)
            log.info("resumed", service=service.name, reason=reason)

    def _signal(self, request: Request) -> Response:
        service = self._service(request)
        # A plus in a query may be meant as one (RTMIN+3); it comes as a space.
        name = request.query.get("name", "").replace(" ", "+") or _fact(request, "name")
        if name is None:
            raise BadRequest('which signal? ?name=HUP, or {"name": "HUP"} as the body')
        try:
            number = values.signal_number(name)
        except ValueError as error:
            raise BadRequest(f"{name!r}: {error}") from None
        service.controller.signal(number)
        self._around.feed.publish("signal", service=service.name, signal=values.signal_name(number),
                                  reason=_reason(request))
        return as_json(self._status_of(service), 202)

    def _fetch_now(self, request: Request) -> Response:
        for subscription in list(self._site.subscriptions):
            subscription.fetch_now()
        return as_json(self._config_status(self._site.access.knows(request)), 202)

    def _roll_back(self, request: Request) -> Response:
        number = query_value(request, "version", "", values.count)
        problems = roll_back(self._service(request), number, self._site.subscriptions)
        if not problems:
            return as_json({"problems": []})
        return as_json({"error": problems[0].message, "status": 500, "problems": [
            {"message": problem.message, "details": problem.details} for problem in problems]}, 500)

    def _service(self, request: Request) -> Service:
        """The service that `?service=` names, else the main one."""
        name = request.query.get("service")
        for service in list(self._site.services):
            if name in (None, service.name):
                return service
        raise NotFound(f"no service has the name {name!r}")


def as_json(value: Any, status: int = 200) -> Response:
    return Response(dumps(value) + "\n", status, [reply.NO_STORE], "application/json")


def _follow(output: Output, position: int, piece: bytes) -> Iterator[bytes]:
    """`piece`, then what comes past `position`, to the last words; an empty piece has a client that left noticed."""
    is_over = False
    while piece or not is_over:
        yield piece
        is_over = output.is_over
        position, piece = output.after(position, reply.HEARTBEAT_INTERVAL)


class FeedStream:
    """The wrapper's events, from where a client was last. Ids name the run of the wrapper: a new one begins anew."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._run = format(time.time_ns(), "x")

    def known(self, text: str | None) -> int:
        """The event a client has seen last: an id of ours, a plain number, or `now`; else none at all."""
        if text == "now":
            return self._feed.last
        run, _, number = (text or "").rpartition("-")
        if run not in ("", self._run) or not values.is_number(number) or len(number) > DIGITS_MAX:
            return 0
        return int(number) if int(number) <= self._feed.last else 0

    def pieces(self, known: int, is_told: bool) -> Iterator[bytes]:
        """What is kept behind `known`, then everything as it happens, with a sign of life in between.

        Without `is_told` what problems are stays out of it.
        """
        yield f"retry: {RETRY_MS}\n\n".encode()
        while True:
            events = self._feed.after(known, reply.HEARTBEAT_INTERVAL)
            known = events[-1]["id"] if events else known
            told = events if is_told else [outlined(event) for event in events]
            yield b"".join(reply.message(event, event["kind"], f"{self._run}-{event['id']}")
                           for event in told) or reply.HEARTBEAT
            if events and events[-1]["kind"] == "end":
                return  # the wrapper ends; a client that comes back finds the next one, or none


def query_value(request: Request, name: str, default: str, parse: Callable[[str], Value]) -> Value:
    """The value of a parameter of the query, as `parse` reads it. Raises: BadRequest."""
    text = request.query.get(name, default)
    try:
        return parse(text)
    except ValueError as error:
        raise BadRequest(f"{name}={text}: {error}") from None


def _is_on(request: Request, name: str) -> bool:
    """`?name`, `?name=1` and the like; a flag that is absent is off."""
    return query_value(request, name, "off", lambda text: text == "" or values.switch(text))


def _fact(request: Request, name: str) -> str | None:
    """One text of the body's JSON object; None where there is no body, or nothing of that name in it."""
    if not request.body(BODY_LIMIT):
        return None
    document = request.json(BODY_LIMIT)
    value = document.get(name) if isinstance(document, dict) else None
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{name}: expected text")
    return value


def _reason(request: Request) -> str:
    """The reason that a request gives, and who gives it; shown wherever the state is."""
    who = "the control socket" if request.trusted else request.peer or "a local client"
    said = (request.query.get("reason") or _fact(request, "reason") or "")[:REASON_LENGTH]
    return f"{said} (asked by {who})" if said else f"asked by {who}"
