"""The threads of the exposed port: few at a time poll and work, many may wait.

A connection without work is parked in one epoll and costs no thread. Only a worker with a seat polls: it takes one
event and handles it itself, so nothing is handed over on the usual road. One about to wait for long (a slow service,
a stream, a tunnel, a sidecar's handler) steps aside: a spare takes its seat, so that a few threads compete for the
interpreter however many wait. When done it takes a free seat, or becomes a spare, and ends when it was one for long.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
import threading
import time
from collections import deque

from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Protocol

    class Parked(Protocol):
        """Something that waits for an event of its descriptor. All are called by whoever took it out of its lot."""

        deadline: float
        is_registered: bool

        def fileno(self) -> int: ...


SEATS = 1  # workers that may poll at a time; two hand the interpreter to and fro, at half the rate of one
TIMER_SLACK = "1000"  # nanoseconds; see `_wait_precisely`
SPARE_TIMEOUT = 10.0  # seconds a thread without a seat stays
BUFFER_SIZE = 1024 * 1024  # bytes of a worker's buffer for bodies: 64 KiB moves a download at two thirds the rate
LARGE_BUFFERS = 32  # threads there may be for one of them to get such a buffer: slow clients keep theirs full
SMALL_BUFFER_SIZE = 64 * 1024  # bytes of the buffers of all others
SWEEP_INTERVAL = 0.1  # seconds at least between two sweeps while things expire
FAULT_PAUSE = 1.0  # seconds until the next sweep where one failed
BUSY_INTERVAL = 0.25  # seconds at most between two sweeps while short waits come and go


def seats() -> int:
    """How many workers may poll at a time: as many as can run, where no lock makes them take turns."""
    is_free_threaded = not getattr(sys, "_is_gil_enabled", lambda: True)()
    return max(SEATS, os.cpu_count() or 1) if is_free_threaded else SEATS


class Lot:
    """Where connections of one kind wait, each at most `timeout` seconds.

    `ready` takes one whose event came, `expire` one that waited too long (and returns at once): whoever is called
    is the connection's only owner.
    """

    __slots__ = ("event", "expire", "ready", "timeout", "waiting")

    def __init__(self, event: int, timeout: float, ready: Callable[[Any, Worker, int], None],
                 expire: Callable[[Any], None]) -> None:
        self.event = event | select.EPOLLONESHOT
        self.timeout = timeout
        self.ready = ready
        self.expire = expire
        self.waiting: dict[int, Parked] = {}


class Worker:
    """One thread's place in the pool."""

    __slots__ = ("_buffer", "_pool", "is_seated", "job", "wake")

    def __init__(self, pool: Pool, is_seated: bool, job: Callable[[Worker], None] | None = None) -> None:
        self._pool = pool
        self._buffer: memoryview | None = None
        self.is_seated = is_seated
        self.job = job
        self.wake = threading.Lock()  # held while this spare has nothing to do
        self.wake.acquire()

    def step_aside(self) -> bool:
        """Let another thread have the seat, because a long wait begins.

        False where none can be had and nobody else polls: then the seat is kept, and nothing may be waited for.
        """
        return not self.is_seated or self._pool.give_seat(self)

    @property
    def buffer(self) -> memoryview:
        """One for all the bodies this thread moves; pages nobody has written to cost no memory."""
        if self._buffer is None:
            size = BUFFER_SIZE if self._pool.threads <= LARGE_BUFFERS else SMALL_BUFFER_SIZE
            self._buffer = memoryview(mmap.mmap(-1, size))
        return self._buffer


