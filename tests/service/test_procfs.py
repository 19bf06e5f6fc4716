"""procfs.py: what is read of real processes and sockets of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

from wrapper.address import tcp
from wrapper.service import procfs


def test_a_process_is_told_with_its_parent_and_group():
    known = procfs.processes()[os.getpid()]
    assert (known.parent, known.group) == (os.getppid(), os.getpgrp())
    assert procfs.stat(2**22) is None


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
