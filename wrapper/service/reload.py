"""How a service is told to read its configuration again, where it can: a signal, or an HTTP call."""

from __future__ import annotations

from wrapper import sockets
from wrapper.settings import values
from wrapper.service import probe
from wrapper.service.process import Process, cannot_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.settings.address import Address
    from wrapper.service.jobs import ReloadAction

SIGNAL_SETTLE = 0.5  # seconds; a default action ends a process at once, a handler takes a little longer
RELOAD_TIMEOUT = 30.0  # seconds the service may take to answer the call


def of(action: str) -> ReloadAction | None:
    """The way that --reload names; None: a reload is a restart."""
    kind, how = values.action_parts(action)
    if kind == "restart":
        return None
    if kind == "none":
        return lambda *_: None
    return by_signal(how, SIGNAL_SETTLE) if kind == "signal" else by_call(kind, how)


def by_signal(number: int, settle: float = 0.0) -> ReloadAction:
    """A signal has no response: a service that does not live on for `settle` seconds was ended by it."""

    def send(process: Process, _: Address) -> str | None:
        try:
            process.signal(number)
        except PermissionError as error:
            return cannot_signal(error)
        return process.fault if process.ended.wait(settle) else None

    return send


def by_call(method: str, path: str) -> ReloadAction:
    """A request to the service; anything but a 2xx is a fault."""
    what = f"{method} {path.partition('?')[0]}"  # a query may hold a token

    def call(_: Process, address: Address) -> str | None:
        try:
            with sockets.connect(address, RELOAD_TIMEOUT) as connection:
                status = probe.status_of(connection, method, path, address, RELOAD_TIMEOUT)
        except (OSError, ValueError) as error:
            return f"{what}: {error}"
        return None if 200 <= status < 300 else f"{what} answers {status}"

    return call