class Pool:
    """`most` is how many threads there may be at most, `seats` how many may poll at a time."""

    def __init__(self, most: int, seats: int) -> None:
        self._epoll = select.epoll()
        # Guards the five below, `_is_closed`, the doorbell, and every worker's `is_seated` and `job`. Held for a few
        # lines, never over a call out.
        self._lock = threading.Lock()
        self._spares: list[Worker] = []  # the last one in is taken first, so that surplus ones end
        self._free_seats = 0  # nobody sits there: threads could not be had; never all of them
        self.is_short = False  # of threads, when one was wanted last
        self._count = 0
        self._most = most
        self._seats = seats
        self._lots: list[Lot] = []
        # Held by whoever takes something out of a lot, so that a descriptor looked up is still whose it was: numbers
        # are used again at once. What is parked has nobody who could close it, so parking needs no lock.
        self._taking = threading.Lock()
        self._submitted: deque[Callable[[Worker], None]] = deque()
        self._doorbell, self._doorbell_end = os.pipe()
        os.set_blocking(self._doorbell, False)
        os.set_blocking(self._doorbell_end, False)
        self.is_closing = False  # no connection is to be kept for another request
        self._is_stopping = False
        self._is_closed = False
        self._next_sweep = float("inf")
        self._alarm = threading.Event()

    @property
    def threads(self) -> int:
        return self._count

    def start(self) -> None:
        """Raises: RuntimeError where there would be nobody who polls."""
        self._epoll.register(self._doorbell, select.EPOLLIN)
        threading.Thread(target=self._sweep, name="sweeper", daemon=True).start()
        for _ in range(self._seats):
            with self._lock:
                self._count += 1
            if not self._start_thread(Worker(self, is_seated=True)):
                self._free_seats += 1
        if self._free_seats == self._seats:
            self.stop()
            raise RuntimeError("cannot start a thread that polls")

    def stop(self) -> None:
        """End the threads that poll; those at work end after it."""
        self._is_stopping = True
        self._ring()
        self._alarm.set()
        with self._lock:
            spares, self._spares = self._spares, []
        for spare in spares:
            spare.wake.release()

    # Parking

    def add(self, lot: Lot) -> Lot:
        """To be called before anything is parked."""
        self._lots.append(lot)
        return lot

    def park(self, parked: Parked, lot: Lot) -> None:
        """Let `parked` wait in `lot` for its next event. The caller must not touch it afterwards."""
        self.park_until(parked, lot, time.monotonic() + lot.timeout)

    def park_until(self, parked: Parked, lot: Lot, deadline: float) -> None:
        parked.deadline = deadline
        fd = parked.fileno()
        is_registered, parked.is_registered = parked.is_registered, True
        lot.waiting[fd] = parked
        if deadline < self._next_sweep:
            self._alarm.set()
        try:
            if is_registered:
                self._epoll.modify(fd, lot.event)
            else:
                self._epoll.register(fd, lot.event)
        except (OSError, ValueError) as error:
            # ENOSPC: over fs.epoll.max_user_watches. ValueError: the pool is closed.
            if self._take(lot, fd, parked):
                log.warning("cannot watch a connection", cause=error)
                lot.expire(parked)

    def take_out(self, parked: Parked, lot: Lot) -> bool:
        """True where `parked` waited in `lot` and is the caller's now."""
        return self._take(lot, parked.fileno(), parked)

    def take_all(self, lot: Lot) -> list[Parked]:
        """All that waited in `lot`, the caller's now."""
        return [parked for fd, parked in lot.waiting.copy().items() if self._take(lot, fd, parked)]

    def _take(self, lot: Lot, fd: int, parked: Parked) -> bool:
        with self._taking:
            if lot.waiting.get(fd) is not parked:
                return False
            del lot.waiting[fd]
            return True

    def submit(self, job: Callable[[Worker], None]) -> None:
        """Have `job` called by a worker with a seat soon; returns at once."""
        self._submitted.append(job)
        self._ring()

    def _ring(self) -> None:
        with self._lock:
            if self._is_closed:
                return  # the number may be somebody else's by now
            try:
                os.write(self._doorbell_end, b"!")
            except BlockingIOError:
                pass  # it rings already

    def _answer_doorbell(self, worker: Worker) -> None:
        if self._is_stopping:
            return  # left ringing, for the other workers
        try:
            os.read(self._doorbell, 1)
        except BlockingIOError:
            return
        try:
            job = self._submitted.popleft()
        except IndexError:
            return
        job(worker)

    def _sweep(self) -> None:
        """Expire what waited too long; sleeps until the first deadline, for ever where there is none."""
        has_rung = False
        while not self._is_stopping:
            self._alarm.clear()
            self._next_sweep = float("inf")  # from here on whoever parks rings the alarm
            first = self._expire_due()
            now = time.monotonic()
            if has_rung:
                # More short waits will follow the one that rang: looked at then, they need not ring.
                first = min(first, now + BUSY_INTERVAL)
            self._next_sweep = first = max(first, now + SWEEP_INTERVAL)
            has_rung = self._alarm.wait(None if first == float("inf") else first - now)

    def _expire_due(self) -> float:
        """The earliest deadline of all that is left."""
        try:
            return min(self._expire_all(), default=float("inf"))
        except Exception as error:  # noqa: BLE001  without this thread nothing would ever time out again
            log.error("the sweeper failed", cause=repr(error))
            return time.monotonic() + FAULT_PAUSE

    def _expire_all(self) -> list[float]:
        """Expire what is due in every lot; returns the earliest deadline of each lot that is not empty."""
        now = time.monotonic()
        deadlines = []
        for lot in self._lots:
            first = float("inf")
            for fd, parked in lot.waiting.copy().items():
                if parked.deadline <= now:
                    if self._take(lot, fd, parked):
                        _expire(lot, parked)
                else:
                    first = min(first, parked.deadline)
            if first < float("inf"):
                deadlines.append(first)
        return deadlines

    # Threads and seats

    def give_seat(self, worker: Worker) -> bool:
        with self._lock:
            worker.is_seated = False
            spare = self._spares.pop() if self._spares else None
            if spare is not None:
                spare.is_seated = True
            elif self._count < self._most:
                self._count += 1
            else:
                return self._leave_seat(worker)
        if spare is not None:
            spare.wake.release()
        elif not self._start_thread(Worker(self, is_seated=True)):
            with self._lock:
                return self._leave_seat(worker)
        self.is_short = False
        return True

    def _leave_seat(self, worker: Worker) -> bool:
        """Without anybody to take it the seat stays free, unless it is the last one: somebody has to poll."""
        assert self._lock.locked()
        self.is_short = True
        worker.is_seated = self._free_seats + 1 >= self._seats
        self._free_seats += not worker.is_seated
        return not worker.is_seated

    def lend(self, job: Callable[[Worker], None]) -> bool:
        """Have `job` run by a thread without a seat; False where no thread can be had."""
        with self._lock:
            spare = self._spares.pop() if self._spares else None
            if spare is not None:
                spare.job = job
            elif self._count < self._most:
                self._count += 1
            else:
                return False
        if spare is not None:
            spare.wake.release()
            return True
        return self._start_thread(Worker(self, is_seated=False, job=job))

    def _start_thread(self, worker: Worker) -> bool:
        try:
            threading.Thread(target=self._work, args=(worker,), name="worker", daemon=True).start()
        except RuntimeError as error:  # "can't start new thread": a limit on processes or memory
            with self._lock:
                self._count -= 1
            if not self.is_short:
                log.warning("cannot start a thread", cause=error)
            return False
        return True

    def _work(self, worker: Worker) -> None:
        _wait_precisely()
        while not self._is_stopping:
            if worker.job is not None:
                job, worker.job = worker.job, None
                _guarded(job, worker)
            elif worker.is_seated or self._await_seat(worker):
                self._poll(worker)
            elif worker.job is None:
                break
        with self._lock:
            self._count -= 1
            self._is_closed = is_last = self._is_stopping and not self._count
        if is_last:
            self._close()

    def _close(self) -> None:
        """Let go of everything, once no thread is left that would use it."""
        for lot in self._lots:
            waiting, lot.waiting = lot.waiting, {}
            for parked in waiting.values():
                _expire(lot, parked)
        self._epoll.close()
        os.close(self._doorbell)
        os.close(self._doorbell_end)

    def _await_seat(self, worker: Worker) -> bool:
        """True with a seat; False with a job, or when there was neither for long: then the thread ends."""
        with self._lock:
            if self._free_seats:
                self._free_seats -= 1
                worker.is_seated = True
                return True
            self._spares.append(worker)
        if not worker.wake.acquire(timeout=SPARE_TIMEOUT):
            with self._lock:
                if worker in self._spares:
                    self._spares.remove(worker)
                    return False
            worker.wake.acquire()  # somebody took it off the list this very moment
        return worker.is_seated

    def _poll(self, worker: Worker) -> None:
        """Take events as long as the seat is ours."""
        poll, lots, taking, doorbell = self._epoll.poll, self._lots, self._taking, self._doorbell
        while worker.is_seated and not self._is_stopping:
            for fd, event in poll(-1, 1):
                if fd == doorbell:
                    _guarded(self._answer_doorbell, worker)
                    continue
                with taking:
                    for lot in lots:
                        parked = lot.waiting.pop(fd, None)
                        if parked is not None:
                            break
                    else:
                        continue  # a late event of a descriptor that is somebody's already
                try:
                    lot.ready(parked, worker, event)
                except Exception as error:  # noqa: BLE001  one fault must not end the thread, which serves everybody
                    log.error("a worker failed", cause=repr(error))


def _wait_precisely() -> None:
    """Have the waits of this thread end when they should, not up to 50 us later (prctl(2), PR_SET_TIMERSLACK).

    A wait for the interpreter is one too: beside code that computes, a relayed request has half a dozen of them.
    """
    try:
        with open(f"/proc/{threading.get_native_id()}/timerslack_ns", "w", encoding="ascii") as file:  # proc(5)
            file.write(TIMER_SLACK)
    except OSError:
        pass  # then they end later


def _expire(lot: Lot, parked: Parked) -> None:
    try:
        lot.expire(parked)
    except Exception as error:  # noqa: BLE001  one fault must not end the thread, which serves everybody
        log.error("the sweeper failed", cause=repr(error))


def _guarded(job: Callable[[Worker], None], worker: Worker) -> None:
    try:
        job(worker)
    except Exception as error:  # noqa: BLE001  one fault must not end the thread, which serves everybody
        log.error("a worker failed", cause=repr(error))
