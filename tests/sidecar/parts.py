"""A site over services that are not started, and requests as the server would hand them over."""

from __future__ import annotations

from wrapper.events import Feed
from wrapper.http1.message import Request, Response
from wrapper.http1.request import normal_path, read_request
from wrapper.problems import Board
from wrapper.service.process import Spawner
from wrapper.service.service import Service, Surroundings
from wrapper.service.state import MAIN, State
from wrapper.settings import settings
from wrapper.sidecar.router import Route
from wrapper.sidecar.site import Site


class Upstream:
    def close(self):
        pass

    def doubt_kept(self):
        pass


class Body:
    """A request's body as the server hands it over, in pieces."""

    def __init__(self, *pieces):
        self._pieces = pieces

    def limit_time(self, seconds, late):
        """The time is the test's own."""

    def pieces(self):
        return iter([piece for piece in self._pieces if piece])


def surroundings(*options, command=("true", "{port}")):
    feed = Feed()
    chosen = settings.read([*options, "--", *command], {})
    return Surroundings(chosen, {}, Spawner(), feed, Board(feed), lambda address: Upstream())


def make_service(around, name=MAIN, **differences):
    return Service(name, ["true"], None, around, lambda status, planned: None, **differences)


def make_site(*options):
    around = surroundings(*options)
    return Site(around, [make_service(around)])


def with_routes(*options):
    """A site with an own path of each shape: a parameter, odd characters, a tree."""
    site = make_site(*options)
    site.add(Route("GET", "/hook/{name}", lambda request: Response(request.params["name"])))
    site.add(Route("GET", "/caf\xe9 (1)", lambda request: Response("x")))
    site.add(Route("GET", "/app", lambda request: Response(request.path), is_tree=True))
    return site


def make_request(method, target, body=b"", *, headers=(), trusted=False, peer="192.0.2.1"):
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    head = read_request(f"{method} {target} HTTP/1.1\r\nHost: test\r\n{length}{fields}\r\n".encode("latin-1"), 65536)
    return Request(head, normal_path(target), Body(body), peer, trusted)


def serve(service):
    """Have a service that was never started count as one that serves."""
    service.life.enter(State.STARTING, "a test")
    service.life.enter(State.RUNNING, "a test")
    service.gate.open(None)
