"""procfs.py: what is read of real processes and sockets, and which zombies are collected.

No status that other code waits for is taken.
"""

from __future__ import annotations

import errno
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import threading
import types

import pytest

from tests.running import Wrapper, service, wait_until
from tests.test_entrypoint import as_subreaper, children
from wrapper.service import procfs
from wrapper.service.procfs import Reaper
from wrapper.settings.address import tcp


def test_a_process_is_told_with_its_parent_and_group():
    known = procfs.processes()[os.getpid()]
    assert (known.parent, known.group) == (os.getppid(), os.getpgrp())
    assert procfs.stat(2**22) is procfs.GONE


def test_where_proc_is_another_namespaces_no_process_is_seen(monkeypatch):
    """As in `unshare --pid --fork`: its numbers are those of strangers, which might be signalled."""
    with socket.create_server(("127.0.0.1", 0)):
        monkeypatch.setattr(os, "readlink", lambda path: str(os.getpid() + 1))
        assert procfs.stat(os.getpid()) is procfs.GONE
        assert procfs.processes() == {}
        assert procfs.listening([os.getpid()]) == []


def test_a_name_with_spaces_and_parentheses_is_no_matter(tmp_path):
    program = tmp_path / ") R 1 1 (x"
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert procfs.stat(process.pid).parent == os.getpid()
        process.stdin.write(b"\n")


def test_descendants_of_descendants_count():
    with subprocess.Popen(["sh", "-c", "sh -c 'echo $$; exec sleep 60' & wait"], stdout=subprocess.PIPE,
                          preexec_fn=os.setpgrp) as process:
        grandchild = int(process.stdout.readline())
        assert procfs.with_descendants(procfs.processes(), [process.pid]) >= {process.pid, grandchild}
        os.killpg(process.pid, signal.SIGKILL)


def test_listeners_are_found_on_both_families():
    with socket.create_server(("127.0.0.1", 0)) as one, \
            socket.create_server(("::1", 0), family=socket.AF_INET6) as two, socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        found = procfs.listening([os.getpid()])
        assert {tcp("127.0.0.1", one.getsockname()[1]), tcp("::1", two.getsockname()[1])} <= set(found)
        assert tcp("127.0.0.1", idle.getsockname()[1]) not in found


