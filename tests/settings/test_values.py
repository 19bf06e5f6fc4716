"""values.py: text in, a value or a sentence that names the fault out. Pure."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading

import pytest

from wrapper.settings import values


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("2m", 120), ("1h", 3600), ("1.5", 1.5)])
def test_durations(text, seconds):
    assert values.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1e3", "inf", "nan", "1d", "1.s", "٣s"])
def test_bad_durations(text):
    with pytest.raises(ValueError, match="expected"):
        values.duration(text)


@pytest.mark.parametrize("text", ["99999999999", "577h", "9" * 400])
def test_a_duration_that_no_wait_can_take_is_a_fault(text):
    """threading.TIMEOUT_MAX and poll(2) have their limits; a wait over them raises OverflowError."""
    with pytest.raises(ValueError, match="at most 576h"):
        values.duration(text)


def test_the_longest_duration_is_one_that_every_wait_takes():
    longest = values.duration("576h")
    assert longest <= threading.TIMEOUT_MAX
    with socket.socket() as each:
        each.settimeout(longest)
    poll = select.poll()
    reading, writing = os.pipe()
    poll.register(writing, select.POLLOUT)
    assert poll.poll(longest * 1000)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(("text", "size"), [("64KiB", 65536), ("1MiB", 1 << 20), ("5", 5), ("2gib", 2 << 30)])
def test_sizes(text, size):
    assert values.size(text) == size


@pytest.mark.parametrize(("text", "number"), [
    ("TERM", 15), ("SIGHUP", 1), ("hup", 1), ("9", 9), ("RTMIN+3", signal.SIGRTMIN + 3)])
def test_signals(text, number):
    assert values.signal_number(text) == number
    assert values.signal_number(values.signal_name(number)) == number


@pytest.mark.parametrize("text", ["", "NOPE", "0", "999", "TERM+1", "_DFL", "SIG_IGN", "RTMIN+99"])
def test_bad_signals(text):
    with pytest.raises(ValueError, match="expected a signal"):
        values.signal_number(text)


def test_status_lists():
    assert values.status_list("200,204,300-399") == ((200, 200), (204, 204), (300, 399))
    for text in ("", "2xx", "399-300", "99", "600", "200,"):
        with pytest.raises(ValueError, match="expected HTTP codes"):
            values.status_list(text)


@pytest.mark.parametrize("text", ["sidecar", "/", "/a/../b", "/a b", "/a//b", "/%61"])
def test_bad_prefixes(text):
    with pytest.raises(ValueError, match="expected a path"):
        values.prefix(text)
