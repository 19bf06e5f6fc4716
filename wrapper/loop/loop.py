"""One thread that resumes generators: what waits costs no thread.

A task is a generator. Where it would block it yields `(deadline, source, ...)`: sources are descriptors that become
readable or writable, or notices that other threads give. The loop resumes it with the source that fired first, or with
None once the deadline (a moment of `loop.now`, NEVER for none) has passed. Only the loop's own thread touches tasks,
links and sources; other threads call `post`, `spawn` and `Notice.give`.

Not asyncio: the wrapper is threaded, sidecars are plain functions, and a connection's code reads from top to bottom
here, where asyncio's fast way is protocols, which are callbacks. A bare relay written so, without gate, deadlines,
bodies and counting, gives 1.2 to 1.8 times as many small answers (tests/bench/asyncio_road.py): that is the price.
"""

from __future__ import annotations

import gc
import heapq
import mmap
import threading
import time
from collections import deque

from wrapper import threads
from wrapper.log import log
from wrapper.loop.poller import BATCH, Notice, Poller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, Callable

    from wrapper.loop.poller import Source
    from wrapper.loop.workers import Workers

    Wait = tuple[Any, ...]  # a deadline, then sources
    Steps = Generator[Wait, Any, Any]

NEVER = float("inf")
NEXT_TURN: Wait = (0.0,)  # what a task yields that has had its share of this turn
LATER: Wait = (-1.0,)  # what a task yields before it computes for long
LATER_BATCH = 16  # of those go on in one turn: that many TLS handshakes take about 5 ms
BUFFER_SIZE = 128 * 1024  # bytes of the one buffer for bodies; what a slow reader leaves of it is kept for it
LARGE_SIZE = 1024 * 1024  # bytes of it where the reader's socket has room: that moves a download at twice the rate
WALK_AFTER = 100  # collections of what is young until the collector walks all that lives; 10 is Python's own
STALE_MAX = 256  # entries of deadlines beyond two for each task, after which they are put in order anew


class Task:
    """One generator and what it waits for. `ended` is given when it is over."""

    __slots__ = ("_loop", "_sources", "deadline", "due", "ended", "is_over", "name", "number", "steps")

    def __init__(self, loop: Loop, steps: Steps, name: str) -> None:
        self._loop = loop
        self.steps = steps
        self.name = name
        self._sources: tuple[Any, ...] = ()
        self.number = 0  # of its present wait; what is meant for an earlier one is dropped
        self.deadline = NEVER
        self.due = NEVER  # the earliest entry for it among the loop's deadlines
        self.is_over = False
        self.ended = Notice(loop)

    def wake(self, source: Source | None) -> None:
        """Go on with what `source` says, or with None at the deadline."""
        for left in self._sources:  # as `_leave`, in place: each request comes by here twice
            left.waiter = None
        self._sources = ()
        self.number += 1
        self.deadline = NEVER
        try:
            wait = self.steps.send(source)
        except StopIteration:
            self._end()
        except BaseException as error:  # noqa: BLE001  one fault ends one task, not the thread that serves all
            self._fail(error)
        else:
            self._loop.suspend(self, wait)

    def interrupt(self, error: BaseException) -> None:
        """Raise `error` where the task waits; nothing happens where it is over."""
        if self.is_over:
            return
        self._leave()
        try:
            wait = self.steps.throw(error)
        except StopIteration:
            self._end()
        except BaseException as raised:  # noqa: BLE001  as above
            if raised is not error:
                self._fail(raised)
            self._end()
        else:
            self._loop.suspend(self, wait)

    def attend(self, sources: tuple[Any, ...]) -> None:
        """Stand at each of them, in order; go on in the next turn where one has fired already."""
        self._sources = sources
        for source in sources:
            if source.attend(self):
                self._leave()
                self._loop.ready.append((self, source, self.number))
                return

    def _leave(self) -> None:
        for source in self._sources:
            source.waiter = None
        self._sources = ()
        self.number += 1
        self.deadline = NEVER

    def _fail(self, error: BaseException) -> None:
        log.error(f"{self.name} failed", cause=repr(error))
        self._end()

    def _end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._loop.tasks.discard(self)
            self.ended.give_now()

    def drop(self) -> None:
        """Let the generator clean up where it stands; for the end of the loop."""
        try:
            self.steps.close()
        except Exception as error:  # noqa: BLE001  the others are to be cleaned up too
            log.error(f"{self.name} cannot be dropped", cause=repr(error))


