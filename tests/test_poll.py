"""Waiting for a descriptor."""

import os

import pytest

from wrapper.poll import READABLE, WRITABLE, is_ready


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_what_was_asked_for_is_waited_for(pipe):
    reading, writing = pipe
    assert is_ready(writing, WRITABLE)
    assert not is_ready(reading, READABLE, 0)
    os.write(writing, b"!")
    assert is_ready(reading, READABLE)


def test_a_break_is_told_whatever_was_asked():
    reading, writing = os.pipe()
    os.close(reading)
    assert is_ready(writing, 0)
    os.close(writing)


def test_a_wait_may_be_longer_than_an_int_of_milliseconds(pipe):
    """`--idle-timeout 3000000s`: poll(2) takes an int, and CPython raises OverflowError."""
    os.write(pipe[1], b"!")
    assert is_ready(pipe[0], READABLE, 3_000_000.0)
