"""rollback.py: the way back to a version, and what to do about a file that something else has changed."""

from __future__ import annotations

import os
import threading

import pytest

from tests.config.test_history import Bench, whole
from wrapper.config import journal, rollback
from wrapper.errors import Busy


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PLACES", (str(tmp_path),))
    return Bench(tmp_path)


def test_a_secret_file_that_comes_back_is_no_more_readable_than_it_was(bench):
    os.chmod(bench.files[0], 0o600)
    before = whole(bench.files[0])
    bench.apply((None,))
    bench.apply(("public",))
    os.chmod(bench.files[0], 0o644)
    assert rollback.roll_back(bench.service, 0, []) == []
    assert whole(bench.files[0]) == before


class Source:
    """A subscription whose change is under way."""

    def __init__(self, is_bringing):
        self.name, self.hash_seen, self.skipped = "source", "abc", None
        self.bringing = threading.Lock()
        if is_bringing:
            self.bringing.acquire()

    def skip(self, which, reason):
        self.skipped = which


def test_no_way_back_while_a_change_of_a_source_is_under_way(bench):
    """It would come behind the way back, and undo it."""
    bench.apply(("new",))
    bench.apply(("newer",))
    source = Source(is_bringing=True)
    with pytest.raises(Busy, match="a change from source is under way"):
        rollback.roll_back(bench.service, 1, [source])
    source.bringing.release()
    assert rollback.roll_back(bench.service, 1, [source]) == []
    assert source.skipped == "abc"
    bench.apply((), {"A": "1"})
    assert bench.past.newest().skipped == {"source": "abc"}, "another change forgets no skip"


def problems(bench):
    return bench.service.around.board.list()


def test_a_changed_file_is_a_problem_until_it_is_as_it_was(bench):
    bench.apply(("good\n", "other\n"))
    rollback.check_drift(bench.service)
    assert problems(bench) == []
    bench.files[0].write_text("by hand\n")
    bench.files[1].unlink()
    for _ in range(2):
        rollback.check_drift(bench.service)
    found, = problems(bench)
    assert found["details"]["difference"] == [
        str(bench.files[0]), "--- then", "+++ now", "@@ -1 +1 @@", "-good", "+by hand",
        str(bench.files[1]), "--- then", "+++ nothing", "@@ -1 +0,0 @@", "-other"]
    bench.apply(("good\n", "other\n"))
    rollback.check_drift(bench.service)
    assert problems(bench) == []


def test_new_rights_are_no_drift(bench):
    """An image's own start script may give files to its user; and the next change keeps what it finds."""
    bench.apply(("good",))
    os.chmod(bench.files[0], 0o600)
    rollback.check_drift(bench.service)
    assert problems(bench) == []


def test_what_comes_back_twice_in_a_minute_is_only_reported(bench):
    bench.start("--config-drift", "repair")
    bench.apply(("good",))
    bench.files[0].write_text("by hand")
    rollback.check_drift(bench.service)
    assert bench.files[0].read_text() == "good"
    assert problems(bench) == []
    bench.files[0].write_text("by hand")
    rollback.check_drift(bench.service)
    assert bench.files[0].read_text() == "by hand"
    assert len(problems(bench)) == 1
    assert bench.past.numbers() == [1], "a repair is no version"


def test_it_does_not_look_in_the_middle_of_a_change(bench):
    bench.apply(("good",))
    bench.files[0].write_text("half done")
    with bench.service.changing:
        rollback.check_drift(bench.service)
    assert problems(bench) == []


def test_a_file_that_cannot_be_read_is_no_end_of_the_watch(bench):
    bench.apply(("good",))
    bench.files[0].unlink()
    bench.files[0].mkdir()
    rollback.check_drift(bench.service)
    assert "cannot look at the managed files: Is a directory" in problems(bench)[0]["message"]
    bench.files[0].rmdir()
    bench.files[0].write_text("by hand")
    rollback.check_drift(bench.service)
    assert ["something else has changed" in problem["message"] for problem in problems(bench)] == [True]
