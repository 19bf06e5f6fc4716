"""reaper.py: which orphans are collected, and when; no status that other code waits for is taken."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import threading
import types

import pytest

from tests.running import Wrapper, service, wait_until
from tests.test_entrypoint import as_subreaper, children
from wrapper.service import procfs, reaper
from wrapper.service.reaper import Reaper


def shell(script, **options):
    return subprocess.Popen(["/bin/sh", "-c", script], **options)


def is_zombie(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait_zombie(*processes):
    for process in processes:
        wait_until(lambda process=process: is_zombie(process.pid))


def is_gone(process):
    try:
        is_zombie(process.pid)
    except ChildProcessError:
        process.returncode = 0  # collected: keep Popen from asking again
        return True
    return False


@pytest.fixture
def subject():
    return Reaper()


def test_an_orphan_is_collected_soon_and_behind_one_that_is_awaited(subject):
    awaited, orphan = shell("exit 3"), shell("exit 0", start_new_session=True)  # another group, as an adopted one has
    wait_zombie(awaited, orphan)
    assert 0 < subject.reap({awaited.pid}) <= reaper.FOREIGN_GRACE
    wait_until(lambda: subject.reap({awaited.pid}) is None)
    assert is_gone(orphan)
    assert awaited.wait(5) == 3


def test_what_came_over_exec_is_collected_at_once():
    inherited = shell("read line", stdin=subprocess.PIPE)
    subject = Reaper()
    inherited.stdin.close()
    wait_zombie(inherited)
    assert subject.reap(()) is None
    assert is_gone(inherited)


def test_what_sidecar_code_started_is_left_to_it_while_its_thread_lives(subject, monkeypatch):
    """In its own session, too, and however long it does not ask."""
    monkeypatch.setattr(reaper, "FOREIGN_GRACE", 0.0)
    started, may_wait, found = threading.Event(), threading.Event(), []

    def work():
        process = shell("exit 7", start_new_session=True)
        wait_zombie(process)
        started.set()
        may_wait.wait(10)
        found.append(process.wait())

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    assert subject.reap(()) is None
    may_wait.set()
    thread.join(10)
    assert found == [7]


def test_what_an_ended_thread_started_is_left_for_a_while(subject):
    kept = []
    thread = threading.Thread(target=lambda: kept.append(shell("exit 7")))
    thread.start()
    thread.join(10)
    wait_zombie(kept[0])
    wait_until(lambda: kept[0].pid in procfs.adopted())  # the kernel's part of the thread ends a little later
    assert reaper.FOREIGN_GRACE < subject.reap(()) <= reaper.OWN_GRACE
    assert kept[0].wait(5) == 7
    assert subject.reap(()) is None


def test_many_that_end_together_cost_few_looks(subject, monkeypatch):
    looks, clock = [], [1000.0]
    monkeypatch.setattr(reaper, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(procfs, "adopted", lambda: looks.append(1) or [os.getpid()])
    monkeypatch.setattr(procfs, "stat", lambda pid: types.SimpleNamespace(state="Z"))
    monkeypatch.setattr(Reaper, "_grace", lambda self, pid: reaper.FOREIGN_GRACE)
    for _ in range(100):
        assert subject.reap(()) <= reaper.FOREIGN_GRACE
        clock[0] += reaper.FOREIGN_GRACE / 101
    assert len(looks) == 1


def test_all_that_ended_together_are_collected_in_one_look(subject, monkeypatch):
    clock = [1000.0]
    orphans = [shell("exit 0", start_new_session=True) for _ in range(20)]
    wait_zombie(*orphans)
    monkeypatch.setattr(reaper, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    clock[0] += subject.reap(())
    assert subject.reap(()) is None
    assert all(is_gone(orphan) for orphan in orphans)


def test_a_kernel_without_lists_has_the_long_way_round(monkeypatch):
    process = shell("exit 0")
    wait_zombie(process)
    monkeypatch.setattr("builtins.open", refuse("/children", FileNotFoundError(2, "No such file or directory")))
    assert process.pid in procfs.adopted()
    monkeypatch.undo()
    process.wait(5)


def refuse(part, error):
    """A file or folder whose path ends so cannot be had; the rest can."""
    real = open

    def opener(path=".", *words, **options):
        if str(path).endswith(part):
            raise error
        return real(path, *words, **options)

    return opener


def test_without_a_descriptor_a_look_fails_nothing_and_is_made_up_for(subject, monkeypatch):
    orphan = shell("exit 0", start_new_session=True)
    wait_zombie(orphan)
    for path in ("/children", "/stat"):
        monkeypatch.setattr("builtins.open", refuse(path, OSError(errno.EMFILE, "Too many open files")))
        monkeypatch.setattr("os.listdir", refuse("", OSError(errno.EMFILE, "Too many open files")))
        subject._next_look = 0.0
        assert 0 < subject.reap(()) <= reaper.FOREIGN_GRACE
        monkeypatch.undo()
    wait_until(lambda: subject.reap(()) is None)
    assert is_gone(orphan)


# The wrapper whole

def test_the_service_goes_on_where_there_is_no_descriptor_to_look_at_zombies_with():
    with Wrapper(command=service("plain")) as wrapper:
        wrapper.process.send_signal(signal.SIGALRM)
        wrapper.wait_line(f"signal {int(signal.SIGALRM)}\n")  # so it has loaded all, and looks after signals
        most, hard = resource.prlimit(wrapper.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(wrapper.process.pid, resource.RLIMIT_NOFILE, (3, hard))
        wrapper.process.send_signal(signal.SIGCHLD)
        wrapper.process.send_signal(signal.SIGWINCH)  # the higher number: heard second, by the same thread
        wrapper.wait_line(f"signal {int(signal.SIGWINCH)}\n")
        resource.prlimit(wrapper.process.pid, resource.RLIMIT_NOFILE, (most, hard))
        assert wrapper.status()["state"] == "running"


def test_a_script_that_becomes_the_wrapper_leaves_no_zombies():
    script = 'for n in 1 2 3; do sleep 0.2 & done; exec "$@"'
    with Wrapper(command=service("plain"), wait=False, under=["sh", "-c", script, "sh"]) as wrapper:
        wrapper.wait_state("running")
        wait_until(lambda: children(wrapper.process.pid) == [wrapper.status()["pid"]])


def test_a_hundred_orphans_are_all_reaped():
    with Wrapper(command=service("orphans", "100"), preexec_fn=as_subreaper) as wrapper:
        wrapper.wait_line("left 100 orphans")
        wait_until(lambda: not children(wrapper.process.pid, "Z"))
        assert children(wrapper.process.pid) == [wrapper.status()["pid"]]


SIDECAR = """
import collections, subprocess, threading
from wrapper import Sidecar

sidecar = Sidecar()


def run(**options):
    return subprocess.Popen(["/bin/sh", "-c", "exit 7"], **options)


@sidecar.route("GET", "/sidecar/api/statuses")
def statuses(request):
    late = [run(start_new_session=True), run()]
    found = [run(start_new_session=is_new).wait() for is_new in (True, False) * 10]
    threading.Event().wait(0.6)
    return {"found": found, "late": [process.wait() for process in late]}
"""


def test_no_status_of_what_sidecar_code_starts_is_taken(tmp_path):
    (tmp_path / "runs.py").write_text(SIDECAR)
    with Wrapper("--sidecar", str(tmp_path / "runs.py"), command=service("plain")) as wrapper:
        wait_until(lambda: wrapper.request("GET", "/sidecar/api/statuses")[0] == 200)
        status, answer = wrapper.command("GET", "/sidecar/api/statuses")
    assert status == 200
    assert answer == {"found": [7] * 20, "late": [7, 7]}
