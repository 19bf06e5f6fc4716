"""Where a sidecar lives once the wrapper runs: its declarations become routes, threads, watches and services."""

from __future__ import annotations

import functools
import threading
import time

from wrapper import threads
from wrapper.config import history
from wrapper.config.change import subscribe
from wrapper.config.source import document
from wrapper.config.subscription import SLOW_SECONDS
from wrapper.service.service import Helper
from wrapper.settings import address
from wrapper.sidecar.handle import ServiceHandle
from wrapper.sidecar.isolation import Guard, fitting, numbered
from wrapper.sidecar.mount import Mount
from wrapper.sidecar.reply import StreamSlots, response_of
from wrapper.sidecar.router import Route

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable

    from wrapper.config.source import Snapshot, Source
    from wrapper.config.subscription import Pace, Subscription
    from wrapper.deadline import Deadline
    from wrapper.events import Feed
    from wrapper.http1.message import Request, Response
    from wrapper.problems import Problem
    from wrapper.sidecar.mount import Application
    from wrapper.sidecar.router import Handler
    from wrapper.sidecar.site import Site

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a task that failed is called again; doubles
STEADY_SECONDS = 60.0  # after which a task that failed before counts as well again


class Host:
    """One sidecar in a running wrapper: what it declares is carried out here."""

    def __init__(self, name: str, site: Site) -> None:
        self.site = site
        self._around = site.around
        self.guard = Guard(name, site.around.board)
        self._slots = StreamSlots(site.access)
        self._main = ServiceHandle(site.services[0].name).bind(site.services[0])
        self._stopping = threading.Event()
        self._subscriptions: list[Subscription] = []
        self._watches: list[str] = []
        self._tasks: list[threading.Thread] = []
        self.hooks = Hooks(self.guard, self._main, site.around.feed)

    def announce_end(self) -> None:
        """Tell the tasks and watches that it is over; returns at once."""
        self._stopping.set()
        for subscription in list(self._subscriptions):
            subscription.stop()

    def stop(self, deadline: Deadline) -> None:
        """Let the hooks hear of the last exit, and the tasks end that heed `stopping`."""
        self.hooks.finish(deadline)
        for task in list(self._tasks):
            task.join(deadline.remaining())

    # Requests

    def answer(self, what: str, handler: Callable[..., Any], timeout: float | None, limit: int) -> Handler:
        work = fitting(handler)

        def respond(request: Request) -> Response:
            request.limit = limit
            slots, is_head = self._slots.of(request), request.method == "HEAD"
            return self.guard.answer(what, request, lambda: response_of(
                work(request, self._main), self.guard, what, slots, is_head), timeout)

        return respond

    def add_mount(self, root: str, application: Application, timeout: float | None, guarded: bool,
                  is_shared: bool) -> None:
        mount = Mount(root, application, self._around.settings, self.guard, self._slots)

        def respond(request: Request) -> Response:
            return self.guard.answer(f"mount {root}", request, lambda: mount.answer(request), timeout)

        self.site.add(Route("GET", root, respond, guarded, is_shared=is_shared, is_tree=True))

    # In the background

    def add_task(self, name: str, function: Callable[..., Any]) -> None:
        work = fitting(function)
        self._tasks.append(threads.start(f"{self.guard.name} task {name}", run_task, f"task {name}",
                                         lambda: work(self._main, self._stopping), self.guard, self._stopping))

    def add_watch(self, name: str, source: Source, function: Callable[..., Any], pace: Pace,
                  select: Callable[[Any], Any] | None) -> None:
        work = fitting(function)
        title = f"{self.guard.name}.{numbered(name, self._watches)}"

        def read(snapshot: Snapshot) -> Any:
            found = document(snapshot, must_be_json=select is not None)
            return found if select is None else select(found)

        subscription = subscribe(self.site.services, title, source, lambda value: work(value, self._main), pace, read)
        self._subscriptions.append(subscription)
        self.site.subscriptions.append(subscription)
        subscription.start()

    # Services

    def add_service(self, handle: ServiceHandle, command: Sequence[str], *, route: str, upstream: str | None,
                    ready_path: str | None, restart: str) -> None:
        """Start a helper service. Raises: ValueError where its name or path is taken; Busy while the wrapper ends."""
        helper = Helper(handle.name, command, address.parse(upstream) if upstream else None, self._around, route=route,
                        ready_path=ready_path, restart=restart)
        self.site.add_service(helper)
        handle.bind(helper)
        history.recall(helper)
        helper.launch()

    # What is wrong

    def report(self, problem: Problem) -> None:
        self._around.board.report(self.guard.source, problem.message, problem.key, **problem.details)

    def resolve(self, key: str) -> None:
        self._around.board.resolve(self.guard.source, key)


