"""How a service is told to read its configuration again, where it can: a signal, or an HTTP call."""

from __future__ import annotations

from wrapper import sockets
from wrapper.service import probe
from wrapper.service.process import Process, cannot_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.address import Address

SIGNAL_SETTLE = 0.5  # seconds; a default action ends a process at once, a handler takes a little longer
RELOAD_TIMEOUT = 30.0  # seconds the service may take to answer the call


def by_signal(number: int, settle: float = 0.0) -> Callable[[Process, Address], str | None]:
    """A signal has no response: a service that does not live on for `settle` seconds was ended by it."""

    def send(process: Process, _: Address) -> str | None:
        try:
            process.signal(number)
        except PermissionError as error:
            return cannot_signal(error)
        return process.fault if process.ended.wait(settle) else None

    return send


def by_path(path: str) -> Callable[[Process, Address], str | None]:
    """POST to `path`; anything but a 2xx is a fault."""
    what = f"POST {path.partition('?')[0]}"  # a query may hold a token

    def post(_: Process, address: Address) -> str | None:
        try:
            with sockets.connect(address, RELOAD_TIMEOUT) as connection:
                status = probe.status_of(connection, "POST", path, address, RELOAD_TIMEOUT)
        except (OSError, ValueError) as error:
            return f"{what}: {error}"
        return None if 200 <= status < 300 else f"{what} answers {status}"

    return post
