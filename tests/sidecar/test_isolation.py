"""isolation.py: whatever authors' code does is a problem entry, never an outage."""

from __future__ import annotations

import pytest

from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.sidecar.isolation import Guard, fitting


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
