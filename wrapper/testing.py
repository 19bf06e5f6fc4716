"""A test kit for sidecar authors: the wrapper in the test's own process, around a service that is fake or real.

    from wrapper.testing import FakeService, running

    def test_hello():
        with running(sidecar) as wrapper:
            assert wrapper.get("/sidecar/api/hello?name=you").json() == {"hello": "you"}

    def test_the_service_is_restarted_for_new_alerts():
        service = FakeService({"GET /": "hello"})
        with running(sidecar, service=service) as wrapper:
            wrapper.post("/alerts", json=["cpu"], token=True)
            wrapper.wait_until(lambda: service.starts == 2)

Ports are chosen by the kernel, every wait ends, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import itertools
import json as json_module
import os
import signal
import threading
import time
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, Union

from wrapper import sockets, threads
from wrapper.events import Feed
from wrapper.front.server import Server
from wrapper.http1.chunked import Chunked
from wrapper.problems import Board
from wrapper.proxy.upstream import Upstream
from wrapper.service.process import GROUP_SIGNALS, Ending, Spawner
from wrapper.service.service import Service, Surroundings
from wrapper.service.state import MAIN
from wrapper.settings import address, settings
from wrapper.settings.values import signal_name
from wrapper.sidecar.extension import Sidecar
from wrapper.sidecar.handle import Answer, ServiceHandle, ask
from wrapper.sidecar.loader import Loader
from wrapper.sidecar.site import Site

PATIENCE = 10.0  # seconds after which a test is told that what it waits for will not come
TOKEN = "test-token"  # what `token=True` sends
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
PROBE = "wrapper"  # the User-Agent of the probe for readiness
FAKE_COMMAND = ("a-fake-service", "{port}")
TRAILERS_MAX = 65536  # bytes
FIRST_PID = 1_000_000_000  # above every real one (proc(5), pid_max), so that no signal can reach a stranger

Asked = namedtuple("Asked", "method path headers body")


class FakeService:
    """A service made of answers. `answers`: by "METHOD /path" (or "/path"), or one function for all requests.

    An answer is text, bytes, a dict or list (JSON), (status, body), or a function of the request that returns one. A
    request has `method`, `path` (with its query), `headers` and `body`. What has no answer is 404.
    """

    def __init__(self, answers: Mapping[str, Any] | Callable[[Asked], Any] | None = None) -> None:
        self.answers: Any = {"/": "a fake service\n"} if answers is None else answers
        self.requests: list[Asked] = []  # all it was asked, the wrapper's probe excepted
        self.signals: list[str] = []  # that it was sent, TERM and KILL among them
        self.starts = 0
        self.environment: dict[str, str] = {}  # of the latest run
        self.fails_to_start = False  # the next runs end with status 1 at once
        self.runs: list[FakeProcess] = []  # for the kit itself

    def crash(self, status: int = 1) -> None:
        """End by itself."""
        self.runs[-1].end(status)

    def answer(self, asked: Asked) -> tuple[int, bytes, str]:
        """Status, body and content type. For the kit itself."""
        if asked.headers.get("User-Agent") != PROBE:
            self.requests.append(asked)
        found, path = self.answers, asked.path.partition("?")[0]
        if isinstance(found, Mapping):
            found = found.get(f"{asked.method} {path}", found.get(path, (404, "not found\n")))
        if callable(found):
            found = found(asked)
        status, body = found if isinstance(found, tuple) else (200, found)
        if isinstance(body, (dict, list)):
            return status, json_module.dumps(body).encode(), "application/json"
        return status, body.encode() if isinstance(body, str) else bytes(body or b""), "text/plain; charset=utf-8"


class FakeProcess(Ending):
    """One run of a fake service, as `wrapper.service.process.Process` looks to the controller."""

    _pids = itertools.count(FIRST_PID)

    def __init__(self, service: FakeService, port: int, *on_end: Callable[[Any], None]) -> None:
        self.pid = next(self._pids)
        self.ended = threading.Event()
        self.returncode: int | None = None
        self.is_stopping = False
        self._service = service
        self._on_end = on_end
        # Guards the return code, so that a run ends once.
        self._lock = threading.Lock()
        self._server: FakeServer | None = None
        if service.fails_to_start:
            self.end(1)
        else:
            self._server = FakeServer(service, port)
            threads.start("fake-service", self._server.serve_forever, 0.05)

    def signal(self, number: int) -> None:
        if self.returncode is None:
            self._service.signals.append(signal_name(number))
            if number in GROUP_SIGNALS:
                self.end(-number)

    def refusal(self) -> str | None:
        return None

    def listening(self) -> list[address.Address]:
        return []

    def begin_stop(self, number: int, timeout: float) -> None:
        self.is_stopping = True
        self.signal(number)

    def await_stop(self) -> bool:
        return self.ended.wait(PATIENCE)

    def end(self, returncode: int) -> None:
        with self._lock:
            if self.returncode is not None:
                return
            self.returncode = returncode
        if self._server is None:
            self.ended.set()
        # Not in the thread that serves, which would wait for itself, and not in the one that spawns.
        threads.start("fake-service-end", self._end)

    def _end(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        self.ended.set()
        for tell in self._on_end:
            tell(self)


class FakeServer(http.server.ThreadingHTTPServer):
    request_queue_size = 100

    def __init__(self, service: FakeService, port: int) -> None:
        self.service = service
        super().__init__(("127.0.0.1", port), FakeHandler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # a client that left, such as the wrapper's probe


class FakeHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeServer

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        status, body, content_type = self.server.service.answer(Asked(
            self.command, self.path, self.headers, self._body()))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunked, body = Chunked(TRAILERS_MAX), b""
        while not chunked.is_done and (line := self.rfile.readline()):
            body += b"".join(chunked.feed(line))
        return body

    def log_message(self, format: str, *args: Any) -> None:
        return


class KitSpawner(Spawner):
    """Runs the fake service in this process, and every other command for real; never touches the terminal."""

    def __init__(self, fake: FakeService | None) -> None:
        super().__init__()
        self._terminal = False  # pytest's, not ours to give away
        self._fake = fake

    def spawn(self, command: Sequence[str], environment: Mapping[str, str], on_end: Callable[[Any], None],
              **streams: Any) -> Any:
        if self._fake is None or command[0] != FAKE_COMMAND[0]:
            return super().spawn(command, environment, on_end, **streams)
        self._fake.environment = dict(environment)
        process = FakeProcess(self._fake, int(command[1]), streams["on_leader_end"], on_end)
        self._fake.starts += 1
        self._fake.runs.append(process)
        return process


class Wrapper:
    """A running wrapper, and a client for it. Made by `running`."""

    def __init__(self, site: Site, server: Server) -> None:
        self.service = ServiceHandle(MAIN).bind(site.services[0])
        self.port: int = server.socket.getsockname()[1]
        self.site = site

    # Requests, through the exposed port

    def request(self, method: str, path: str, *, body: bytes | str | Iterable[bytes] | None = None, json: Any = None,
                headers: Mapping[str, str] | None = None, token: bool = False) -> Answer:
        """One request; `token` True sends the right token. A body in pieces is sent chunked."""
        fields = {**(headers or {}), **(AUTHORIZED if token else {})}
        return ask(self._connection(), method, path, body, json, fields)

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Answer:
        return self.request("POST", path, **options)

    @contextlib.contextmanager
    def stream(self, path: str, *, token: bool = False) -> Iterator[Iterator[str]]:
        """The lines of a response as they come, for streams and server-sent events."""
        with contextlib.closing(self._connection()) as connection:
            connection.request("GET", path, headers=AUTHORIZED if token else {})
            response = connection.getresponse()
            assert response.status == 200, (response.status, response.read())
            yield (line.decode("utf-8", "replace").rstrip("\r\n") for line in response)

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    # What is known

    def problems(self) -> list[dict[str, Any]]:
        """What `/sidecar/api/problems` says."""
        return self.site.around.board.list()

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """What happened so far, oldest first; of one `kind`, such as "state" or "problem", or of all."""
        return [event for event in self.site.around.feed.after(0) if kind in ("", event["kind"])]

    def metrics(self) -> str:
        """What the sidecar's own metrics say, as text."""
        return self.site.registry.render()

    # Waits

    def wait_until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """The first true value of `condition()`; fails the test when none comes in time."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < end, f"it did not happen in {timeout} s; the problems are {self.problems()}"
            time.sleep(0.01)  # a test's own poll, not a wait of the wrapper's
        return value

    def wait_problem(self, text: str = "", timeout: float = PATIENCE) -> dict[str, Any]:
        """The first problem whose message holds `text`."""
        found: dict[str, Any] = self.wait_until(
            lambda: next((problem for problem in self.problems() if text in problem["message"]), None), timeout)
        return found


@contextlib.contextmanager
def running(*sidecars: Union[Sidecar, str], service: FakeService | None = None, command: Sequence[str] | None = None,
            wait: bool = True, **options: Any) -> Iterator[Wrapper]:
    """The wrapper with these sidecars (or modules and files, as for `--sidecar`), around `service` or a real `command`.

    `options` are the wrapper's own, such as `hold="5s"` or `capture_output=True`. `wait`: until the service is ready.
    """
    fake = None if command is not None else service or FakeService()
    chosen = settings.read([*_words({"token": TOKEN, "hold": "5s", **options}), "--", *(command or FAKE_COMMAND)], {})
    feed = Feed()
    around = Surroundings(chosen, dict(os.environ), KitSpawner(fake), feed, Board(feed),
                          lambda address: Upstream(address, chosen.upstream_keepalive))
    # In a test the wrapper outlives its service.
    main = Service(MAIN, chosen.command, chosen.upstream, around, lambda *_: None)
    site = Site(around, [main])
    server = Server(sockets.listen(address.tcp("127.0.0.1", 0)), site, chosen)
    server.start()
    loader = Loader(site)
    wrapper = Wrapper(site, server)
    try:
        main.controller.launch()
        for number, sidecar in enumerate(sidecars):
            if isinstance(sidecar, str):
                loader.load(sidecar)
            else:
                loader.bring_to_life(sidecar, sidecar.name or (f"sidecar-{number}" if number else "sidecar"))
        if wait:
            assert wrapper.service.wait_ready(PATIENCE), f"the service is not ready: {wrapper.problems()}"
        yield wrapper
    finally:
        _end(loader, site, server)


def _end(loader: Loader, site: Site, server: Server) -> None:
    loader.announce_end()
    for service in site.services:
        service.controller.shut_down(signal.SIGTERM)
    server.stop()
    for service in site.services:
        service.controller.over.wait(PATIENCE)
    loader.stop()
    server.close_connections()


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as on the command line; lists give one several times."""
    words = []
    for name, value in options.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            text = str(one).lower() if isinstance(one, bool) else str(one)
            words.append(f"--{name.replace('_', '-')}={text}")
    return words


