"""What makes the service take its new configuration: the words authors use, and how each is done."""

from __future__ import annotations

import http.client
from functools import partial

from wrapper.settings import values
from wrapper.config.bounded import verdict
from wrapper.config.timed import TimedConnection
from wrapper.config.transaction import Fault
from wrapper.deadline import Deadline
from wrapper.errors import Busy
from wrapper.service import reload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Union

    from wrapper.settings.address import Address
    from wrapper.service.jobs import ReloadAction
    from wrapper.service.service import Service

    Action = Union[str, Callable[..., Any], None]

CALL_TIMEOUT = 30.0  # seconds the service may take for one call; Prometheus reads all its rules within it
RESPONSE_BYTES = 16 * 1024  # of a response that says what is wrong
SIGNAL_SETTLE = 1.0  # seconds in which a service that a signal kills is seen to fall; a signal has no response
CALL_SETTLE = 0.2  # the same, behind a call that was answered


class Unsent(Exception):
    """Nothing of a request was sent: whatever is wrong, the files are not to blame."""


class Act:
    """One way to make the service take its files: `kind` of job for its controller; None: it looks at them by itself.

    `reload`: how to reload a service that is up, in the controller's thread. `work`: the same in the caller's thread,
    as it may take long; "barrier" only says when no job runs and the service is up; it raises Fault. `settle`: seconds
    the service must live on before it counts as ready.
    """

    def __init__(self, service: Service, reason: str, ready_timeout: float | None, settle: float,
                 kind: str | None = None, reload: ReloadAction | None = None,
                 work: Callable[[], None] | None = None) -> None:
        self.kind = kind
        self.settle = settle
        self._controller = service.controller
        self._job = reason, reload, ready_timeout
        self._work = work

    def carry_out(self) -> None:
        """Tell the service, and wait until it has taken its files. Raises: Fault."""
        if self.kind is None:
            return
        reason, reload, ready_timeout = self._job
        try:
            job = self._controller.ask(self.kind, reason, reload=reload, ready_timeout=ready_timeout)
        except Busy as error:
            raise Fault("action", error.message, retry=True) from error
        job.wait()
        if job.error is not None:
            raise Fault("action", job.error)
        if job.has_started_run:  # which has read its files
            self.settle = 0.0
        elif self._work is not None:
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
        return Act(*how, CALL_SETTLE, "barrier", work=partial(_run, service, action, handle, timeout))
    if action is None or action == "none":
        return Act(*how, SIGNAL_SETTLE)
    if action == "restart":
        return Act(*how, 0.0, "restart")
    if action == "reload":  # the way that --reload names
        return Act(*how, SIGNAL_SETTLE, "reload")
    try:
        kind, argument = values.action_parts(str(action))
    except ValueError as error:
        raise ValueError(f"no such action: {action!r}; {error}") from error
    if kind == "signal":
        return Act(*how, SIGNAL_SETTLE, "reload", reload.by_signal(argument))
    return Act(*how, CALL_SETTLE, "barrier", work=partial(_call, service, kind, argument))


def call(address: Address, method: str, path: str) -> tuple[int, str]:
    """Status and the beginning of the body of one request without a body, straight to the service.

    Raises: Unsent where it was not even begun; OSError, http.client.HTTPException.
    """
    connection = TimedConnection(address, Deadline(CALL_TIMEOUT))
    try:
        try:
            connection.connect()
        except OSError as error:
            raise Unsent(error.strerror or str(error)) from error
        connection.request(method, path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read(RESPONSE_BYTES).decode("utf-8", "replace")
    finally:
        connection.close()
