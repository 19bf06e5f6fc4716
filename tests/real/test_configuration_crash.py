"""Fifty times SIGKILL in the middle of a change of configuration; it takes a minute."""

from __future__ import annotations

import pytest

from tests.config.test_configuration import killed_in_the_middle

pytestmark = pytest.mark.real


def test_fifty_times_killed_at_random_moments(tmp_path):
    seen, cut_short = killed_in_the_middle(tmp_path, 50, 2.2)
    assert len(seen) > 3, "changes came through in between"
    assert cut_short > 10, "many of the moments were in the middle"
