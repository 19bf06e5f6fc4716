"""The workers: seats, spares, lots and the sweeper."""

import os
import select
import threading
import time

import pytest

from wrapper import pool as pool_room
from wrapper.pool import Lot, Pool

PATIENCE = 10.0


class Thing:
    """One end of a pipe that waits for bytes."""

    def __init__(self):
        self.end, self.other = os.pipe()
        self.deadline = 0.0
        self.is_registered = False
        self.called = threading.Semaphore(0)

    def fileno(self):
        return self.end

    def poke(self):
        os.write(self.other, b"!")

    def close(self):
        os.close(self.end)
        os.close(self.other)


@pytest.fixture
def thing():
    made = Thing()
    yield made
    made.close()


@pytest.fixture
def pool():
    made = Pool(most=8, seats=1)
    yield made
    made.stop()


def lot(pool, ready=None, expire=None, timeout=100.0):
    return pool.add(Lot(select.EPOLLIN, timeout, ready or (lambda *_: None), expire or (lambda _: None)))


def test_a_parked_thing_is_handled_once_and_can_be_parked_again(pool, thing):
    def ready(parked, worker, event):
        os.read(parked.end, 1)
        pool.park(parked, place)
        parked.called.release()

    place = lot(pool, ready)
    pool.start()
    pool.park(thing, place)
    for _ in range(3):
        thing.poke()
        assert thing.called.acquire(timeout=PATIENCE)
    assert pool.take_out(thing, place)
    assert not pool.take_out(thing, place)


def test_whoever_steps_aside_is_replaced_and_comes_back_as_a_spare(pool):
    """With one seat, a worker that waits for long must not keep the others from working."""
    go_on, things = threading.Event(), [Thing() for _ in range(4)]

    def ready(parked, worker, event):
        worker.step_aside()
        parked.called.release()
        assert go_on.wait(PATIENCE)
        parked.called.release()

    place = lot(pool, ready)
    pool.start()
    for thing in things:
        pool.park(thing, place)
        thing.poke()
    for thing in things:
        assert thing.called.acquire(timeout=PATIENCE)
    assert pool.threads == 5
    go_on.set()
    for thing in things:
        assert thing.called.acquire(timeout=PATIENCE)
        thing.close()


def test_a_crowd_of_slow_clients_is_given_small_buffers(monkeypatch):
    """A thousand slow downloads would hold a gigabyte in large ones."""
    monkeypatch.setattr(pool_room, "LARGE_BUFFERS", 2)
    pool, go_on, things, sizes = Pool(most=8, seats=1), threading.Event(), [Thing() for _ in range(5)], []

    def ready(parked, worker, event):
        worker.step_aside()
        sizes.append(len(worker.buffer))
        parked.called.release()
        assert go_on.wait(PATIENCE)

    place = lot(pool, ready)
    pool.start()
    for thing in things:
        pool.park(thing, place)
        thing.poke()
        assert thing.called.acquire(timeout=PATIENCE)
    go_on.set()
    pool.stop()
    assert sizes == [pool_room.BUFFER_SIZE, *[pool_room.SMALL_BUFFER_SIZE] * 4]
    for thing in things:
        thing.close()


def test_a_spare_ends_after_its_time(pool, thing, monkeypatch):
    monkeypatch.setattr(pool_room, "SPARE_TIMEOUT", 0.05)

    def ready(parked, worker, event):
        worker.step_aside()
        parked.called.release()

    place = lot(pool, ready)
    pool.start()
    pool.park(thing, place)
    thing.poke()
    assert thing.called.acquire(timeout=PATIENCE)
    end = time.monotonic() + PATIENCE
    while pool.threads > 1 and time.monotonic() < end:
        time.sleep(0.01)  # between two looks at a number that nobody announces
    assert pool.threads == 1


@pytest.mark.parametrize("fault", [RuntimeError("can't start new thread"), None])
def test_without_another_thread_the_work_goes_on_later(pool, monkeypatch, fault):
    """The only seat is kept, and the work is done one after the other."""
    if fault is None:
        pool._most = 1
    things = [Thing() for _ in range(3)]

    def ready(parked, worker, event):
        worker.step_aside()
        parked.called.release()

    place = lot(pool, ready)
    pool.start()
    if fault is not None:
        class Refusing(threading.Thread):
            def start(self):
                raise fault

        monkeypatch.setattr(pool_room.threading, "Thread", Refusing)
    for thing in things:
        pool.park(thing, place)
        thing.poke()
        assert thing.called.acquire(timeout=PATIENCE)
        thing.close()
    assert pool.threads == 1


@pytest.mark.parametrize("fault", [RuntimeError("can't start new thread"), None])
def test_the_last_seat_is_kept_where_no_thread_can_be_had(monkeypatch, fault):
    """RLIMIT_NPROC, or the pids controller: somebody has to poll, or everybody waits for those who wait."""
    pool = Pool(most=2 if fault is None else 8, seats=2)
    go_on, gave, things = threading.Event(), [], [Thing() for _ in range(4)]

    def ready(parked, worker, event):
        gave.append(worker.step_aside())
        parked.called.release()
        if gave[-1]:
            assert go_on.wait(PATIENCE)
            parked.called.release()

    place = lot(pool, ready)
    pool.start()
    if fault is not None:
        monkeypatch.setattr(pool_room.threading.Thread, "start", lambda thread: throw(fault))
    for thing in things[:3]:
        pool.park(thing, place)
        thing.poke()
        assert thing.called.acquire(timeout=PATIENCE)
    assert gave == [True, False, False] and pool.threads == 2
    go_on.set()
    assert things[0].called.acquire(timeout=PATIENCE)
    pool.park(things[3], place)
    things[3].poke()
    assert things[3].called.acquire(timeout=PATIENCE)
    pool.stop()
    for thing in things:
        thing.close()


