"""cause.py: what went wrong in authors' code, as far as everybody may read it, and where a thread is."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import threading

import pytest

from tests.running import PATIENCE, ROOT, wait_until
from wrapper import cause
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.sidecar.isolation import Guard

# CPython up to 3.11 keeps its list of threads locked while it makes frames; a collection in between that ends a
# threading.local waits for that very lock, in the same thread.
LOOK = """
import gc, threading
from wrapper import cause
gc.set_threshold(1)
for _ in range(300):
    for _ in range(20):
        cycle = [threading.local()]
        cycle.append(cycle)
    cause.stack_of(threading.current_thread())
assert gc.isenabled()
"""


def test_a_look_at_a_stack_never_stops_the_interpreter():
    subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, check=True, timeout=PATIENCE)


def test_the_stack_of_a_thread_says_where_it_is():
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, daemon=True)
    thread.start()
    try:
        wait_until(lambda: "in wait" in cause.stack_of(thread))  # it has been started, and may not be there yet
    finally:
        go_on.set()
        thread.join()
    assert cause.stack_of(thread) == "it has just ended"


def test_everybody_reads_the_kind_and_the_place_only(capfd):
    try:
        raise ValueError("s3cret")
    except ValueError as error:
        said = cause.tell("GET /x", error, sidecar="mine")
    assert "s3cret" not in said
    assert "ValueError at test_cause.py:" in said
    assert "s3cret" in capfd.readouterr().err


def test_an_import_that_finds_nothing_to_run_shows_no_line_of_ours(capfd):
    """The fault is in a word of the command line, or in a file that does not compile: our lines say nothing of it."""
    work = functools.partial(importlib.import_module, "no_such_module")
    Guard("mine", Board(Feed())).attempt("the import", work, is_import=True)
    _, below, problem = capfd.readouterr().err.splitlines()
    assert below == "    ModuleNotFoundError: No module named 'no_such_module'"
    assert "problem: the import failed: No module named 'no_such_module'" in problem


def test_an_error_that_is_its_own_cause_is_told_once(capfd):
    """As after `raise error from error`."""
    try:
        try:
            raise ValueError("one")
        except ValueError as error:
            raise error from error
    except ValueError as error:
        cause.tell("GET /x", error)
    assert capfd.readouterr().err.count("ValueError: one") == 1


def test_a_chain_without_end_is_cut_off(capfd):
    error = ValueError("0")
    for number in range(1, 5000):
        error, error.__context__ = ValueError(str(number)), error
    cause.tell("GET /x", error)
    assert capfd.readouterr().err.count("because of:") == cause.CAUSES_MAX - 1


@pytest.mark.parametrize("raised", [RuntimeError("no"), SystemExit(1)])
def test_an_error_that_cannot_be_shown_is_told_by_its_kind(capfd, raised):
    class Odd(Exception):
        def __repr__(self):
            raise raised

        __str__ = __repr__

    assert "Odd" in cause.tell("GET /x", Odd())
    assert "GET /x failed cause=Odd" in capfd.readouterr().err
