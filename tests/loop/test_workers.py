"""Threads for what may block: how many there are, when they come and when they end."""

import resource
import threading

import pytest

from tests.running import wait_until
from wrapper.loop import workers as workers_room
from wrapper.loop.workers import Workers
from wrapper.threads import NoThread

PATIENCE = 10.0


@pytest.fixture
def workers():
    made = []

    def make(most, kept=0):
        made.append(Workers("a test's worker", most, kept))
        return made[-1]

    yield make
    for each in made:
        each.stop()
        wait_until(lambda each=each: not each.count)


class Busy:
    """A job that goes on until it may end."""

    def __init__(self):
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        self.thread = None

    def __call__(self):
        self.thread = threading.current_thread()
        self.has_begun.set()
        assert self.may_end.wait(PATIENCE)


def busy(workers, count):
    jobs = [Busy() for _ in range(count)]
    for job in jobs:
        workers.submit(job)
    for job in jobs:
        assert job.has_begun.wait(PATIENCE)
    return jobs


def idle(workers, count):
    wait_until(lambda: len(workers._idle) == count)


def test_no_more_than_so_many_are_busy_at_a_time(workers):
    made = workers(3)
    jobs = busy(made, 3)
    assert len({job.thread for job in jobs}) == 3 == made.count
    with pytest.raises(NoThread, match="3 threads are busy"):
        made.submit(bool)
    jobs[1].may_end.set()
    idle(made, 1)
    again, = busy(made, 1)
    assert again.thread is jobs[1].thread and made.count == 3
    for job in (*jobs, again):
        job.may_end.set()


def test_the_thread_that_was_busy_last_gets_the_next_job(workers):
    """So that the others grow old, and end."""
    made = workers(3)
    jobs = busy(made, 3)
    for count, job in enumerate(jobs):
        job.may_end.set()
        idle(made, count + 1)
    for expected in (jobs[2], jobs[1], jobs[0]):
        job, = busy(made, 1)
        assert job.thread is expected.thread
        jobs.append(job)
    for job in jobs:
        job.may_end.set()


def test_a_thread_that_idles_for_long_ends_and_the_kept_ones_stay(workers, monkeypatch):
    made = workers(4, kept=2)
    monkeypatch.setattr(workers_room, "IDLE_TIMEOUT", 0.02)
    made.start()
    idle(made, 2)
    jobs = busy(made, 4)
    assert made.count == 4
    for job in jobs:
        job.may_end.set()
    wait_until(lambda: made.count == 2)
    idle(made, 2)
    again = busy(made, 2)
    assert made.count == 2
    for job in again:
        job.may_end.set()


def test_the_kept_ones_are_there_where_no_thread_can_be_had_any_more(workers, monkeypatch):
    made = workers(4, kept=2)
    made.start()
    idle(made, 2)

    monkeypatch.setattr(threading.Thread, "start", cannot_start)
    jobs = busy(made, 2)
    with pytest.raises(NoThread, match="can't start new thread"):
        made.submit(bool)
    assert made.count == 2, "what did not start is not counted"
    monkeypatch.undo()
    jobs += busy(made, 1)
    for job in jobs:
        job.may_end.set()


def test_a_start_where_no_thread_can_be_had_says_so(workers, monkeypatch):
    made = workers(4, kept=1)
    monkeypatch.setattr(threading.Thread, "start", cannot_start)
    with pytest.raises(NoThread):
        made.start()
    assert made.count == 0


def cannot_start(thread):
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_job_that_raises_is_logged_and_its_thread_goes_on(workers, capfd, error):
    def fails():
        raise error

    made = workers(1)
    made.submit(fails)
    idle(made, 1)
    job, = busy(made, 1)
    assert made.count == 1 and error.__name__ in capfd.readouterr().err
    job.may_end.set()


def test_a_stop_ends_the_idle_at_once_and_the_busy_after_their_job(workers):
    made = workers(3)
    jobs = busy(made, 3)
    jobs[0].may_end.set()
    idle(made, 1)
    made.stop()
    wait_until(lambda: made.count == 2)
    with pytest.raises(NoThread):
        made.submit(bool)
    for job in jobs[1:]:
        assert job.thread.is_alive()
        job.may_end.set()
        job.thread.join(PATIENCE)
        assert not job.thread.is_alive()


def test_the_threads_have_a_name_and_keep_no_process_alive(workers):
    made = workers(1)
    job, = busy(made, 1)
    assert job.thread.name == "a test's worker" and job.thread.daemon
    job.may_end.set()


def test_none_of_many_jobs_is_lost_while_threads_come_and_go(workers, monkeypatch):
    """A job that comes the moment an idle thread gives up waiting must not be forgotten with it."""
    monkeypatch.setattr(workers_room, "IDLE_TIMEOUT", 0.0)
    made, ran, count = workers(64), [], 3000
    for number in range(count):
        submit(made, lambda number=number: ran.append(number))
    wait_until(lambda: len(ran) == count)
    assert sorted(ran) == list(range(count))


def submit(workers, job):
    def attempt():
        try:
            workers.submit(job)
        except NoThread:
            return False
        return True

    if not attempt():
        wait_until(attempt)


@pytest.mark.parametrize(("said", "most"), [("64", 16), ("max", 512), ("100000", 512), ("3", 4), (None, 512)])
def test_a_container_s_limit_on_processes_leaves_most_of_them_to_the_service(tmp_path, monkeypatch, said, most):
    """Threads count as processes (the kernel's cgroup-v2, "PID"); a file for them is not always there."""
    if said is not None:
        (tmp_path / "pids.max").write_text(said + "\n")
    monkeypatch.setattr(workers_room, "PIDS_MAX", (str(tmp_path / "pids.max"), str(tmp_path / "none")))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert workers_room.share(512) == most


def test_half_of_the_threads_stay_for_what_is_soon_over():
    subject = Workers("test", 4)
    assert [subject.begin_stream() for _ in range(3)] == [True, True, False]
    subject.end_stream()
    assert subject.begin_stream()
