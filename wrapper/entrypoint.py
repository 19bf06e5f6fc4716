"""PID 1: builds the parts, then turns signals and exits into actions until the end.

The order is the point. The port is bound before the service is spawned, the service is spawned before anything slow is
imported, and from then on this thread only reads one queue.
"""

from __future__ import annotations

import errno
import signal
import sys

from wrapper import sockets, threads
from wrapper.config import journal
from wrapper.ctl.paths import candidates
from wrapper.deadline import Deadline
from wrapper.errors import CannotStart, Refusal
from wrapper.events import Feed
from wrapper.log import log
from wrapper.problems import Board
from wrapper.service.process import Spawner, cannot_start
from wrapper.service.service import Helper, Service, Surroundings
from wrapper.service.state import MAIN, stop_timeout
from wrapper.settings.values import signal_name
from wrapper.signals import END_SIGNALS, Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from wrapper import gate
    from wrapper.config.subscription import Subscription
    from wrapper.front.server import Server
    from wrapper.settings.address import Address
    from wrapper.settings.settings import Settings
    from wrapper.sidecar.loader import Loader
    from wrapper.sidecar.site import Site

UNIX_MODE = 0o660  # of a unix socket as the exposed port: for its owner and group, whatever the umask
LISTENER_FAILED = 1  # exit status
WAYS_OUT = {errno.EADDRINUSE: "another process is there; choose another port with --listen",
            errno.EADDRNOTAVAIL: "this machine has no such address; --listen :PORT takes all that it has",
            errno.EACCES: "ports below 1024 are not for this user; choose a higher one with --listen"}
END_MARGIN = 1.0  # seconds beside those to drain and to stop, for what is killed to be seen to end
RESPONSE_INTERVAL = 0.01  # seconds between two polls whether all responses are out, at the very end
SWITCH_INTERVAL = 0.0001  # seconds a thread may keep the interpreter while others wait; CPython's default is 0.005


