"""output.py: the service's output passes unchanged, and the newest of it is kept."""

from __future__ import annotations

import contextlib
import os
import threading

import pytest

from tests.running import wait_until
from wrapper.deadline import Deadline
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.service import output as rooms_output
from wrapper.service.output import KEPT_BYTES, LINE_BYTES, Named, Output, Pump


@pytest.fixture
def output(monkeypatch):
    """An Output whose stdout is a pipe of the test's."""
    reading, writing = os.pipe()
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(writing if descriptor == 1 else descriptor, data))
    subject = Output(Board(Feed()), "service")
    subject.reading, subject.passed = reading, writing
    yield subject
    for descriptor in (reading, writing):
        os.close(descriptor)


def send(output, data):
    stdout, stderr = output.streams()
    os.close(stderr)
    with open(stdout, "wb", buffering=0) as pipe:
        view = memoryview(data)
        while view:
            view = view[pipe.write(view):]


def test_output_passes_unchanged(output):
    data = bytes(range(256)) * 16
    send(output, data)
    got = b""
    while len(got) < len(data):
        got += os.read(output.reading, 65536)
    assert got == data


def test_a_line_of_any_length_blocks_no_writer_and_the_newest_100_kib_are_kept(output):
    got = []

    def drain():
        while len(b"".join(got)) < 3_000_000:
            got.append(os.read(output.reading, 1 << 20))

    reader = threading.Thread(target=drain)
    reader.start()
    send(output, b"x" * 2_900_000 + b"\nlast\n" + b"y" * 99_994)
    reader.join(20)
    assert not reader.is_alive()
    output.finish(Deadline(5.0))
    assert output.lines(2) == ["last", "y" * 99_994]
    assert len("".join(output.lines(10))) <= KEPT_BYTES


def test_a_second_pipe_that_cannot_be_had_leaves_none(monkeypatch):
    subject, pipe, made = Output(Board(Feed()), "service"), os.pipe, []

    def scarce():
        if made:
            raise OSError(24, "Too many open files")
        ends = pipe()
        made.append(os.readlink(f"/proc/self/fd/{ends[0]}"))
        return ends

    def is_open():
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/self/fd/{name}") == made[0]:
                    return True
        return False

    monkeypatch.setattr(os, "pipe", scarce)
    with pytest.raises(OSError, match="Too many"):
        subject.streams()
    wait_until(lambda: not is_open())


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_of_a_named_service_are_passed_on_whole(size):
    """However they come, an empty line and a last one without its end included; `ctl logs` has them as they came."""
    data = b"one\n\ntwo\r\nthree"
    named = Named("mail")
    passed = [named.lines(data[start:start + size]) for start in range(0, len(data), size)]
    assert all(piece.endswith(b"\n") for piece in passed if piece)
    assert b"".join([*passed, named.lines(b"")]) == b"mail | one\nmail | \nmail | two\r\nmail | three\n"
    assert named.lines(b"") == b""


def test_a_line_that_never_ends_is_passed_on_in_parts():
    named = Named("mail")
    passed = b"".join(named.lines(b"x" * 5000) for _ in range(40))
    assert len(passed) > 40 * 5000 - LINE_BYTES - 5000
    assert set(passed.splitlines()) == {b"mail | " + b"x" * 70_000}


def test_the_end_of_a_named_service_passes_its_last_words_on(output):
    output._is_named = True
    send(output, b"one\ntwo")
    output.finish(Deadline(5.0))
    got = b""
    while not got.endswith(b"two\n"):
        got += os.read(output.reading, 65536)
    assert got == b"service | one\nservice | two\n"
    assert output.lines(9) == ["one", "two"]


def test_binary_output_is_shown_with_replacements(output):
    send(output, b"\xff\xfe ok\n")
    output.finish(Deadline(5.0))
    assert output.lines(1) == ["\ufffd\ufffd ok"]


def test_a_line_ends_where_the_service_ended_it(output):
    """str.splitlines would end one at a next-line character or a unit separator too."""
    send(output, "a\x85b\x1cc\u2028d\ne\n".encode())
    output.finish(Deadline(5.0))
    assert output.lines(2) == ["a\x85b\x1cc\u2028d", "e"]


def test_following(output):
    position, _ = output.tail(0)
    send(output, b"one\n")
    output.finish(Deadline(5.0))
    position, data = output.after(position, 5)
    assert data == b"one\n"
    assert output.after(position, 0) == (position, b"")


def test_a_reader_that_left_does_not_block_the_service(monkeypatch):
    def broken(descriptor, data):
        raise BrokenPipeError(32, "Broken pipe")

    subject = Output(Board(Feed()), "service")
    stdout, stderr = subject.streams()
    os.close(stderr)
    monkeypatch.setattr(os, "write", broken)
    with open(stdout, "wb", buffering=0) as pipe:
        pipe.writelines([b"z" * 65536] * 100)
    monkeypatch.undo()
    subject.finish(Deadline(5.0))
    wait_until(lambda: len(subject._board) == 1)


def test_a_slow_reader_gets_the_last_words_too(output, monkeypatch):
    monkeypatch.setattr(rooms_output, "LAST_WORDS_TIMEOUT", 0.01)
    writing = threading.Thread(target=send, args=(output, b"z" * 500_000))
    writing.start()
    writing.join(10)  # all of it is in our pipe or in that of the reader, who has not begun
    wait_until(lambda: not output._pumps[0]._is_reading)
    finishing = threading.Thread(target=output.finish, args=(Deadline(20.0),))
    finishing.start()
    finishing.join(0.2)
    assert finishing.is_alive()
    got = 0
    while got < 500_000:
        got += len(os.read(output.reading, 65536))
    finishing.join(10)
    assert not finishing.is_alive()


def test_last_words_are_awaited_where_the_thread_that_reads_them_is_late(output, monkeypatch):
    monkeypatch.setattr(rooms_output, "LAST_WORDS_TIMEOUT", 0.01)
    begun, run = threading.Event(), Pump._run
    monkeypatch.setattr(Pump, "_run", lambda pump: begun.wait(20) and run(pump))
    send(output, b"last")
    finishing = threading.Thread(target=output.finish, args=(Deadline(20.0),))
    finishing.start()
    finishing.join(0.2)
    assert finishing.is_alive()
    begun.set()
    finishing.join(20)
    assert os.read(output.reading, 65536) == b"last"


def test_a_silent_grandchild_and_a_dead_reader_are_not_waited_for(output, monkeypatch):
    monkeypatch.setattr(rooms_output, "LAST_WORDS_TIMEOUT", 0.01)
    streams = output.streams()
    output.finish(Deadline(60.0))  # nothing is written, and the pipes stay open
    os.write(streams[0], b"z" * 500_000)
    output.finish(Deadline(0.05))  # it is not read
    for each in streams:
        os.close(each)
    got = 0
    while got < 500_000:
        got += len(os.read(output.reading, 65536))