def run_task(what: str, work: Callable[[], Any], guard: Guard, stopping: threading.Event) -> None:
    """Do `work` until it returns, or the wrapper ends; where it raises, do it again after a pause."""
    pause = FIRST_PAUSE
    while not stopping.is_set():
        # A task that goes on for a while after it failed is well again; it cannot say so itself.
        steady = (threads.start_watchdog(f"{what} steady", STEADY_SECONDS, guard.went_well, what)
                  if pause > FIRST_PAUSE else None)
        began = time.monotonic()
        if guard.attempt(what, work, watchdog=steady):
            return
        if time.monotonic() - began >= STEADY_SECONDS:
            pause = FIRST_PAUSE
        stopping.wait(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


class Hooks:
    """The hooks of one sidecar, called by one thread that follows the feed from its beginning, in order."""

    def __init__(self, guard: Guard, service: ServiceHandle, feed: Feed) -> None:
        self._guard = guard
        self._service = service
        self._feed = feed
        # Guards the hooks and whether their thread runs.
        self._lock = threading.Lock()
        self._hooks: dict[str, list[tuple[str, Callable[..., Any]]]] = {"start": [], "ready": [], "exit": []}
        self._may_begin = False
        self._has_begun = False
        self._done = threading.Event()

    def add(self, moment: str, name: str, function: Callable[..., Any]) -> None:
        with self._lock:
            self._hooks[moment].append((f"on_{moment} {name}", fitting(function)))
            may_begin = self._may_begin
        if may_begin:
            self.begin()

    def begin(self) -> None:
        """Start the thread with the first hook that there is from now on."""
        with self._lock:
            self._may_begin = True
            if self._has_begun or not any(self._hooks.values()):
                return
            self._has_begun = True
        threads.start(f"{self._guard.name} hooks", self._follow)

    def _follow(self) -> None:
        self._call("start", self._service)
        known = 0
        while not self._done.is_set():
            for event in self._feed.after(known, None):
                known = event["id"]
                self._hear(event)

    def _hear(self, event: dict[str, Any]) -> None:
        if event["kind"] == "end":
            self._done.set()
        elif event.get("service") != self._service.name:
            return
        elif event["kind"] == "state" and event["state"] == "running":
            self._call("ready", self._service)
        elif event["kind"] == "exit":
            self._call("exit", self._service, event)

    def _call(self, moment: str, *arguments: Any) -> None:
        with self._lock:
            hooks = list(self._hooks[moment])
        for what, hook in hooks:
            # The only thing that can be said of one that hangs.
            fault = f"{what} has not returned for {SLOW_SECONDS:g} s; the other hooks wait for it"
            slow = threads.start_watchdog(f"{what} slow", SLOW_SECONDS, self._guard.report, what, fault)
            self._guard.attempt(what, functools.partial(hook, *arguments), watchdog=slow)

    def finish(self, deadline: Deadline) -> None:
        """Wait until everything up to the feed's last event, which the caller made, has been heard."""
        with self._lock:
            has_begun = self._has_begun
        if has_begun:
            self._done.wait(deadline.remaining())