class Entrypoint:
    """The service behind the wrapper, from its settings to its end."""

    def __init__(self, settings: Settings, signals: Signals, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._signals = signals
        self._inbox = signals.inbox
        self._spawner = Spawner(signals.mask, signals.ignored, sockets.raise_limit(), adopts=True)
        self._ending = END_SIGNALS | {settings.stop_signal}
        feed = Feed()
        self._board = Board(feed)
        self._around = Surroundings(settings, environment, self._spawner, feed, self._board,
                                    lambda address: _make_upstream(address, settings),
                                    lambda *_: self._inbox.put(("helper",)), keeps_history=True)
        self._service = Service(MAIN, settings.command, settings.upstream, self._around,
                                lambda *over: self._inbox.put(("over", *over)))
        self._helpers = [Helper(name, command, None, self._around, route=route)
                         for name, route, command in settings.helper]
        self._site: Site | None = None
        self._loader: Loader | None = None
        self._server: Server | None = None
        self._control: Server | None = None
        self._subscription: Subscription | None = None
        self._next_reaping = Deadline(0.0)  # what ended before we listened sent no CHLD
        self._asked: int | None = None  # the signal that began --shutdown-delay, while that lasts
        self._delay = Deadline(None)
        self._end: Deadline | None = None  # for all that runs, once it is told to end
        self._drained = Deadline(0.0)  # for all that is being answered when nothing runs any more
        self._is_hurried = False  # a second signal to end has come: no response is waited for
        self._exit_status: int | None = None

    def run(self) -> int:
        """Returns the wrapper's exit status, once all is over. Raises: CannotStart before anything runs."""
        listener = self._listen()
        try:
            self._before_start()
            self._service.controller.launch()
        except CannotStart:
            self._spawner.kill_rest()
            listener.close()
            raise
        try:
            self._signals.await_blocked()
            self._serve(listener)
            return self._await_end()
        except Exception as error:  # no descriptor, no thread: a service that cannot be reached or stopped is of no use
            raise CannotStart(f"cannot serve: {str(error) or type(error).__name__}", LISTENER_FAILED) from error
        finally:
            self._close()

    # Start

    def _listen(self) -> socket.socket:
        try:
            return sockets.listen(self._settings.listen, UNIX_MODE)
        except OSError as error:
            way_out = WAYS_OUT.get(error.errno or 0, "choose another address with --listen")
            raise CannotStart(f"cannot listen at {self._settings.listen}: {error.strerror or error}; {way_out}",
                              LISTENER_FAILED) from error

    def _before_start(self) -> None:
        """Mend what a crash left half done, and put configuration in place, before the service reads any."""
        settings = self._settings
        past = self._past()
        journal.repair(filter(None, (settings.config_file, past)), journal.own_folder(journal.INDEX, make=False))
        if past is not None:
            from wrapper.config import history  # start-up: only where a version of an earlier run may be

            for service in (self._service, *self._helpers):
                history.recall(service)
        if settings.config_source is not None:
            try:
                threads.start("first-configuration", self._configure)
            except threads.NoThread as error:
                raise cannot_start(error) from error
            self._await_configuration()

    def _past(self) -> str | None:
        """The folder of earlier versions, where what gives the service its configuration may have left one."""
        settings = self._settings
        if not (settings.config_source or settings.sidecar):
            return None
        if not settings.config_history and journal.own_folder(journal.HISTORY, make=False) is None:
            return None
        from wrapper.config import history  # start-up: as above

        return history.folder_of(settings)

    def _configure(self) -> None:
        try:
            from wrapper.config import declare  # start-up: only with --config-source

            self._subscription = declare.before_start(self._settings, self._service)
        finally:
            self._inbox.put(("configured",))

    def _await_configuration(self) -> None:
        """Wait for the first configuration. Messages that come meanwhile keep; a signal to end is heard at once.

        Raises: CannotStart.
        """
        early = []
        while (message := self._inbox.get(None)) is not None and message[0] != "configured":
            if message[0] == "signal" and message[1] in self._ending:
                name = signal_name(message[1])
                raise CannotStart(f"signal {name} came before the service was started", 128 + message[1])
            early.append(message)
        for message in early:
            self._inbox.put(message)

    def _serve(self, listener: socket.socket) -> None:
        from wrapper.front.server import Server  # start-up: http.server costs 20 ms, the service must not wait
        from wrapper.sidecar.loader import Loader
        from wrapper.sidecar.site import Site

        sys.setswitchinterval(SWITCH_INTERVAL)
        self._site = Site(self._around, [self._service, *self._helpers])
        self._server = Server(listener, self._site, self._settings)
        self._site.dashboard.watch(self._server)
        self._server.start()
        control = self._serve_control()
        log.info("serving", listen=str(self._settings.listen), service=str(self._service.controller.address),
                 control=control)
        for helper in self._helpers:
            helper.launch()
        if self._subscription is not None:
            self._site.subscriptions.append(self._subscription)
            self._subscription.start()
        self._loader = Loader(self._site)
        self._loader.start(self._settings.sidecar)

    def _serve_control(self) -> str | None:
        """Serve the control socket; returns its path, None where none can be had, which is a problem and no end."""
        from wrapper.sidecar.control import ControlServer  # start-up: as above

        assert self._site is not None
        for path in [self._settings.control] if self._settings.control else candidates():
            try:
                self._control = ControlServer(path, self._site)
                self._control.start()
                return path
            except OSError as error:
                cause = f"{path}: {error.strerror or error}"
                if error.errno == errno.EADDRINUSE:
                    log.warning("another wrapper, or another program, has a place for the control socket", path=path)
        self._board.report("control", f"no control socket, ctl and health will not work: {cause}; choose one "
                           "with --control")
        return None

    # Until the end

    def _await_end(self) -> int:
        while self._exit_status is None:
            self._hear(self._delay)
            if self._delay.has_passed():
                self._end_delay()
        return self._exit_status

    def _hear(self, deadline: Deadline) -> None:
        """Take one message and act on it, or reap where that is due; for nothing longer than until `deadline`."""
        due = self._next_reaping.remaining()
        message = self._inbox.get(deadline.remaining() if due is None else deadline.sooner(due))
        if message is None:
            self._reap()
        elif message[0] == "over":
            status, planned = message[1:]
            # --exit-status renames the end of a planned stop, never that of a crash.
            self._exit_status = dict(self._settings.exit_status).get(status, status) if planned else status
        elif message[0] == "signal":
            self._on_signal(message[1])

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number in self._ending:
            self._hear_end(number)
        else:
            try:
                self._service.controller.signal(number)
            except Refusal as error:
                log.warning(str(error))

    def _reap(self) -> None:
        self._next_reaping = Deadline(self._spawner.reap_orphans())

    def _hear_end(self, number: int) -> None:
        """The first signal begins --shutdown-delay: not ready any more, all is served on. A second one ends that."""
        if self._settings.shutdown_delay and self._asked is None and self._end is None:
            self._asked, self._delay = number, Deadline(self._settings.shutdown_delay)
            self._service.is_leaving = True
            if self._server is not None:
                self._server.leave()
            log.info(f"signal {signal_name(number)}: not ready any more, still serving")
            return
        self._end_delay()
        self._shut_down(number)

    def _end_delay(self) -> None:
        number, self._asked, self._delay = self._asked, None, Deadline(None)
        if number is not None:
            self._shut_down(number)

    def _shut_down(self, number: int) -> None:
        """Pass the signal on, before anything that may fail or take a while; then take no further clients."""
        is_second = self._end is not None
        self._tell_services(number)
        log.info(f"signal {signal_name(number)}: {'again, passed on at once' if is_second else 'shutting down'}")
        if is_second:
            self._is_hurried = True
            return
        self._drained = Deadline(self._settings.drain_timeout)
        self._stop_listening()
        if self._loader is not None:
            self._loader.announce_end()

    def _tell_services(self, number: int) -> None:
        """Tell all services to end, at the same time: all take no longer than one. The next calls pass signals on."""
        if self._end is None:
            self._end = Deadline(self._settings.drain_timeout + stop_timeout(self._settings, is_last=True) + END_MARGIN)
        for service in self._site.close_services() if self._site is not None else self._services():
            service.controller.shut_down(number if service is self._service else signal.SIGTERM)

    def _services(self) -> list[Service]:
        return list(self._site.services) if self._site is not None else [self._service, *self._helpers]

    def _stop_listening(self) -> None:
        if self._server is not None:
            threads.start_or_do("server-stop", self._server.stop)

    def _close(self) -> None:
        """End what still runs, pass the last output on, remove the control socket, and give the terminal back."""
        if self._end is None:
            self._tell_services(signal.SIGTERM)
            self._stop_listening()
            self._drained = Deadline(END_MARGIN)
        self._await_services()
        if self._loader is not None:
            self._loader.stop()
        assert self._end is not None
        for service in self._services():
            if service.output is not None:
                service.output.end(self._end)
        self._await_responses()
        if self._control is not None:
            self._control.stop()
        if self._site is not None:
            self._site.finish()
        self._spawner.take_terminal_back()

    def _await_services(self) -> None:
        """Wait until all services are over, and hear signals meanwhile; kill what is not over in time."""
        assert self._end is not None
        while not (all(each.controller.over.is_set() for each in self._services()) or self._end.has_passed()):
            self._hear(self._end)
        self._spawner.kill_rest()

    def _await_responses(self) -> None:
        """Wait until all have a response: those held, or in flight when the service fell, and those of own paths."""
        servers = [server for server in (self._server, self._control) if server is not None]
        if self._server is not None:
            self._server.shut()
        told = Deadline(END_MARGIN)  # what the services' end means to a client is known only now
        while any(server.is_answering for server in servers) and not self._is_hurried:
            if self._drained.has_passed() and told.has_passed():
                break
            self._hear(Deadline(RESPONSE_INTERVAL))


def _make_upstream(address: Address, settings: Settings) -> gate.Connections:
    from wrapper.proxy.upstream import Upstream  # start-up: http.client costs 19 ms

    return Upstream(address, settings.upstream_keepalive)
