"""process.py: spawn, signal, wait, kill, reap. Real processes, no port."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import subprocess
import sys
import threading

import pytest

from tests.running import wait_until
from wrapper.errors import CannotStart
from wrapper.service import procfs
from wrapper.service.process import Process, Spawner
from wrapper.threads import NoThread


@pytest.fixture
def spawner():
    return Spawner()


def spawn(spawner, *command, **streams):
    over = threading.Event()
    process = spawner.spawn(command, os.environ, lambda process: over.set(), **streams)
    process.over = over
    return process


def shell(spawner, script, **streams):
    return spawn(spawner, "/bin/sh", "-c", script, **streams)


def test_status_is_the_services_own(spawner):
    process = shell(spawner, "exit 7")
    assert process.over.wait(20)
    assert (process.exit_status, process.exit_signal) == (7, None)


def test_status_is_128_plus_n_when_a_signal_ended_it(spawner):
    process = shell(spawner, "kill -9 $$")
    assert process.over.wait(20)
    assert (process.exit_status, process.exit_signal) == (137, 9)


def test_status_is_never_stolen_by_the_reaper(spawner):
    """A service that ends at once was taken for an orphan 25 times in 200 before spawn and register were one step."""
    stop = threading.Event()

    def reap():
        while not stop.is_set():
            spawner.reap_orphans()

    reaper = threading.Thread(target=reap)
    reaper.start()
    try:
        for _ in range(100):
            process = spawn(spawner, "/bin/false")
            assert process.over.wait(20)
            assert process.exit_status == 1
    finally:
        stop.set()
        reaper.join()


@pytest.mark.parametrize(("script", "returncode"), [("exit 7", 7), ("kill -9 $$", -9)])
def test_status_taken_behind_the_first_look_is_not_lost(spawner, monkeypatch, script, returncode):
    """Sidecar code that calls os.wait() may collect our process; Popen then says 0."""
    waitid = os.waitid

    def stolen(kind, pid, options):
        found = waitid(kind, pid, options)
        os.waitpid(pid, 0)
        return found

    monkeypatch.setattr(os, "waitid", stolen)
    process = shell(spawner, script)
    assert process.over.wait(20)
    assert process.returncode == returncode


def test_status_taken_before_the_first_look_is_unknown_and_no_success(spawner, monkeypatch):
    waitid = os.waitid

    def late(kind, pid, options):
        os.waitpid(pid, 0)
        return waitid(kind, pid, options)

    monkeypatch.setattr(os, "waitid", late)
    process = shell(spawner, "exit 0")
    assert process.over.wait(20)
    assert process.returncode == 255


def test_process_has_a_group_of_its_own_in_our_session(spawner):
    process = shell(spawner, "sleep 60")
    try:
        assert os.getpgid(process.pid) == process.pid
        assert os.getsid(process.pid) == os.getsid(0)
    finally:
        process.stop(signal.SIGKILL, 5)


def test_what_is_left_of_the_group_ends_with_it(spawner):
    """As in a container whose PID 1 ends."""
    process = shell(spawner, "trap '' TERM HUP; (trap '' TERM HUP; sleep 60) & echo $!; exit 0", stdout=subprocess.PIPE)
    left = int(process._popen.stdout.readline())
    assert process.over.wait(20)
    wait_until(lambda: not is_alive(left))
    process._popen.stdout.close()


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_pipe_held_by_a_grandchild_does_not_hide_the_end(spawner, tmp_path):
    reading, writing = os.pipe()
    process = shell(spawner, f"setsid sleep 60 & echo $! >{tmp_path}/pid; exit 4", stdout=writing)
    os.close(writing)
    assert process.over.wait(20)
    assert process.exit_status == 4
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):  # the group's end may have come before setsid
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_process_that_joins_another_group_is_stopped_all_the_same(spawner):
    """setpgid(2): only what leads a session can not."""
    script = """
