"""What makes the service take its new configuration: the words authors use, and how each is done."""

from __future__ import annotations

import http.client
import re
from functools import partial

from wrapper import values
from wrapper.config.bounded import verdict
from wrapper.config.timed import Connection
from wrapper.config.transaction import Fault
from wrapper.deadline import Deadline
from wrapper.errors import Busy
from wrapper.service import reload
from wrapper.service.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Union

    from wrapper.address import Address
    from wrapper.service.jobs import ReloadAction
    from wrapper.service.service import Service

    Action = Union[str, Callable[..., Any], None]

CALL_TIMEOUT = 30.0  # seconds the service may take for one call; Prometheus reads all its rules within it
ANSWER_BYTES = 16 * 1024  # of an answer that says what is wrong
SIGNAL_SETTLE = 1.0  # seconds in which a service that a signal kills is seen to fall; a signal has no answer
CALL_SETTLE = 0.2  # the same, behind a call that was answered


class Unsent(Exception):
    """Nothing of a request was sent: whatever is wrong, the files are not to blame."""


class Act:
    """One way to make the service take its files. `settle`: seconds it must live on before it counts as ready."""

    def __init__(self, service: Service, reason: str, ready_timeout: float | None, settle: float) -> None:
        self._service = service
        self._reason = reason
        self._ready_timeout = ready_timeout
        self.settle = settle

    def carry_out(self) -> None:
        """Raises: Fault. Nothing here: the service looks at its files by itself."""

    def _ask(self, kind: str, **how: Any) -> bool:
        """Have the controller do something, and wait for its end; False where it started a run, which reads its files.

        Raises: Fault.
        """
        try:
            job = self._service.controller.ask(kind, self._reason, ready_timeout=self._ready_timeout, **how)
        except Busy as error:
            raise Fault("action", error.message, retry=True) from error
        job.wait()
        if job.error is not None:
            raise Fault("action", job.error)
        if job.has_started_run:
            self.settle = 0.0
        return not job.has_started_run


class Restart(Act):
    def carry_out(self) -> None:
        self._ask("restart")


class Reload(Act):
    """The service's own way, see --reload-signal and --reload-path; without one a restart."""

    def carry_out(self) -> None:
        self._ask("reload")


class Tell(Act):
    """A way of its own to reload a service that is up: `how`, in the controller's thread, or `work`, in the caller's.

    `work` may take long, so the controller only says when no job runs and the service is up; it raises Fault.
    """

    def __init__(self, service: Service, reason: str, ready_timeout: float | None, settle: float,
                 how: ReloadAction | None = None, work: Callable[[], None] | None = None) -> None:
        super().__init__(service, reason, ready_timeout, settle)
        self._how = how
        self._work = work

    def carry_out(self) -> None:
        """A service that was down has been started by now, and has read its files."""
        if self._how is not None:
            self._ask("reload", reload=self._how)
        elif self._ask("barrier") and self._work is not None:
            self._work()


def _call(service: Service, method: str, path: str) -> None:
    what = f"{method} {path.partition('?')[0]}"  # a query may hold a token
    address = service.controller.address
    assert address is not None
    try:
        status, answer = call(address, method, path)
    except Unsent as error:
        raise Fault("action", f"{what}: {error}", retry=True) from error
    except (OSError, http.client.HTTPException) as error:  # what it asked for may be what ended the service
        raise Fault("action", f"{what}: {error or type(error).__name__}") from error
    if not 200 <= status < 300:
        raise Fault("action", f"{what} answers {status}", answer.splitlines()[-20:])


def _run(service: Service, action: Callable[..., Any], handle: Any, timeout: float) -> None:
    """The author's own code."""
    fault = verdict("the action", action, (handle,), timeout, service)
    if fault is not None:
        raise Fault("action", fault)


def of(action: Action, service: Service, handle: Any, reason: str, ready_timeout: float | None) -> Act:
    """The act for an author's word: "restart", "reload", "signal:HUP", "POST /path", "none", None or a callable.

    Raises: ValueError for any other word.
    """
    how = service, reason, ready_timeout
    if callable(action):
        timeout = ready_timeout or service.around.settings.ready_timeout
        return Tell(*how, CALL_SETTLE, work=partial(_run, service, action, handle, timeout))
    if action is None or action == "none":
        return Act(*how, SIGNAL_SETTLE)
    if action == "restart":
        return Restart(*how, 0.0)
    if action == "reload":
        return Reload(*how, SIGNAL_SETTLE)
    if not isinstance(action, str):
        raise ValueError(f"no such action: {action!r}")  # noqa: TRY004  as for any other that there is not
    if action.startswith("signal:"):
        return Tell(*how, SIGNAL_SETTLE, reload.by_signal(values.signal_number(action[len("signal:"):])))
    asked = re.fullmatch(r"([A-Z]+) (/[!-~]*)", action)
    if asked is None:
        raise ValueError(f"no such action: {action!r}; there are restart, reload, signal:HUP, POST /path and none")
    return Tell(*how, CALL_SETTLE, work=partial(_call, service, asked[1], asked[2]))


def call(address: Address, method: str, path: str) -> tuple[int, str]:
    """Status and the beginning of the body of one request without a body, straight to the service.

    Raises: Unsent where it was not even begun; OSError, http.client.HTTPException.
    """
    connection = Connection(address, Deadline(CALL_TIMEOUT))
    try:
        try:
            connection.connect()
        except OSError as error:
            raise Unsent(error.strerror or str(error)) from error
        connection.request(method, path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES).decode("utf-8", "replace")
    finally:
        connection.close()


def generation(service: Service) -> int:
    """How many runs of the service there were so far."""
    number: int = service.life.snapshot()["generation"]
    return number


def is_stopped(service: Service) -> bool:
    """True where somebody stopped the service: it reads its files when it is started again."""
    return service.life.state is State.STOPPED
