"""Waiting for a few descriptors at a time."""

import os

import pytest

from wrapper.poll import BROKEN, READABLE, WRITABLE, ready


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_what_has_happened_is_told_by_descriptor(pipe):
    reading, writing = pipe
    assert ready(0, (reading, READABLE)) == {}
    assert ready(0, (reading, READABLE), (writing, WRITABLE)) == {writing: WRITABLE}
    os.write(writing, b"!")
    assert ready(None, (reading, READABLE)) == {reading: READABLE}


def test_a_break_is_told_whatever_was_asked():
    reading, writing = os.pipe()
    os.close(reading)
    assert ready(None, (writing, 0))[writing] & BROKEN
    os.close(writing)


def test_a_wait_may_be_longer_than_an_int_of_milliseconds(pipe):
    """`--idle-timeout 3000000s`: poll(2) takes an int, and CPython raises OverflowError."""
    os.write(pipe[1], b"!")
    assert ready(3_000_000.0, (pipe[0], READABLE))
