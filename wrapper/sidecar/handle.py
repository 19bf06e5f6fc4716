"""`service` as sidecar code sees it: watch a service, steer it, talk to it, change its configuration."""

from __future__ import annotations

import contextlib
import http.client
import json as json_module
from collections import namedtuple

from wrapper.config import change as configuration
from wrapper.config.connection import TimedConnection
from wrapper.deadline import Deadline
from wrapper.http1.message import joined
from wrapper.service.state import State
from wrapper.settings import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Callable, Union

    from wrapper.config.steps import Action, Check
    from wrapper.config.transaction import Content
    from wrapper.problems import Problem
    from wrapper.service.service import Service
    from wrapper.settings.address import Address

    Variable = Union[str, float, bool, None]

REQUEST_TIMEOUT = 10.0  # seconds
RESPONSE_MAX = 16 * 1024 * 1024  # bytes of a response that is read whole


class ActionFailed(Exception):
    """An action was carried out and did not end well; the message says why."""


class Answer(namedtuple("Answer", "status headers body")):
    """What the service answered; `headers` by name in lower case, repeated ones joined by ", "."""

    __slots__ = ()
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Raises: ValueError where the body is none."""
        return json_module.loads(self.body)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any, json: Any,
        headers: Mapping[str, str], most: int | None = None) -> Answer:
    """One request over a connection of its own, and the whole answer. `json`: sent as the body instead of `body`.

    Raises: OSError, also for an answer over `most` bytes; http.client.HTTPException.
    """
    if json is not None:
        body, headers = json_module.dumps(json), {"Content-Type": "application/json", **headers}
    with contextlib.closing(connection):
        connection.request(method, path, body.encode() if isinstance(body, str) else body, dict(headers))
        response = connection.getresponse()
        content = response.read() if most is None else response.read(most + 1)
        if most is not None and len(content) > most:
            raise OSError(f"the response is over {most} bytes")
        return Answer(response.status, joined(response.getheaders()), content)


class ServiceHandle:
    """One service. A handle of a helper may be held before the wrapper runs: it works from `on_start` on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._service: Service | None = None

    def bind(self, service: Service) -> ServiceHandle:
        """Make the handle one for `service`, which runs from now on. For the wrapper itself."""
        self._service = service
        return self

    @property
    def service(self) -> Service:
        """The service itself, as the wrapper's own rooms know it.

        Raises: RuntimeError before the wrapper runs.
        """
        if self._service is None:
            raise RuntimeError(f"the service {self.name!r} is not there yet: use its handle from on_start on")
        return self._service

    # Look

    @property
    def state(self) -> str:
        """`stopped starting running draining stopping backoff` or `failed`."""
        return self.service.life.state.value

    @property
    def is_ready(self) -> bool:
        """True while it runs and is ready."""
        return self.service.life.state is State.RUNNING

    @property
    def address(self) -> Address | None:
        """Where it listens inside the container, past the wrapper; None before its first start."""
        return self.service.controller.address

    def status(self) -> dict[str, Any]:
        """What `/sidecar/api/status` says of it."""
        return self.service.status()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """True as soon as it is ready, False when `timeout` seconds have passed; None waits for ever."""
        deadline, feed = Deadline(timeout), self.service.around.feed
        while True:
            known = feed.last  # before the question, so that no transition in between is missed
            if self.is_ready:
                return True
            if deadline.has_passed():
                return False
            feed.after(known, deadline.remaining())

    # Steer

    def start(self, reason: str = "asked by the sidecar", *, wait: bool = True) -> None:
        """Start it; nothing happens where it runs. The rest as for `restart`."""
        self._act("start", reason, wait)

    def stop(self, reason: str = "asked by the sidecar", *, wait: bool = True) -> None:
        """Stop it; its requests get 503 until it is started. The rest as for `restart`."""
        self._act("stop", reason, wait)

    def restart(self, reason: str = "asked by the sidecar", *, wait: bool = True) -> None:
        """Restart it; requests are held meanwhile. `wait` False: return as soon as it was asked for.

        Raises: Busy where that contradicts what is under way; ActionFailed where it did not become ready.
        """
        self._act("restart", reason, wait)

    def reload(self, reason: str = "asked by the sidecar", *, wait: bool = True) -> None:
        """Have it read its configuration again, in the way that --reload names."""
        self._act("reload", reason, wait)

    def _act(self, kind: str, reason: str, wait: bool) -> None:
        job = self.service.controller.ask(kind, reason)
        if wait and not job.wait():
            raise ActionFailed(f"cannot {kind} {self.name}: {job.error}")

    def signal(self, name: str | int) -> None:
        """Send a signal, such as "HUP", to its process; one that ends goes to its whole group.

        Raises: ValueError for no signal; Busy where no process runs.
        """
        self.service.controller.signal(values.signal_number(str(name)))

    # Talk

    def request(self, method: str, path: str, *, body: bytes | str | None = None, json: Any = None,
                headers: Mapping[str, str] | None = None, timeout: float = REQUEST_TIMEOUT) -> Answer:
        """Ask the service itself, at its internal address: no gate, no hold, nothing added but Host.

        `json`: sent as the body instead of `body`. `timeout`: seconds until the whole answer is there.
        Raises: OSError where it is not reachable or takes too long; ValueError for a response that is not HTTP.
        """
        if self.address is None:
            raise ConnectionRefusedError(f"the service {self.name!r} has not been started")
        try:
            return ask(TimedConnection(self.address, Deadline(timeout)), method, path, body, json, headers or {},
                       RESPONSE_MAX)
        except http.client.HTTPException as error:
            raise ValueError(f"{self.name} did not answer in HTTP: {error!r}") from None

    # Change

    def apply(self, files: Mapping[str, Content], check: Check = None, action: Action = "restart",
              ready_timeout: float | None = None, *, probe: Callable[..., Any] | None = None, mode: int | None = None,
              environment: Mapping[str, Variable] | None = None, reason: str = "configuration") -> list[Problem]:
        """Put files in place and make the service take them, all or nothing; an empty list where that went well.

        `files`: content by path, None where there must be no such file. `check`: a command that must exit 0 for
        `{file}`. `action`: "restart", "reload", "signal:HUP", "POST /-/reload", a callable or None. `probe(service)`
        says, by None or True, that it works. `environment`: all variables of the next run over what it inherits, None
        takes one away; a change of them restarts the service. The whole truth stands in `config/change.py`.
        """
        return configuration.apply(self.service, files, check, action=action, ready_timeout=ready_timeout, probe=probe,
                                   mode=mode, environment=environment, reason=reason, handle=self)