import os, time
reading, writing = os.pipe()
child = os.fork()
if not child:
    os.close(writing)
    os._exit(len(os.read(reading, 1)))  # once its parent has ended
os.setpgid(child, child)
os.setpgid(0, child)
print(flush=True)
time.sleep(600)  # until it is stopped
"""
    process = spawn(spawner, sys.executable, "-c", script, stdout=subprocess.PIPE)
    process._popen.stdout.readline()
    assert process.stop(signal.SIGTERM, 20.0)
    assert process.exit_signal == signal.SIGTERM


def test_what_sidecar_code_starts_is_not_what_the_service_left_behind():
    """Though it has a session of its own, as a tool that must outlive a restart of the service may be given."""
    process = Spawner(adopts=True).spawn(["sleep", "600"], os.environ, lambda _: None, on_leader_end=lambda _: None)
    children, may_end = queue.SimpleQueue(), threading.Event()

    def author():
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as child:
            children.put(child.pid)
            may_end.wait()

    thread = threading.Thread(target=author)
    thread.start()
    try:
        assert children.get(timeout=20) not in process.family()
    finally:
        may_end.set()
        process.stop(signal.SIGKILL, 0.0)
        thread.join()


def test_a_look_at_orphans_without_a_descriptor_hides_no_end(monkeypatch, spawner):
    def refuse(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(spawner, "_left_by", refuse)
    over = threading.Event()
    process = spawner.spawn(["sh", "-c", "exit 7"], os.environ, lambda _: over.set(), on_leader_end=lambda _: None)
    assert over.wait(20)
    assert process.exit_status == 7


def test_stop_escalates_to_sigkill(spawner):
    process = shell(spawner, "trap '' TERM; echo; while :; do sleep 0.1; done", stdout=subprocess.PIPE)
    process._popen.stdout.readline()
    assert process.stop(signal.SIGTERM, 0.2) is False
    assert process.exit_status == 137
    process._popen.stdout.close()


def test_stop_continues_a_suspended_process(spawner):
    process = shell(spawner, "exec sleep 60")
    process.signal(signal.SIGSTOP)
    wait_until(lambda: procfs.stat(process.pid).state == "T")
    assert process.stop(signal.SIGTERM, 20) is True
    assert process.exit_status == 143


SUSPENDED = "sh -c 'kill -STOP $$; sleep 60' & while ! grep -q ' T ' /proc/$!/stat; do sleep 0.01; done"


def test_a_stop_continues_what_the_service_has_suspended(spawner):
    """As systemd does, see `KillSignal=` in systemd.kill(5)."""
    process = shell(spawner, f"trap 'wait; exit 3' TERM; {SUSPENDED}; echo; wait", stdout=subprocess.PIPE)
    with process._popen.stdout as stdout:
        stdout.readline()
    assert process.stop(signal.SIGTERM, 20) is True
    assert process.exit_status == 3


def test_what_is_not_suspended_gets_the_stop_signal_alone(spawner):
    script = "trap 'echo TERM; ending=1' TERM; trap 'echo CONT' CONT; echo; until [ $ending ]; do sleep 0.05; done"
    process = shell(spawner, script, stdout=subprocess.PIPE)
    with process._popen.stdout as stdout:
        stdout.readline()
        assert process.stop(signal.SIGTERM, 20) is True
        assert stdout.read() == b"TERM\n"


def test_what_a_service_leaves_suspended_in_another_group_is_continued_too(spawner):
    over = threading.Event()
    command = ["sh", "-c", f"setsid {SUSPENDED}; echo; exec sleep 60"]
    process = spawner.spawn(command, os.environ, lambda _: over.set(), on_leader_end=lambda _: None,
                            stdout=subprocess.PIPE)
    with process._popen.stdout as stdout:
        stdout.readline()
    assert process.stop(signal.SIGTERM, 20) is True
    assert over.wait(20)


def no_descriptor(*_):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_stop_needs_no_descriptor(monkeypatch, spawner):
    process = shell(spawner, "trap 'exit 5' TERM; echo; while :; do sleep 0.1; done", stdout=subprocess.PIPE)
    with process._popen.stdout as stdout:
        stdout.readline()
    for name in ("stat", "processes"):
        monkeypatch.setattr(procfs, name, no_descriptor)
    assert process.stop(signal.SIGTERM, 20) is True
    assert process.exit_status == 5


def test_a_process_is_signalled_where_its_first_group_cannot_be(monkeypatch, spawner):
    script = "import os, sys, time; os.setpgid(0, os.getpgid(os.getppid())); print(flush=True); time.sleep(60)"
    process = spawn(spawner, sys.executable, "-c", script, stdout=subprocess.PIPE)
    with process._popen.stdout as stdout:
        stdout.readline()
    kill = os.kill

    def refuse_group(pid, number):
        if pid < 0:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        kill(pid, number)

    monkeypatch.setattr(os, "kill", refuse_group)
    assert process.stop(signal.SIGTERM, 20) is True
    assert process.exit_status == 143


def test_signals_to_an_ended_process_go_nowhere(spawner):
    process = shell(spawner, "exit 0")
    assert process.over.wait(20)
    process.signal(signal.SIGKILL)


@pytest.mark.parametrize(("command", "status", "word"), [
    ("/no/such/program", 127, "not found"), ("no-such-program", 127, "not found"),
    ("/tmp", 126, "directory"), ("/etc/passwd", 126, "Permission denied"), ("a\0b", 126, "null byte")])
def test_what_cannot_be_run_is_126_or_127(spawner, command, status, word):
    """POSIX shell, section 2.8.2."""
    with pytest.raises(CannotStart, match=word) as error:
        spawn(spawner, command)
    assert error.value.exit_status == status


def test_a_process_that_cannot_be_watched_does_not_live_on(spawner, monkeypatch):
    pids = []

    def no_thread(process):
        pids.append(process.pid)
        raise NoThread("can't start new thread")

    monkeypatch.setattr(Process, "watch", no_thread)
    with pytest.raises(NoThread):
        shell(spawner, "exec sleep 60")
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_inheritable_descriptors_go_on_and_ours_do_not(spawner):
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    process = spawn(spawner, sys.executable, "-c", f"import os; os.write({writing}, b'here')\n"
                                                   f"try: os.fstat({reading})\nexcept OSError: raise SystemExit(9)")
    os.close(writing)
    assert os.read(reading, 10) == b"here"
    assert process.over.wait(20)
    assert process.exit_status == 9
    os.close(reading)


def test_masked_and_ignored_signals_come_out_as_they_went_in():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGSEGV})
    try:
        spawner = Spawner(mask=frozenset({signal.SIGUSR1}), ignored=frozenset({signal.SIGCHLD}))
        process = spawn(spawner, "grep", "-E", "SigBlk|SigIgn", "/proc/self/status", stdout=subprocess.PIPE)
        lines = dict(line.decode().split() for line in process._popen.stdout)
        assert process.over.wait(20)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    process._popen.stdout.close()
    assert int(lines["SigBlk:"], 16) == 1 << signal.SIGUSR1 - 1
    assert int(lines["SigIgn:"], 16) & 1 << signal.SIGCHLD - 1 != 0


def test_the_kernel_knows_of_a_fall_before_all_that_is_left_has_ended(spawner):
    """So a request that was on its way goes on to the next run, however long the rest of this one takes."""
    process = spawner.spawn(["sh", "-c", "(trap '' TERM; sleep 60 & wait) & exec sleep 60"], os.environ, lambda _: None,
                            on_leader_end=lambda _: None)
    assert not process.has_fallen()
    os.kill(process.pid, signal.SIGKILL)
    wait_until(process.has_fallen)
    assert process.ended.wait(20)
    assert process.has_fallen()
