"""isolation.py: whatever authors' code does is a problem entry, never an outage; a call that hangs costs one place."""

from __future__ import annotations

import sys
import threading

import pytest

from tests.running import wait_until
from wrapper.errors import NotFound, Refusal, Unavailable
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.sidecar.extension import Sidecar
from wrapper.sidecar.isolation import Guard, fitting
from wrapper.testing import running


@pytest.fixture
def board():
    return Board(Feed())


@pytest.fixture
def guard(board):
    return Guard("mine", board)


def test_what_caused_an_error_is_in_the_log(guard, capfd):
    def fail():
        try:
            {}["key"]
        except KeyError as error:
            raise ValueError("outer") from error

    assert not guard.attempt("x", fail)
    log = capfd.readouterr().err
    assert "ValueError: outer" in log
    assert "because of:" in log
    assert "KeyError: " in log


def test_one_failure_is_one_line_of_the_log(guard, capfd):
    guard.attempt("x", lambda: 1 / 0)
    failed = [line for line in capfd.readouterr().err.splitlines() if "ZeroDivisionError" in line and "error:" in line]
    assert len(failed) == 1


def test_what_a_client_asked_for_is_not_on_the_board(guard, board):
    """Strangers read the board; only what an import says names nothing but modules and files."""
    def fail():
        raise FileNotFoundError(2, "No such file", "/home/of-another-client")

    guard.attempt("GET /x", fail)
    assert "another-client" not in board.list()[0]["message"]
    guard.attempt("the import", fail, is_import=True)
    assert "another-client" in board.list()[1]["message"]


def test_a_function_gets_as_many_arguments_as_it_needs():
    assert fitting(lambda: "none")(1, 2) == "none"
    assert fitting(lambda a: a)(1, 2) == 1
    assert fitting(lambda a, b=5: (a, b))(1, 2) == (1, 5)
    assert fitting(lambda a, b, c=5: (a, b, c))(1, 2) == (1, 2, 5)
    assert fitting(lambda *all_: all_)(1, 2) == (1, 2)
    assert fitting(lambda a, *, key=3: (a, key))(1, 2) == (1, 3)
    assert fitting(max)(1, 2) == 2


def test_a_method_and_a_callable_object_count_without_self():
    class Author:
        def method(self, request):
            return request

        __call__ = method

    assert fitting(Author().method)(1, 2) == 1
    assert fitting(Author())(1, 2) == 1


# Requests that it answers


class Asked:
    """A request, as far as a call needs one; `late` is what its client's task would call after `seconds`."""

    def limit_time(self, seconds, late):
        self.seconds, self.late = seconds, late


def messages(board):
    return [problem["message"] for problem in board.list()]


def test_what_a_call_returns_is_returned_and_its_time_is_said(guard, board):
    asked = Asked()
    assert guard.answer("GET /x", asked, lambda: 7, 5) == 7
    assert asked.seconds == 5 and not board.list()


@pytest.mark.parametrize("error", [ValueError("s3cret"), SystemExit(3), KeyboardInterrupt(), RecursionError(),
                                   MemoryError(), GeneratorExit()])
def test_a_call_that_raises_is_500_and_a_problem_without_the_message(guard, board, error, capfd):
    def fail():
        raise error

    with pytest.raises(Refusal) as refusal:
        guard.answer("GET /x", Asked(), fail, 5)
    assert refusal.value.status == 500
    assert "s3cret" not in refusal.value.message
    (message,) = messages(board)
    assert type(error).__name__ in message
    assert "test_isolation.py" in message
    assert "s3cret" not in message
    log = capfd.readouterr().err
    assert "in fail" in log
    assert repr(error) in log


def test_a_refusal_is_the_authors_answer_and_no_problem(guard, board):
    def refuse():
        raise NotFound("no such thing")

    with pytest.raises(NotFound):
        guard.answer("GET /x", Asked(), refuse, 5)
    assert not board.list()


class Hanging:
    """A call under way that is late, in a thread of its own, until `go_on` is set."""

    def __init__(self, guard, result=None):
        self.go_on, began, self.asked = threading.Event(), threading.Event(), Asked()

        def hang():
            began.set()
            self.go_on.wait()
            return result

        self.thread = threading.Thread(target=guard.answer, args=("GET /x", self.asked, hang, 0.01), daemon=True)
        self.thread.start()
        assert began.wait(5)

    def end(self):
        self.go_on.set()
        self.thread.join(5)


def test_a_call_that_hangs_is_a_problem_and_its_late_answer_is_closed(guard, board, capfd):
    closed = threading.Event()

    class Late:
        def close(self):
            closed.set()

    call = Hanging(guard, Late())
    call.asked.late()
    assert messages(board) == ["GET /x did not answer within 0.01 s"]
    assert "self.go_on.wait()" in capfd.readouterr().err  # where it hangs
    call.end()
    assert closed.is_set()
    assert "GET /x has ended after all" in capfd.readouterr().err
    assert messages(board), "a late answer does not say that all is well"


def test_a_call_that_ended_in_the_moment_of_its_deadline_is_no_problem(guard, board):
    asked = Asked()
    guard.answer("GET /x", asked, lambda: 1, 0.01)
    asked.late()
    assert not board.list()


def test_a_call_that_goes_well_takes_its_problem_away(guard, board):
    with pytest.raises(Refusal):
        guard.answer("GET /x", Asked(), lambda: 1 / 0, 5)
    guard.answer("GET /y", Asked(), lambda: 1, 5)
    assert len(board) == 1
    guard.answer("GET /x", Asked(), lambda: 1, 5)
    assert not board.list()


def test_hanging_calls_do_not_pile_up(board, monkeypatch):
    """The place of a call is taken until it returns, whether its client still waits or not."""
    monkeypatch.setattr("wrapper.sidecar.isolation.MOST_CALLS", 2)
    guard = Guard("mine", board)
    hanging = [Hanging(guard) for _ in range(2)]
    hanging[0].asked.late()
    with pytest.raises(Unavailable):
        guard.answer("GET /x", Asked(), lambda: 1, 5)
    for call in hanging:
        call.end()
    assert guard.answer("GET /x", Asked(), lambda: 1, 5) == 1


def test_the_interpreter_switches_often_while_a_call_takes_long_and_only_then():
    """A handler that computes takes the interpreter whenever the loop waits for a socket."""
    sidecar, go_on, before = Sidecar(), threading.Event(), sys.getswitchinterval()
    sidecar.route("GET", "/long")(lambda: str(go_on.wait(10)))
    sidecar.route("GET", "/short")(lambda: "short")
    with running(sidecar) as wrapper:
        assert wrapper.get("/short").text == "short"
        asking = threading.Thread(target=wrapper.get, args=("/long",))
        asking.start()
        wait_until(lambda: sys.getswitchinterval() < before / 2)
        assert wrapper.get("/short").text == "short"
        assert sys.getswitchinterval() < before / 2, "the short call does not end what the long one began"
        go_on.set()
        asking.join(10)
        wait_until(lambda: sys.getswitchinterval() == pytest.approx(before))


def test_a_call_past_its_time_is_504_for_its_client_and_the_next_one_is_served():
    sidecar, go_on = Sidecar(), threading.Event()
    sidecar.route("GET", "/hang", timeout=0.05)(lambda: str(go_on.wait(10)))
    sidecar.route("GET", "/well")(lambda: "well")
    with running(sidecar) as wrapper:
        assert wrapper.get("/hang").status == 504
        assert "GET /hang did not answer within 0.05 s" in wrapper.wait_problem("hang")["message"]
        assert wrapper.get("/well").text == "well"
        go_on.set()
