"""moment.py: moments of the wrapper's documents, read again."""

from __future__ import annotations

from wrapper import moment
from wrapper.log import timestamp


def test_epoch_reads_what_the_log_writes():
    assert moment.epoch("1970-01-01T00:01:00Z") == 60
    assert moment.epoch(timestamp(1769860800)) == 1769860800
    assert moment.epoch(5.5) == 5.5


def test_what_is_no_moment_is_none():
    assert [moment.epoch(text) for text in (None, "", "soon")] == [None] * 3
