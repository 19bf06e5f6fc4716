"""calls.py, eviction.py: an author's handler that never comes back costs its caller a 504, and nobody else much."""

from __future__ import annotations

import sys
import threading

import pytest

from tests.running import thread_names, wait_until
from wrapper.errors import GatewayTimeout, NotFound, Refusal, Unavailable
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.sidecar import eviction, metrics
from wrapper.sidecar.calls import Calls
from wrapper.sidecar.isolation import Guard


@pytest.fixture
def board():
    return Board(Feed())


@pytest.fixture
def guard(board):
    return Guard("mine", board)


@pytest.fixture
def calls(guard):
    return Calls(guard)


def messages(board):
    return [problem["message"] for problem in board.list()]


def test_what_a_call_returns_is_returned(calls, board):
    assert calls.run("GET /x", lambda: 7, 5) == 7
    assert not board.list()


@pytest.mark.parametrize("error", [ValueError("s3cret"), SystemExit(3), KeyboardInterrupt(), RecursionError(),
                                   MemoryError(), GeneratorExit()])
def test_a_call_that_raises_is_500_and_a_problem_without_the_message(calls, board, error, capfd):
    def fail():
        raise error

    with pytest.raises(Refusal) as refusal:
        calls.run("GET /x", fail, 5)
    assert refusal.value.status == 500
    assert "s3cret" not in refusal.value.message
    (message,) = messages(board)
    assert type(error).__name__ in message
    assert "test_calls.py" in message
    assert "s3cret" not in message
    log = capfd.readouterr().err
    assert "in fail" in log
    assert repr(error) in log


def test_a_refusal_is_the_authors_answer_and_no_problem(calls, board):
    def refuse():
        raise NotFound("no such thing")

    with pytest.raises(NotFound):
        calls.run("GET /x", refuse, 5)
    assert not board.list()


def test_a_call_that_hangs_is_504_and_a_problem_and_its_late_answer_is_closed(calls, board, capfd, monkeypatch):
    monkeypatch.setattr(eviction, "TRIES", 0)  # it comes back by itself
    go_on, closed = threading.Event(), threading.Event()

    class Late:
        def close(self):
            closed.set()

    def hang():
        go_on.wait()
        return Late()

    with pytest.raises(GatewayTimeout):
        calls.run("GET /x", hang, 0.01)
    assert messages(board) == ["GET /x did not answer within 0.01 s"]
    assert "go_on.wait()" in capfd.readouterr().err  # where it hangs
    go_on.set()
    assert closed.wait(5)


def test_a_call_that_goes_well_takes_its_problem_away(calls, board):
    with pytest.raises(Refusal):
        calls.run("GET /x", lambda: 1 / 0, 5)
    calls.run("GET /y", lambda: 1, 5)
    assert len(board) == 1
    calls.run("GET /x", lambda: 1, 5)
    assert not board.list()


def test_hanging_calls_do_not_pile_up(guard):
    calls, go_on = Calls(guard, most=2), threading.Event()
    for _ in range(2):
        with pytest.raises(GatewayTimeout):
            calls.run("GET /x", go_on.wait, 0.01)
    with pytest.raises(Unavailable):
        calls.run("GET /x", lambda: 1, 5)
    go_on.set()
    wait_until(lambda: attempt(calls) == 1)


def attempt(calls):
    try:
        return calls.run("GET /x", lambda: 1, 5)
    except Unavailable:
        return None