def test_variables_of_a_process_are_seen():
    with subprocess.Popen(["sh", "-c", "echo; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env={"PATH": os.environ["PATH"], "MARK": "1"}) as process:
        process.stdout.readline()
        assert procfs.has_variable(process.pid, b"MARK")
        assert not procfs.has_variable(process.pid, b"MAR")
        process.stdin.write(b"\n")


def test_kills_for_memory_are_counted(monkeypatch, tmp_path):
    """cgroup v2, memory.events; v1, memory.oom_control."""
    events = tmp_path / "memory.events"
    monkeypatch.setattr(procfs, "MEMORY_EVENTS", (str(tmp_path / "none"), str(events)))
    assert procfs.memory_kills() == 0
    events.write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert procfs.memory_kills() == 2
    events.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert procfs.memory_kills() == 5


def test_what_a_tree_of_processes_takes_is_summed():
    burn = ("import os; pid = os.fork(); [None for _ in range(3_000_000)]; pid or os._exit(0); "
            "os.wait(); print(flush=True); input()")
    with subprocess.Popen([sys.executable, "-S", "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          start_new_session=True) as process:
        process.stdout.readline()

        def at_rest():
            alone, taken = procfs.stat(process.pid), procfs.usage([process.pid])
            return alone == procfs.stat(process.pid) and (alone, taken)

        alone, (cpu, memory) = wait_until(at_rest)
        assert cpu == alone.cpu / procfs.TICKS > 0
        assert memory == alone.memory * procfs.PAGE_BYTES > 1e6
        process.stdin.write(b"\n")
    assert procfs.usage([process.pid]) == (0, 0)


def test_a_grandchild_counts_in_what_a_tree_takes():
    with subprocess.Popen(["sh", "-c", "setsid sh -c 'echo $$; exec sleep 60' & wait"], stdout=subprocess.PIPE,
                          start_new_session=True) as process:
        grandchild = int(process.stdout.readline())
        wait_until(lambda: pathlib.Path(f"/proc/{grandchild}/comm").read_text() == "sleep\n")  # no shell any more
        both = procfs.stat(process.pid).memory + procfs.stat(grandchild).memory
        assert procfs.usage([process.pid])[1] >= both * procfs.PAGE_BYTES
        os.kill(grandchild, signal.SIGKILL)


@pytest.mark.parametrize(("text", "limit"), [("max\n", None), ("536870912\n", 2**29), ("9223372036854771712\n", None)])
def test_the_limit_of_memory_is_read(monkeypatch, tmp_path, text, limit):
    """cgroup v2, memory.max; v1, memory.limit_in_bytes."""
    path = tmp_path / "memory.max"
    path.write_text(text)
    monkeypatch.setattr(procfs, "MEMORY_LIMITS", (str(tmp_path / "none"), str(path)))
    assert procfs.memory_limit() == limit


@pytest.mark.parametrize(("texts", "limit"), [(["max 100000\n"], None), (["50000 100000\n"], 0.5),
                                              (["-1\n", "100000\n"], None), (["150000\n", "100000\n"], 1.5)])
def test_the_limit_of_processors_is_read(monkeypatch, tmp_path, texts, limit):
    """cgroup v2, cpu.max; v1, cpu.cfs_quota_us and cpu.cfs_period_us."""
    paths = [tmp_path / str(number) for number in range(len(texts))]
    for path, text in zip(paths, texts):
        path.write_text(text)
    monkeypatch.setattr(procfs, "CPU_LIMITS", ((str(tmp_path / "none"),), tuple(map(str, paths))))
    assert procfs.cpu_limit() == limit


@pytest.mark.parametrize("line", [
    "0::/docker/{}", "0::/system.slice/docker-{}.scope", "0::/machine.slice/libpod-{}.scope/container",
    "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-{}.scope",
    "5:pids:/kubepods/burstable/pod3c51ab3a-0d1f-4d0c-8f6e-0d3a6e2f1c11/{}",
    "1 2 0:3 /var/lib/docker/containers/{}/hostname /etc/hostname rw - ext4 /dev/sda1 rw",
    "1 2 0:3 /containers/storage/overlay-containers/{}/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw"])
def test_the_container_is_known_by_its_cgroup_or_by_what_is_mounted(tmp_path, line):
    path, name = tmp_path / "file", "ab" * 32
    path.write_text("0::/\n" + line.format(name) + "\n")
    assert procfs.container_id([str(tmp_path / "none"), str(path)]) == name[:12]


def test_neither_a_layer_nor_the_container_of_another_is_ours(tmp_path):
    path, name = tmp_path / "file", "ab" * 32
    path.write_text(f"1 2 0:3 / / rw - overlay overlay rw,upperdir=/var/lib/docker/overlay2/{name}/diff\n"
                    f"1 2 0:3 / / rw - overlay overlay rw,upperdir=/var/lib/containers/storage/overlay/{name}/diff\n"
                    f"1 2 0:3 / /var/lib/containers/storage/overlay-containers/{name}/userdata/shm rw - tmpfs shm rw\n")
    assert procfs.container_id([str(path)]) is None


# Zombies

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
    assert 0 < subject.reap({awaited.pid}) <= procfs.FOREIGN_GRACE
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
    monkeypatch.setattr(procfs, "FOREIGN_GRACE", 0.0)
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
    assert procfs.FOREIGN_GRACE < subject.reap(()) <= procfs.OWN_GRACE
    assert kept[0].wait(5) == 7
    assert subject.reap(()) is None


def test_many_that_end_together_cost_few_looks(subject, monkeypatch):
    looks, clock = [], [1000.0]
    monkeypatch.setattr(procfs, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(procfs, "adopted", lambda: looks.append(1) or [os.getpid()])
    monkeypatch.setattr(procfs, "stat", lambda pid: types.SimpleNamespace(state="Z"))
    monkeypatch.setattr(Reaper, "_grace", lambda self, pid: procfs.FOREIGN_GRACE)
    for _ in range(100):
        assert subject.reap(()) <= procfs.FOREIGN_GRACE
        clock[0] += procfs.FOREIGN_GRACE / 101
    assert len(looks) == 1


def test_all_that_ended_together_are_collected_in_one_look(subject, monkeypatch):
    clock = [1000.0]
    orphans = [shell("exit 0", start_new_session=True) for _ in range(20)]
    wait_zombie(*orphans)
    monkeypatch.setattr(procfs, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
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
        assert 0 < subject.reap(()) <= procfs.FOREIGN_GRACE
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