def throw(error):
    raise error


def test_a_start_without_anybody_to_poll_fails(pool, monkeypatch):
    """It would be a port that takes connections and answers none."""
    start, fault = threading.Thread.start, RuntimeError("can't start new thread")
    monkeypatch.setattr(pool_room.threading.Thread, "start",
                        lambda thread: throw(fault) if thread.name == "worker" else start(thread))
    with pytest.raises(RuntimeError, match="polls"):
        pool.start()
    assert pool.threads == 0


def test_what_waits_too_long_expires_and_only_once(pool, thing):
    def expire(parked):
        parked.called.release()

    place = lot(pool, expire=expire, timeout=0.05)
    pool.start()
    pool.park(thing, place)
    assert thing.called.acquire(timeout=PATIENCE)
    assert not place.waiting


def test_a_nearer_deadline_wakes_the_sweeper(pool, thing):
    other = Thing()
    far = lot(pool, timeout=100.0)
    near = lot(pool, expire=lambda parked: parked.called.release(), timeout=0.05)
    pool.start()
    pool.park(other, far)
    pool.park(thing, near)
    assert thing.called.acquire(timeout=PATIENCE)
    assert pool.take_out(other, far)
    other.close()


def reuse(pool, place, old, new):
    """What workers may do at any moment: `old` is handled and closed, and `new` gets its descriptor and is parked."""
    assert pool.take_out(old, place)
    os.dup2(new.end, old.end)
    os.close(new.end)
    new.end, old.end = old.end, os.open(os.devnull, os.O_RDONLY)
    pool.park(new, place)


def test_a_newcomer_with_the_descriptor_of_one_that_is_due_is_not_lost(pool):
    """The sweeper looks at a snapshot; descriptors are used again at once (POSIX: the lowest that is free)."""
    first, second, new = things = [Thing() for _ in range(3)]

    def expire(parked):
        if parked is first:
            reuse(pool, place, second, new)

    place = lot(pool, lambda parked, *_: parked.called.release(), expire)
    for thing in (first, second):
        pool.park_until(thing, place, 0.0)
    pool._expire_all()
    assert list(place.waiting.values()) == [new]
    pool.start()
    new.poke()
    assert new.called.acquire(timeout=PATIENCE)
    for thing in things:
        thing.close()


def test_of_many_who_take_one_thing_out_only_one_gets_it(pool, thing):
    place, taken, start = lot(pool), [], threading.Barrier(4)

    def take():
        start.wait(PATIENCE)
        taken.append(pool.take_out(thing, place))

    for _ in range(50):
        pool.park(thing, place)
        takers = [threading.Thread(target=take, daemon=True) for _ in range(4)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join(PATIENCE)
    assert taken.count(True) == 50 and len(taken) == 200


def test_a_fault_of_the_sweeper_does_not_end_it(pool, thing, monkeypatch):
    sound, passes = pool._expire_all, []

    def fail_once():
        passes.append(1)
        return sound() if len(passes) > 1 else 1 / 0

    monkeypatch.setattr(pool, "_expire_all", fail_once)
    monkeypatch.setattr(pool_room, "FAULT_PAUSE", 0.05)
    place = lot(pool, expire=lambda parked: parked.called.release(), timeout=0.02)
    pool.start()
    pool.park(thing, place)
    assert thing.called.acquire(timeout=PATIENCE)


def test_a_failing_handler_ends_neither_worker_nor_sweeper(pool, thing):
    def fail(*_):
        thing.called.release()
        raise ValueError

    place, short = lot(pool, fail), lot(pool, expire=fail, timeout=0.01)
    pool.start()
    for _ in range(2):
        pool.park(thing, place)
        thing.poke()
        assert thing.called.acquire(timeout=PATIENCE)
        os.read(thing.end, 1)
    for _ in range(2):
        pool.park(thing, short)
        assert thing.called.acquire(timeout=PATIENCE)


def test_what_is_submitted_is_called_by_a_worker(pool):
    done = threading.Semaphore(0)

    def job(worker):
        assert worker.is_seated
        done.release()

    pool.start()
    for _ in range(200):
        pool.submit(job)
    for _ in range(200):
        assert done.acquire(timeout=PATIENCE)


def test_the_waits_of_a_worker_are_precise_and_of_nobody_else(pool):
    """prctl(2), PR_SET_TIMERSLACK: a thread hands its own on to what it starts, as a service must not get it."""
    def slack():
        with open(f"/proc/{threading.get_native_id()}/timerslack_ns") as file:
            return int(file.read())

    before, found, done = slack(), [], threading.Event()
    pool.start()
    pool.submit(lambda worker: (found.append(slack()), done.set()))
    assert done.wait(5)
    assert found == [1000]
    assert slack() == before


def test_a_lent_thread_runs_a_job_without_a_seat(pool):
    done = threading.Semaphore(0)
    pool.start()

    def job(worker):
        assert not worker.is_seated and len(worker.buffer) == pool_room.BUFFER_SIZE
        done.release()

    for _ in range(3):
        assert pool.lend(job)
        assert done.acquire(timeout=PATIENCE)


def test_nothing_runs_while_nothing_happens(pool, thing):
    """No polling: neither the worker nor the sweeper uses the processor."""
    place = lot(pool)
    pool.start()
    pool.park(thing, place)
    began, used = time.monotonic(), time.process_time()
    threading.Event().wait(0.3)
    assert time.process_time() - used < 0.05 < time.monotonic() - began
    assert pool.take_out(thing, place)
