"""jobs.py: which jobs merge, wait and conflict. No thread, no process."""

from __future__ import annotations

import pytest

from wrapper.errors import Busy
from wrapper.service.jobs import Job, JobQueue


def test_like_jobs_merge_until_they_run():
    jobs = JobQueue()
    one = Job("restart", "a")
    assert jobs.ask(one) is one
    assert jobs.ask(Job("restart", "b")) is one
    assert jobs.take() is one
    two = jobs.ask(Job("restart", "c"))
    assert two is not one
    assert jobs.take() is None
    jobs.finish(one, None)
    assert one.wait(0)
    assert jobs.take() is two


@pytest.mark.parametrize(("running", "asked", "fits"), [
    ("start", "restart", True), ("restart", "reload", True), ("reload", "restart", True), ("stop", "restart", False),
    ("start", "stop", False), ("restart", "stop", False), ("restart", "start", False), ("stop", "start", False),
    ("restart", "barrier", True), ("barrier", "restart", True), ("stop", "barrier", False), ("barrier", "stop", False)])
def test_conflicts(running, asked, fits):
    jobs = JobQueue()
    jobs.ask(Job(running, "first"))
    jobs.take()
    second = Job(asked, "second")
    if fits:
        assert jobs.ask(second) is second
    else:
        with pytest.raises(Busy, match=f"a {running} is under way"):
            jobs.ask(second)


def test_a_settled_job_conflicts_with_nothing():
    jobs = JobQueue()
    jobs.ask(Job("stop", "first"))
    jobs.take()
    jobs.settle()
    start = Job("start", "second")
    assert jobs.ask(start) is start


def test_a_closed_queue_ends_what_does_not_run():
    jobs = JobQueue()
    one = jobs.ask(Job("restart", "a"))
    jobs.take()
    two = jobs.ask(Job("restart", "b"))
    jobs.close("over")
    assert two.is_done
    assert two.error == "over"
    assert not one.is_done
    with pytest.raises(Busy, match="over"):
        jobs.ask(Job("start", "c"))