class Loop(Poller):
    """The thread, its tasks and their deadlines."""

    def __init__(self, name: str, workers: Workers) -> None:
        super().__init__()
        self._name = name
        self.workers = workers
        self.tasks: set[Task] = set()
        self.ready: deque[tuple[Task, Any, int]] = deque()  # to be resumed in the next turn
        self._later: deque[tuple[Task, Any, int]] = deque()  # to be resumed a few at a time
        self.large_buffer = memoryview(mmap.mmap(-1, LARGE_SIZE))  # pages that were never written to cost no memory
        self.buffer = self.large_buffer[:BUFFER_SIZE]
        # (moment, number, task), lazily: one entry for a task is enough while its deadlines only move away.
        self._deadlines: list[tuple[float, int, Task]] = []
        self._number = 0
        self._is_stopping = False
        self.thread: threading.Thread | None = None

    # From any thread

    def spawn(self, steps: Steps, name: str) -> Task:
        """A task that begins soon, from any thread."""
        task = Task(self, steps, name)
        self.post(self.begin, task)
        return task

    def start(self) -> None:
        """Raises: NoThread."""
        self.thread = threads.start(self._name, self.run)

    def stop(self) -> None:
        """End the thread after the present turn; whatever still waits is dropped."""
        self._is_stopping = True
        self.post(bool)  # so that it wakes
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()
        elif self.thread is None:
            self._end()

    # In the loop's thread

    def in_thread(self, call: Callable[[], Any], workers: Workers | None = None) -> Steps:
        """What `call` returns, from a thread where it may block. Raises: NoThread, what `call` raises."""
        done, outcome = Notice(self), Outcome()

        def work() -> None:
            outcome.of(call)
            done.give()

        (workers or self.workers).submit(work)
        yield NEVER, done
        return outcome.get()

    def task(self, steps: Steps, name: str) -> Task:
        """A task that waits for `begin`; it may be interrupted from its first step on."""
        return Task(self, steps, name)

    def begin(self, task: Task) -> Task:
        """Take the first steps of `task` at once."""
        self.tasks.add(task)
        task.wake(None)
        return task

    def suspend(self, task: Task, wait: Wait) -> None:
        """Let `task` wait for what it has yielded."""
        deadline = wait[0]
        if deadline <= 0:
            (self._later if wait is LATER else self.ready).append((task, None, task.number))
            return
        if deadline < NEVER:
            task.deadline = deadline
            if deadline < task.due:
                self._enter(task)
        if len(wait) > 1:
            try:
                task.attend(wait[1:])
            except (OSError, ValueError) as error:  # the descriptor is closed, or the kernel can watch no more
                task.interrupt(error)

    def run(self) -> None:
        """Serve until `stop`."""
        _wait_precisely()
        _walk_rarely()
        try:
            while not self._is_stopping:
                self._take_turn()
        finally:
            self._end()

    def _take_turn(self) -> None:
        self.take_events(self._pause())
        if self.ready:
            self._resume(self.ready, len(self.ready))
        if self._later:
            self._resume(self._later, LATER_BATCH)
        if self._deadlines and self._deadlines[0][0] <= self.now:
            self._expire()

    def _pause(self) -> float:
        """Seconds that epoll may sleep."""
        if self.ready or self._later or self._posted:
            return 0
        if not self._deadlines:
            return -1
        return max(0.0, self._deadlines[0][0] - time.monotonic())

    def _resume(self, queue: deque[tuple[Task, Any, int]], most: int) -> None:
        for _ in range(min(most, len(queue))):
            task, source, number = queue.popleft()
            if task.number == number and not task.is_over:
                task.wake(source)

    def _expire(self) -> None:
        """Resume those whose deadline has passed, a batch in a turn; enter those anew whose deadline has moved away."""
        entries = self._deadlines
        for _ in range(BATCH):
            if not entries or entries[0][0] > self.now:
                return
            due, _, task = heapq.heappop(entries)
            if due != task.due or task.is_over:
                continue
            task.due = NEVER
            if task.deadline <= self.now:
                task.wake(None)
            elif task.deadline < NEVER:
                self._enter(task)

    def _enter(self, task: Task) -> None:
        """Have an entry for the present deadline of `task`; now and then let go of those that ended long before."""
        entries = self._deadlines
        task.due = task.deadline
        self._number += 1
        heapq.heappush(entries, (task.due, self._number, task))
        if len(entries) > 2 * len(self.tasks) + STALE_MAX:
            entries[:] = [entry for entry in entries if entry[0] == entry[2].due and not entry[2].is_over]
            heapq.heapify(entries)

    def _end(self) -> None:
        for task in list(self.tasks):
            task.drop()
        self.close()


class Outcome:
    """What a call returned or raised, carried from one thread to another."""

    __slots__ = ("_error", "_value")

    def __init__(self) -> None:
        self._value: Any = None
        self._error: BaseException | None = None

    def of(self, call: Callable[[], Any]) -> None:
        try:
            self._value = call()
        except BaseException as error:  # noqa: BLE001  it is raised again where it is asked for
            self._error = error

    def get(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


def _walk_rarely() -> None:
    """Have the collector walk all that lives ten times more seldom: beside 3,000 tunnels that stops us for 90 ms.

    What the road lets go of is freed by its counts, and young cycles, such as authors' code makes, as soon as before.
    """
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, max(old, WALK_AFTER))


def _wait_precisely() -> None:
    """Have the waits of this thread end when they should, not up to 50 us later (prctl(2), PR_SET_TIMERSLACK).

    A wait for the interpreter is one too: beside code that computes, a relayed request has half a dozen of them.
    """
    try:
        with open(f"/proc/{threading.get_native_id()}/timerslack_ns", "w", encoding="ascii") as file:  # proc(5)
            file.write("1000")
    except OSError:
        pass  # then they end later
