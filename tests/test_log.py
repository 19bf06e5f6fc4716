"""log.py: a line for people or machines, and never a reason to wait."""

from __future__ import annotations

import json
import os
import threading

import pytest

from wrapper import log as room
from wrapper.log import Log


@pytest.fixture
def pipe(monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setattr(room, "STDERR", writing)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def fill(writing):
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)


def drain(reading):
    os.set_blocking(reading, False)
    found = b""
    try:
        while piece := os.read(reading, 65536):
            found += piece
    except BlockingIOError:
        return found.decode()


def test_a_full_pipe_costs_lines_and_no_time(pipe):
    log = Log()
    fill(pipe[1])
    threads = [threading.Thread(target=log.info, args=("lost",), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join(5)
        assert not thread.is_alive()
    drain(pipe[0])
    log.info("heard")
    first, second = drain(pipe[0]).splitlines()
    assert "dropped" in first and first.endswith("count=3")
    assert second.endswith("heard")


def test_a_line_longer_than_a_pipe_does_not_wait_either(pipe):
    thread = threading.Thread(target=Log().info, args=("y" * 1_000_000,), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_a_line_over_a_page_is_whole(pipe):
    Log().info("y" * 20_000)
    assert drain(pipe[0]).rstrip().endswith("y" * 20_000)


def test_json_is_one_object_a_line(pipe):
    log = Log()
    log.configure("warning", "json")
    log.info("not this")
    log.error("two\nlines", number=3)
    found = json.loads(drain(pipe[0]))
    assert (found["level"], found["message"], found["number"]) == ("error", "two\nlines", 3)


def test_a_traceback_has_lines_of_its_own_that_cannot_pretend_to_be_events(pipe):
    log = Log()
    log.error("it failed", sidecar="mine", traceback='  File "x.py", line 1\n\x1b[2JValueError: 2026 wrapper info: y\n')
    log.warning("no lines", output="")
    first, *below, last = drain(pipe[0]).splitlines()
    assert first.endswith("wrapper error: it failed sidecar=mine")
    assert below == ['      File "x.py", line 1', "    \\x1b[2JValueError: 2026 wrapper info: y"]
    assert last.endswith("no lines")


def test_a_line_says_when_to_the_millisecond(pipe, monkeypatch):
    monkeypatch.setattr("wrapper.log.time.time", lambda: 1769860800.0329)
    log = Log()
    log.info("now")
    assert drain(pipe[0]).startswith("2026-01-31T12:00:00.032Z wrapper info: now")
    log.configure("info", "json")
    log.info("now")
    assert json.loads(drain(pipe[0]))["time"] == "2026-01-31T12:00:00.032Z"


@pytest.fixture
def lines(monkeypatch):
    """What this thread writes; another's goes its way, such as a loop's wake-up."""
    written, write, here = [], os.write, threading.get_ident()

    def keep(descriptor, data):
        if threading.get_ident() != here:
            return write(descriptor, data)
        written.append(data.decode())
        return len(data)

    monkeypatch.setattr(os, "write", keep)
    return written


def test_one_event_is_one_line(lines):
    Log().info("two\nlines\r", cause="a\nb", seconds=1.23456, nothing=None)
    assert len(lines) == 1
    assert lines[0].count("\n") == 1
    assert r"two\nlines\r cause='a\nb' seconds=1.235" in lines[0]


def test_json_lines_are_json(lines):
    log = Log()
    log.configure("debug", "json")
    log.debug("é\n", path="/x")
    assert json.loads(lines[0])["message"] == "é\n"


def test_the_level_silences(lines):
    log = Log()
    log.configure("error", "text")
    log.warning("no")
    assert lines == []


def test_a_full_disk_is_no_reason_to_fail(monkeypatch):
    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    Log().error("lost")
