"""How one service is started: its command, its port and its environment."""

from __future__ import annotations

import os
from subprocess import DEVNULL, SubprocessError

from wrapper import sockets
from wrapper.service.process import HELPER_VARIABLE, Process, Spawner, cannot_start
from wrapper.service.state import Run
from wrapper.settings.address import LOOPBACK, Address, tcp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Callable

    from wrapper.service.output import Output
    from wrapper.service.state import Life

PLACEHOLDER = "{port}"
LAST_LINES_TIMEOUT = 0.1  # seconds: requests are held meanwhile, and a grandchild may keep the pipe open
LOOPBACK_6 = "::1"  # where "localhost" may lead alone, as in Node 17 and later
LATE_SECONDS = 5.0  # of readiness after which a service does not find its port taken any more
MORE_PORTS = 5  # of those that were lost to another process; after that something else must be wrong


class Launcher:
    """Starts runs of one command. `upstream` None: every run gets a free loopback port of its own.

    A new port each time also means that no leftover of an earlier run can answer in place of the new one.
    `is_background`: the run gets neither stdin nor the terminal. `variables` come over the environment, and between
    the two what `configured()` says at each launch; None takes one away.
    """

    def __init__(self, command: Sequence[str], upstream: Address | None, environment: Mapping[str, str],
                 spawner: Spawner, output: Output | None, *, is_background: bool = False,
                 variables: Sequence[tuple[str, str]] = (),
                 configured: Callable[[], Mapping[str, str | None]] = dict) -> None:
        self._command = tuple(command)
        self._upstream = upstream
        self._environment = environment
        self._spawner = spawner
        self._output = output
        self._is_background = is_background
        self._variables = tuple(variables)
        self._configured = configured
        self._port = 0  # of the latest run
        self._more_ports = MORE_PORTS
        self.draws_ports = upstream is None

    def last_lines(self) -> list[str]:
        """The last lines of the service's output; none where it is not kept."""
        return [] if self._output is None else self._output.last_lines(LAST_LINES_TIMEOUT)

    def launch(self, life: Life, on_leader_end: Callable[[Process], None], *, beside: bool = False) -> Run:
        """Start a run. `beside` another, it leaves the terminal to that, see `take_over`.

        `on_leader_end`: see `Process`; requests are held from then on, whatever the controller's thread is busy with.

        Raises: CannotStart, whatever the cause: no such command, no descriptor, no thread.
        """
        try:
            address = self._choose_address()
            _report_squatter(address, life)
            port_was_free = sockets.is_free(address)
            process = self._spawn(address, lambda _: life.wake_up.set(), on_leader_end, beside=beside)
            others = (tcp(LOOPBACK_6, address.port),) if self.draws_ports else ()
            return Run(process, address, life.title, others, port_was_free=port_was_free)
        except (OSError, RuntimeError, SubprocessError) as error:
            raise cannot_start(error) from error

    def _choose_address(self) -> Address:
        if self._upstream is not None:
            return self._upstream
        before = self._port
        while self._port == before or not sockets.is_free(tcp(LOOPBACK_6, self._port)):
            self._port = sockets.free_port()
        return tcp(LOOPBACK, self._port)

    def _spawn(self, address: Address, on_end: Callable[[Process], None],
               on_leader_end: Callable[[Process], None], *, beside: bool) -> Process:
        """Raises: see `Spawner.spawn`."""
        command = [word.replace(PLACEHOLDER, str(address.port)) for word in self._command]
        how: dict[str, Any] = {"is_background": self._is_background or beside, "is_helper": self._is_background,
                               "on_leader_end": on_leader_end}
        if self._is_background:
            how["stdin"] = DEVNULL
        streams = () if self._output is None else self._output.streams()
        how.update(zip(("stdout", "stderr"), streams))
        try:
            return self._spawner.spawn(command, self._environment_at(address), on_end, **how)
        finally:
            for stream in streams:
                os.close(stream)

    def has_lost_port(self, run: Run) -> bool:
        """True where a port that was drawn went to another process before the run could bind it: it gets another.

        A run that ends with 0 did not fail to bind it: it went into the background.
        """
        is_late = run.ready_seconds > LATE_SECONDS or not self._more_ports or not run.process.exit_status
        if is_late or not self.draws_ports or sockets.is_free(run.address, closed=True):
            return False
        self._more_ports -= 1
        return True

    def take_over(self, process: Process) -> None:
        """Give the terminal to a run that was started beside another, and counts from now on."""
        if not self._is_background:
            self._spawner.bring_to_foreground(process)

    def _environment_at(self, address: Address) -> Mapping[str, str]:
        """The environment of a run: what we inherited, its configuration, --env, and PORT with the port inside.

        Processes that a helper leaves behind are told from those of the main service by a variable.
        """
        port = str(address.port)
        changes = {name: text.replace(PLACEHOLDER, port) for name, text in self._variables}
        if "PORT" in self._environment and not address.is_unix:
            changes = {"PORT": port, **changes}
        if self._is_background:
            changes[HELPER_VARIABLE] = "1"
        return changed(self._environment, {**self._configured(), **changes})


def changed(environment: Mapping[str, str], variables: Mapping[str, str | None]) -> Mapping[str, str]:
    """`environment` with `variables` over it; None takes one away."""
    return {name: text for name, text in {**environment, **variables}.items() if text is not None}


def _report_squatter(address: Address, life: Life) -> None:
    """Report a leftover that kept the port: it would be taken for the new run, and answer as the old version."""
    if sockets.is_free(address, closed=True):
        life.resolve("address")
    else:
        life.report(f"another process listens at {address} already, and may be asked instead of the service; "
                    "end it, or choose another port with --upstream", "address")
