"""One service, whole: everything that belongs to it, and nothing that belongs to another, hangs on one object."""

from __future__ import annotations

import os
import signal
import threading

from wrapper.errors import CannotStart
from wrapper.gate import Gate
from wrapper.service.controller import Controller
from wrapper.service.launcher import Launcher
from wrapper.service.lifecycle import Lifecycle
from wrapper.service.output import Output
from wrapper.service.probe import Health, Probe, reload_action
from wrapper.service.restart import RestartPolicy
from wrapper.service.state import MAIN, Life

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Callable

    from wrapper import gate
    from wrapper.events import Feed
    from wrapper.problems import Board
    from wrapper.service.process import Spawner
    from wrapper.settings.address import Address
    from wrapper.settings.settings import Settings


class Surroundings:
    """What all services of one wrapper share."""

    def __init__(self, settings: Settings, environment: Mapping[str, str], spawner: Spawner, feed: Feed, board: Board,
                 make_upstream: Callable[[Address], gate.Connections],
                 on_helper_over: Callable[[int, bool], None] = lambda *_: None, *, keeps_history: bool = False) -> None:
        self.settings = settings
        self.environment = environment
        self.spawner = spawner
        self.feed = feed
        self.board = board
        self.make_upstream = make_upstream
        self.on_helper_over = on_helper_over  # a helper's end ends nothing else
        self.keeps_history = keeps_history  # of configuration, on disk


class Service:
    """A named service with its gate, its controller, its record and, with --capture-output, its last output.

    `route` is the path a helper answers under, "" for the main service.
    """

    def __init__(self, name: str, command: Sequence[str], upstream: Address | None, around: Surroundings,
                 on_over: Callable[[int, bool], None], *, route: str = "", **differences: Any) -> None:
        settings = around.settings
        self.name = name
        self.route = route
        self.command = os.path.basename(command[0])
        self.around = around
        # Held through one change of the service's configuration, so that a fault has one change to blame.
        self.changing = threading.Lock()
        self.variables: Mapping[str, str | None] = {}  # of its next run, from its configuration
        self.history: Any = None  # of its configuration, see `config.history.of`
        self.life = Life(name, around.feed, around.board)
        health = Health(self.life, Probe(differences.get("ready_path", settings.ready_path), settings.ready_status),
                        differences.get("live_path", settings.live_path), settings)
        self.gate = Gate(around.make_upstream, settings.hold,
                         settings.max_connections if settings.hold_max is None else settings.hold_max,
                         settings.max_in_flight, health.doubt)
        self.is_leaving = False  # the wrapper is about to shut down and still serves
        self.output = Output(around.board, name, settings.output_prefix) if settings.capture_output else None
        launcher = Launcher(command, upstream, around.environment, around.spawner, self.output,
                            is_background=name != MAIN, variables=settings.env if name == MAIN else (),
                            configured=lambda: self.variables)
        lifecycle = Lifecycle(self.life, self.gate, launcher, health,
                              RestartPolicy(differences.get("restart", settings.restart), settings.backoff), settings,
                              differences.get("stop_signal", settings.stop_signal),
                              reload_action(differences.get("reload", settings.reload)))
        self._restart_mode = "overlap" if lifecycle.overlaps else "replace"
        self.controller = Controller(lifecycle, on_over)

    def status(self) -> dict[str, Any]:
        """The record, with how many requests are on the road and how many wait. Holds no argument and no secret.

        `command` is the program's name, `upstream` where it listens now, `restart_mode` what a restart will be.
        """
        address = self.controller.address
        known = self.life.snapshot()
        known["ready"] = known["ready"] and self.gate.is_open  # its run may have ended while another is brought up
        return {**known, "in_flight": self.gate.in_flight, "held": self.gate.held,
                "paused": self.gate.paused or None, "command": self.command,
                "upstream": None if address is None else str(address), "restart_mode": self._restart_mode}

    def readiness(self) -> str | None:
        """None while requests are served, or held for a planned restart; else why not."""
        if self.is_leaving:
            return "the wrapper is about to shut down"
        if (self.gate.is_open and self.life.unready is None) or self.life.is_restarting:
            return None
        return f"the service is {self.life.state.value}: {self.life.unready or self.life.reason}"


class Helper(Service):
    """A second service beside the main one: what happens to it is a problem, never the container's end.

    `restart` None: as --restart says.
    """

    def __init__(self, name: str, command: Sequence[str], upstream: Address | None, around: Surroundings, *, route: str,
                 ready_path: str | None = None, restart: str | None = None) -> None:
        super().__init__(name, command, upstream, around, around.on_helper_over, route=route,
                         ready_path=ready_path, restart=restart or around.settings.restart,
                         stop_signal=signal.SIGTERM, live_path=None, reload="restart")

    def launch(self) -> None:
        try:
            self.controller.launch_aside()
        except CannotStart as error:
            self.life.report(str(error))