def test_a_thread_that_cannot_be_had_is_503(calls, monkeypatch):
    def no_thread(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(Unavailable):
            calls.run("GET /x", lambda: 1, 5)
    assert calls.run("GET /x", lambda: 1, 5) == 1


def test_sys_exit_in_a_call_ends_only_its_thread(calls):
    with pytest.raises(Refusal):
        calls.run("GET /x", sys.exit, 5)


def test_threads_serve_one_call_after_the_other_and_end_when_none_come(board, monkeypatch):
    monkeypatch.setattr("wrapper.sidecar.calls.IDLE_TIMEOUT", 0.05)
    calls = Calls(Guard("brief", board))
    threads = {calls.run("GET /x", threading.get_ident, 5) for _ in range(5)}
    assert len(threads) <= 2  # the first may still be on its way back to the idle ones
    wait_until(lambda: not [name for name in thread_names() if name.startswith("brief ")])
    assert calls.run("GET /x", lambda: 1, 5) == 1


def test_calls_from_many_threads_get_their_own_answers(calls):
    found = []

    def ask(number):
        found.extend(calls.run("GET /x", lambda turn=turn: (number, turn), 5) == (number, turn) for turn in range(50))

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert found == [True] * 400


def test_turns_are_short_while_a_call_takes_long_and_only_then(calls):
    usual, go_on, seen = sys.getswitchinterval(), threading.Event(), []

    def take_long():
        wait_until(lambda: sys.getswitchinterval() < usual)
        seen.append(sys.getswitchinterval())

    calls.run("GET /x", take_long, 5)
    assert seen
    wait_until(lambda: sys.getswitchinterval() == usual)
    with pytest.raises(GatewayTimeout):
        calls.run("GET /x", go_on.wait, 0.01)
    assert sys.getswitchinterval() < usual  # it may still compute
    go_on.set()
    wait_until(lambda: sys.getswitchinterval() == usual)


# Eviction


def overdue(calls, work):
    with pytest.raises(GatewayTimeout):
        calls.run("GET /x", work, 0.01)


def ended(calls):
    return calls._under_way == 0


def test_a_call_that_computes_for_ever_is_ended(calls):
    def compute():
        while True:
            pass

    for _ in range(20):
        overdue(calls, compute)
    wait_until(lambda: ended(calls))
    wait_until(lambda: not [name for name in thread_names() if name.startswith("mine GET /x")])


def test_one_that_catches_everything_once_is_ended_too(calls):
    caught = []

    def compute():
        while True:
            try:
                while True:
                    pass
            except BaseException as error:
                caught.append(error)
                if len(caught) > 2:
                    raise

    overdue(calls, compute)
    wait_until(lambda: ended(calls))
    assert {type(error) for error in caught} == {eviction.Overdue}


def test_a_change_of_the_service_comes_to_its_end(calls, monkeypatch):
    """Half a transaction must not be left behind."""
    monkeypatch.setattr(eviction, "LONGEST_PAUSE", 0.1)
    go_on, order = threading.Event(), []

    @eviction.sheltered
    def transaction():
        while not go_on.wait(0.01):
            pass
        order.append("whole")

    def handler():
        transaction()
        order.append("back")
        while True:
            pass

    overdue(calls, handler)
    threading.Event().wait(0.5)  # some tries
    assert not order
    go_on.set()
    wait_until(lambda: ended(calls))
    assert order[0] == "whole"


def test_a_count_of_a_handler_that_is_ended_is_whole(calls, monkeypatch):
    """A lock that it would leave behind would be that of every scrape from then on."""
    monkeypatch.setattr(eviction, "LONGEST_PAUSE", 0.05)
    counter, begun, go_on = metrics.Counter("x_total", "x"), [], threading.Event()

    def slowly(row, amount):
        begun.append(eviction._here.stay)
        while not go_on.wait(0.01):
            pass
        row[0] += amount

    def handler():
        while True:
            counter.inc()

    monkeypatch.setattr(metrics, "add", slowly)
    overdue(calls, handler)
    wait_until(lambda: begun)
    wait_until(lambda: begun[0]._is_wanted)
    go_on.set()
    wait_until(lambda: ended(calls))
    assert counter.collect().samples[0].value == len(begun)


def test_a_lock_that_was_not_given_back_keeps_nobody_from_the_end():
    """As CPython 3.9 may leave it: an exception from outside may come between a block's end and its release."""
    stay = eviction.Stay()

    def work():
        stay.arrive()
        stay._lock.acquire()
        stay.leave()

    stay.thread = threading.Thread(target=work, daemon=True)
    stay.thread.start()
    stay.thread.join(5)
    assert not stay.thread.is_alive()
    stay.evict()


def test_what_waits_in_the_kernel_costs_its_thread_until_it_comes_back(calls, monkeypatch):
    monkeypatch.setattr(eviction, "TRIES", 2)
    monkeypatch.setattr(eviction, "FIRST_PAUSE", 0.01)
    go_on, after = threading.Lock(), []
    go_on.acquire()

    def hang():
        go_on.acquire()
        after.append("not reached")

    tried, raise_in = [], eviction._raise_in
    monkeypatch.setattr(eviction, "_raise_in", lambda thread: tried.append(raise_in(thread)))
    overdue(calls, hang)
    wait_until(lambda: len(tried) == 2)
    assert not ended(calls)
    go_on.release()
    wait_until(lambda: ended(calls))
    assert not after


def test_without_ctypes_nothing_is_raised(calls, monkeypatch):
    """An image may have no libffi."""
    monkeypatch.setitem(sys.modules, "ctypes", None)
    over = threading.Event()

    def compute():
        while not over.is_set():
            pass

    overdue(calls, compute)
    assert not ended(calls)
    over.set()
    wait_until(lambda: ended(calls))


def test_a_thread_that_got_the_number_of_one_that_ended_is_left_alone(monkeypatch):
    """A thread's ident is free again as soon as it has ended."""
    monkeypatch.setattr(eviction, "TRIES", 3)
    go_on, caught = threading.Event(), []

    def innocent():
        try:
            while not go_on.wait(0.001):
                pass
        except eviction.Overdue as error:
            caught.append(error)

    victim = threading.Thread(target=innocent, daemon=True)
    victim.start()

    class Ended:
        ident = victim.ident

        def is_alive(self):
            return True  # as it was a moment ago

        def join(self, timeout=None):
            victim.join(0.01)

    stay = eviction.Stay()
    stay.thread = Ended()
    stay.leave()
    stay.evict()
    go_on.set()
    victim.join(5)
    assert not caught


def test_what_cannot_be_ended_makes_nobody_take_short_turns_for_ever(calls, monkeypatch):
    """It waits in the kernel, and computes nothing there."""
    monkeypatch.setattr(eviction, "TRIES", 1)
    monkeypatch.setattr(eviction, "FIRST_PAUSE", 0.01)
    usual, go_on = sys.getswitchinterval(), threading.Lock()
    go_on.acquire()
    overdue(calls, go_on.acquire)
    wait_until(lambda: sys.getswitchinterval() == usual)
    assert not ended(calls)
    go_on.release()
    wait_until(lambda: ended(calls))
    assert sys.getswitchinterval() == usual
