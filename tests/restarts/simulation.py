"""A wrapper's gate, controller and exchanges with a scripted service, on a clock and in an order that a test chooses.

The threads are real ones, but one runs at a time: where a thread of the product waits, on an event, a condition or the
loop's descriptors, it hands over, and the test says which one of those that can go on does. The clock stands still
until it is moved. So an interleaving is a list of numbers, and 10,000 of them take minutes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import select
import socket
import threading
import time
from unittest import mock

from wrapper.errors import Refusal
from wrapper.events import Feed
from wrapper.gate import Gate
from wrapper.http1.request import read_request
from wrapper.loop.loop import Loop
from wrapper.loop.stream import ClientGone, ServiceGone, Stream
from wrapper.loop.workers import Workers
from wrapper.problems import Board
from wrapper.proxy.body import RequestBody
from wrapper.proxy.headers import Peer
from wrapper.proxy.relay import Exchange
from wrapper.proxy.upstream import Unreached, Upstream, UpstreamConnection
from wrapper.service.controller import Controller
from wrapper.service.lifecycle import Lifecycle
from wrapper.service.probe import Health, Probe
from wrapper.service.process import Process
from wrapper.service.restart import RestartPolicy
from wrapper.service.state import Life, Run
from wrapper.settings import settings
from wrapper.settings.address import unix

NEVER = float("inf")
STEPS_MAX = 5_000  # until all must have come to rest
FIRST_PID = 1 << 30  # no process has such a number
WAIT, CLEAR, WAIT_FOR = threading.Event.wait, threading.Event.clear, threading.Condition.wait_for
START = threading.Thread.start


class Killed(BaseException):
    """The simulation is over."""


class Turn:
    """One simulated thread, and what it waits for."""

    def __init__(self, name):
        self.name = name
        self.go = threading.Lock()
        self.go.acquire()
        self.ident = None
        self.is_enough = lambda: True
        self.deadline = NEVER


class Schedule:
    """Whose turn it is, and the time."""

    def __init__(self):
        self.now = 1000.0
        self.turns = []
        self.current = None
        self.is_over = False
        self._back = threading.Lock()
        self._back.acquire()
        self._is_starting = False

    def __enter__(self):
        schedule = self

        def wait(event, timeout=None):
            if not schedule._is_ours():
                return WAIT(event, timeout)
            schedule.block(event.is_set, timeout)
            return event.is_set()

        def wait_for(condition, predicate, timeout=None):
            if not schedule._is_ours():
                return WAIT_FOR(condition, predicate, timeout)
            condition.release()
            try:
                schedule.block(predicate, timeout)
            finally:
                condition.acquire()
            return predicate()

        def clear(event):
            if schedule._is_ours():
                schedule.block(lambda: True)  # what is set right before is forgotten
            CLEAR(event)

        self._patches = contextlib.ExitStack()
        for patch in (mock.patch.object(threading.Event, "wait", wait),
                      mock.patch.object(threading.Event, "clear", clear),
                      mock.patch.object(threading.Condition, "wait_for", wait_for),
                      mock.patch.object(threading.Thread, "start", functools.partialmethod(_start_in, self)),
                      mock.patch.object(time, "monotonic", self._moment)):
            self._patches.enter_context(patch)
        return self

    def __exit__(self, *error):
        self.is_over = True
        while self.turns:
            self._give(self.turns[0])
        self._patches.close()

    def _moment(self):
        return self.now

    def _is_ours(self):
        current = self.current
        return current is not None and current.ident == threading.get_ident() and not self._is_starting

    def start(self, thread):
        turn, run = Turn(thread.name), thread.run
        self.turns.append(turn)

        def take_turns():
            turn.ident = threading.get_ident()
            turn.go.acquire()
            try:
                if not self.is_over:
                    run()
            except Killed:
                pass
            finally:
                self.turns.remove(turn)
                self._back.release()

        thread.run = take_turns
        self._is_starting = True
        try:
            START(thread)
        finally:
            self._is_starting = False

    def block(self, is_enough, seconds=None):
        """Give the turn away until `is_enough()`, or for so long."""
        turn = self.current
        turn.is_enough, turn.deadline = is_enough, NEVER if seconds is None else self.now + seconds
        self._back.release()
        turn.go.acquire()
        if self.is_over:
            raise Killed

    def _give(self, turn):
        self.current = turn
        turn.go.release()
        self._back.acquire()
        self.current = None

    # For the test

    def step(self, choice):
        """Let one thread go on that can; False where none can."""
        able = [turn for turn in self.turns if turn.deadline <= self.now or turn.is_enough()]
        if able:
            self._give(able[choice % len(able)])
        return bool(able)

    def advance(self, seconds=NEVER):
        """Move the clock to the next moment something waits for, `seconds` at most; False where there is none."""
        moment = min([turn.deadline for turn in self.turns], default=NEVER)
        if moment == NEVER:
            return False
        self.now = max(self.now, min(moment, self.now + seconds))
        return True


def _start_in(thread, schedule):
    schedule.start(thread)


class ScriptedProcess(Process):
    """One run of the service: what it does is up to the test. `delivered` counts what reached it, by request."""

    def __init__(self, world, pid, on_end, on_leader_end):
        self.pid, self.world = pid, world
        self.ended, self.returncode = threading.Event(), None
        self.is_helper, self.is_service, self.started = False, True, 0
        self._deadline, self._told = NEVER, set()
        self._lock = threading.Lock()
        self._on_end, self._on_leader_end = on_end, on_leader_end
        self.status = None  # it has ended with that, and not all have heard of it
        self.listens = self.was_told = False
        self.connections = []
        self.unanswered = []  # (connection, number of the request)
        self.lost = set()  # numbers of the requests that it had when it ended
        threading.Thread(target=self._await_end, name=f"process-{pid}", daemon=True).start()

    def _await_end(self):
        self.world.schedule.block(lambda: self.status is not None)
        self._on_leader_end(self)
        self.world.schedule.block(lambda: True)
        self.returncode = self.status
        self.ended.set()
        self.world.schedule.block(lambda: True)
        self._on_end(self)

    def family(self):
        return set()

    def has_fallen(self):
        return self.status is not None

    def _send(self, number, *, to_group):
        if number == 9:
            self.fall(-9)
        elif number:
            self.was_told = True

    def listening(self):
        return []

    # What it does

    def accept(self, connection):
        connection.setblocking(False)
        self.connections.append(connection)

    def read(self):
        """Take what has been sent to it."""
        for connection in list(self.connections):
            try:
                data = connection.recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if data:
                number = int(data.split(b" ")[1][1:])
                self.world.deliver(number, self)
                self.unanswered.append((connection, number))
            else:
                self.connections.remove(connection)
                self.unanswered = [one for one in self.unanswered if one[0] is not connection]
                connection.close()

    def answer(self, choice=0):
        self.read()
        if self.unanswered:
            connection, number = self.unanswered.pop(choice % len(self.unanswered))
            body = b"%d" % number
            with contextlib.suppress(OSError):
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def fall(self, status):
        """End, with all that is connected; its listener goes first, as the kernel closes them in order."""
        if self.status is None:
            self.read()
            self.status, self.listens = status, False
            self.lost = {number for _, number in self.unanswered}
            for connection in self.connections:
                connection.close()
            self.connections, self.unanswered = [], []


class ScriptedLauncher:
    draws_ports = True

    def __init__(self, world):
        self._world = world

    def launch(self, life, on_leader_end, *, beside=False):
        count = len(self._world.runs)
        address = unix(f"/nowhere/{count}")
        process = ScriptedProcess(self._world, FIRST_PID + count, lambda _: life.wake_up.set(), on_leader_end)
        self._world.runs[address] = process
        return Run(process, address, life.title)

    def has_lost_port(self, run):
        return False

    def take_over(self, process):
        pass

    def last_lines(self):
        return []


class ScriptedProbe(Probe):
    def __init__(self, world):
        super().__init__(None, ())
        self._world = world

    def fault(self, address):
        self._world.schedule.block(lambda: True)  # a probe takes its time
        return None if self._world.runs[address].listens else "nothing listens"


class ScriptedUpstream(Upstream):
    def __init__(self, world, address):
        super().__init__(address)
        self._world = world

    def connect(self, loop):
        yield (0.0,)
        run = self._world.runs[self.address]
        if not run.listens:
            raise Unreached("the service does not listen", "refused")
        ours, its = socket.socketpair()
        run.accept(its)
        return UpstreamConnection(Stream(ours, loop, ServiceGone, is_urgent=True), self)


class Asked:
    """One client with one request; `outcome` is the status it saw, or what broke."""

    def __init__(self, world, number, line):
        self.number, self.line, self.is_repeatable = number, line, line != "POST"
        self.events = world.feed.last
        self.may_be_refused = world.refuses
        self.outcome = None
        self.client, ours = socket.socketpair()
        self.client.setblocking(False)
        method, _, field = line.partition(" ")
        text = f"{method} /{number} HTTP/1.1\r\nHost: test\r\n{field and field + chr(13) + chr(10)}\r\n"
        self.head = read_request(text.encode(), 65536)
        self.world, self.ours = world, ours
        loop = world.loop
        self.stream = Stream(ours, loop, ClientGone)
        self.task = loop.task(self._travel(), "a request")
        loop.post(loop.begin, self.task)

    def _travel(self):
        world, stream = self.world, self.stream
        exchange = Exchange(self.task, stream, self.head, RequestBody(stream, self.head, 65536, 60.0),
                            Peer("192.0.2.1", False, False), world.gate, world, {})
        try:
            yield from exchange.travel()
            self.outcome = exchange.status
        except Refusal as refusal:
            self.outcome = refusal.status
        except Exception as error:  # noqa: BLE001  a fault of ours
            self.outcome = repr(error)
        finally:
            stream.close()

    def __str__(self):
        return f"{self.line} /{self.number}"

    def body(self):
        return self.client.recv(65536).partition(b"\r\n\r\n")[2]


@functools.cache
def _settings(mode):
    return settings.read(["--restart-mode", mode, "--restart", "always", "--hold", "100000", "--ready-timeout", "20",
                          "--", "service", "{port}"], {})


class World:
    """All of it. `mode` is --restart-mode."""

    is_closing = False  # of the port that exchanges come in by

    def __init__(self, schedule, mode):
        self.schedule = schedule
        self.settings = _settings(mode)
        self.runs, self.asked, self.delivered, self.jobs, self.overs = {}, [], {}, [], []
        self.feed = Feed()
        self.board = Board(self.feed)
        self.life = Life("service", self.feed, self.board)
        self.is_ending = False
        self.loop = Loop("loop", Workers("test", 1))
        threading.Thread(target=self._turn_loop, name="loop", daemon=True).start()
        health = Health(self.life, ScriptedProbe(self), None, self.settings)
        self.gate = Gate(lambda address: ScriptedUpstream(self, address), self.settings.hold, 1000, doubt=health.doubt)
        self.lifecycle = Lifecycle(
            self.life, self.gate, ScriptedLauncher(self), health, RestartPolicy("always", self.settings.backoff),
            self.settings, self.settings.stop_signal, None)
        self.controller = Controller(self.lifecycle, lambda *over: self.overs.append(over))
        self._numbers, self._held_from = itertools.count(1), 0
        self.controller.launch()

    def _turn_loop(self):
        loop, poll = self.loop, select.poll()
        poll.register(loop.epoll.fileno(), select.POLLIN)
        while True:
            moment = loop._deadlines[0][0] if loop._deadlines else NEVER
            self.schedule.block(lambda: bool(loop.ready or loop._posted or poll.poll(0)),
                                None if moment == NEVER else max(0.0, moment - self.schedule.now))
            loop._take_turn()

    @property
    def live_runs(self):
        return [run for run in self.runs.values() if run.status is None]

    @property
    def refuses(self):
        """True where a request may be told 503: the service is stopped or has failed, or is about to."""
        return self.is_ending or self.life.state.value in ("stopped", "failed") or any(
            job.kind == "stop" and not job.is_done for job in self.jobs)

    def ask(self, line):
        number = next(self._numbers)
        self.delivered[number] = []
        self.asked.append(Asked(self, number, line))
        return self.asked[-1]

    def deliver(self, number, run):
        assert not self.gate.paused or number < self._held_from, f"request {number} went through a pause"
        self.delivered[number].append(run)

    def pause(self):
        self._held_from = next(self._numbers)
        self.gate.pause("paused")

    def order(self, kind):
        with contextlib.suppress(Refusal):
            self.jobs.append(self.controller.ask(kind, "test"))
        self._note_refusals()

    def terminate(self):
        self.is_ending = True
        self.controller.shut_down(15)
        self._note_refusals()

    def _note_refusals(self):
        for each in self.asked:
            each.may_be_refused |= self.refuses and each.outcome is None

    def serve_well(self):
        """The service does at once what is asked of it."""
        for run in self.live_runs:
            run.listens = True
            run.read()
            while run.unanswered:
                run.answer()
            if run.was_told:
                run.fall(0)

    def calm_down(self, choice):
        """The runs listen, and all that can go on does."""
        for run in self.live_runs:
            run.listens = True
        for _ in range(STEPS_MAX):
            if not self.schedule.step(choice):
                return

    def pass_time(self, seconds, choice):
        """Let the clock go on for so long, calm all the time."""
        end = self.schedule.now + seconds
        self.calm_down(choice)
        while self.schedule.now < end and self.schedule.advance(end - self.schedule.now):
            self.calm_down(choice)

    def come_to_rest(self, choices):
        """A service that does what is asked of it, and time: then nothing may be under way any more."""
        for _ in range(STEPS_MAX):
            self.serve_well()
            if self.schedule.step(next(choices)):
                continue
            if self._is_at_rest:
                return
            if not self.schedule.advance():
                break
        names = [turn.name for turn in self.schedule.turns]
        raise AssertionError(f"it does not come to rest: {self.life.state.value}, {', '.join(names)}")

    @property
    def _is_at_rest(self):
        is_done = all(each.outcome is not None for each in self.asked) and all(job.is_done for job in self.jobs)
        state = self.life.state.value
        is_steady = state in ("stopped", "failed") or (state == "running" and self.life.unready is None)
        is_steady = (bool(self.overs) if self.is_ending else is_steady) and self.life.old is None
        return is_done and is_steady and len(self.schedule.turns) <= 3

    def close(self):
        self.loop._end()
        for each in self.asked:
            each.client.close()
        for run in self.live_runs:
            run.fall(-9)
