"""procfs.py: what is read of real processes and sockets."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from tests.running import wait_until
from wrapper.service import procfs
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
