"""entrypoint.py, signals.py, cli.py: the wrapper as a real process, as PID 1 would be."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import pathlib
import pty
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time

import pytest

from tests.restarts.raw import Raw, get, post
from tests.running import ROOT, SERVICES, UnixConnection, Wrapper, free_port, installed, run, service, wait_until

PR_SET_CHILD_SUBREAPER = 36  # prctl(2): adopt orphans as PID 1 does


def as_subreaper():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def children(pid, state=None):
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
            if int(fields[1]) == pid and state in (None, fields[0]):
                found.append(int(entry))
    return found


# Exit statuses

@pytest.mark.parametrize(("words", "status", "said"), [
    (("--", "/no/such/program", "{port}"), 127, "not found"),
    (("--", "/tmp", "{port}"), 126, "directory"),
    (("--", "/etc/passwd", "{port}"), 126, "Permission denied"),
    (("--hold", "soon", "--", "true", "{port}"), 2, "expected a duration"),
    (("--nope", "--", "true", "{port}"), 2, "no such option"),
    (("--",), 2, "COMMAND: missing"),
    (("--", "true"), 2, "--upstream: missing")])
def test_what_cannot_start_is_one_clear_line_and_its_status(words, status, said):
    result = run("--listen", f"127.0.0.1:{free_port()}", *words)
    assert result.returncode == status
    lines = [line for line in result.stderr.splitlines() if line.startswith("wrapper: ")]
    assert len(lines) == 1 and said in lines[0]
    assert "Traceback" not in result.stderr


def test_a_taken_port_is_1_and_the_service_is_never_started(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--", "touch", str(tmp_path / "started{port}"))
    assert result.returncode == 1
    assert "cannot listen" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_the_exit_status_is_the_services(status):
    done = run("--listen", f"127.0.0.1:{free_port()}", "--", "sh", "-c", f": {{port}}; exit {status}")
    assert done.returncode == status


def test_a_signal_that_ends_the_service_is_128_plus_n():
    assert run("--listen", f"127.0.0.1:{free_port()}", "--", "sh", "-c", ": {port}; kill -SEGV $$").returncode == 139


def test_ten_services_that_end_at_once_are_all_7():
    """The soak does 200; the bug it guards against showed in 25 of 200."""
    assert [run("--listen", f"127.0.0.1:{free_port()}", "--", "sh", "-c", ": {port}; exit 7").returncode
            for _ in range(10)] == [7] * 10


@pytest.mark.soak
def test_two_hundred_services_that_end_at_once_are_all_7():
    assert [run("--listen", f"127.0.0.1:{free_port()}", "--", "sh", "-c", ": {port}; exit 7").returncode
            for _ in range(200)] == [7] * 200


def test_exit_status_renames_planned_ends_only():
    with Wrapper("--exit-status", "5=0", command=service("plain", "5")) as wrapper:
        assert wrapper.end(signal.SIGTERM) == 0
    assert run("--listen", f"127.0.0.1:{free_port()}", "--exit-status", "5=0", "--", "sh", "-c",
               ": {port}; exit 5").returncode == 5


def test_a_crash_ends_the_wrapper_with_137():
    with Wrapper(command=service("plain")) as wrapper:
        os.kill(wrapper.status()["pid"], signal.SIGKILL)
        assert wrapper.end() == 137


# Signals

@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT"])
def test_ending_signals_reach_the_service_as_they_are(name):
    number = getattr(signal, "SIG" + name)
    with Wrapper(command=service("plain", "3")) as wrapper:
        assert wrapper.end(number) == 3
        assert f"signal {number}" in wrapper.stderr


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGALRM,
                                    signal.SIGPIPE, signal.SIGTTIN, signal.SIGTTOU, signal.SIGRTMIN + 3])
def test_every_other_signal_is_passed_on(number):
    with Wrapper(command=service("plain")) as wrapper:
        wrapper.process.send_signal(number)
        wrapper.wait_line(f"signal {int(number)}\n")
        assert wrapper.status()["state"] == "running"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT])
def test_fault_signals_from_outside_are_the_services_not_ours(number):
    with Wrapper(command=service("plain")) as wrapper:
        wrapper.process.send_signal(number)
        assert wrapper.end() == 128 + number


def test_a_signal_at_the_very_beginning_is_not_lost():
    """From the moment that Python runs our first line; before that the kernel drops what has no handler."""
    for delay in (0.0, 0.02, 0.05):
        with Wrapper(command=service("plain"), wait=False) as wrapper:
            wait_until(lambda wrapper=wrapper: catches_term(wrapper.process.pid))
            threading.Event().wait(delay)
            assert wrapper.end(signal.SIGTERM) in (0, 143)


def catches_term(pid):
    with open(f"/proc/{pid}/status") as file:
        caught = re.search(r"SigCgt:\s*(\w+)", file.read())
    return int(caught[1], 16) & 1 << signal.SIGTERM - 1


def test_a_signal_while_the_first_configuration_is_awaited_ends_it_at_once(tmp_path):
    with Wrapper("--config-source", str(tmp_path / "never"), "--config-file", str(tmp_path / "out"), "--config-wait",
                 "60s", command=["touch", str(tmp_path / "started"), "{port}"], wait=False) as wrapper:
        wrapper.wait_line("never")
        assert wrapper.end(signal.SIGTERM) == 143
    assert not (tmp_path / "started").exists()


def test_a_deaf_service_is_killed_after_stop_timeout():
    with Wrapper("--stop-timeout", "500ms", command=service("deaf")) as wrapper:
        start = time.monotonic()
        assert wrapper.end(signal.SIGTERM) == 137
        assert time.monotonic() - start > 0.4


def test_a_second_signal_ends_the_drain_and_is_passed_on():
    with Wrapper("--drain-timeout", "60s", command=service("plain")) as wrapper, \
            socket.create_connection(("127.0.0.1", wrapper.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        wait_until(lambda: wrapper.status()["in_flight"] == 1)
        wrapper.process.send_signal(signal.SIGTERM)
        wrapper.wait_line("running -> draining")
        assert wrapper.end(signal.SIGTERM) == 0
        assert wrapper.stderr.count("signal 15\n") >= 1


def test_shutdown_delay_serves_on_while_it_is_not_ready_any_more():
    """A load balancer takes an address out of its tables a moment after the TERM."""
    with Wrapper("--shutdown-delay", "600s", command=service("plain", "3")) as wrapper:
        wrapper.process.send_signal(signal.SIGTERM)
        wait_until(lambda: wrapper.request("GET", "/sidecar/readyz")[0] == 503)
        assert wrapper.get("/")  # on a new connection
        assert wrapper.status()["state"] == "running"
        assert "signal 15\n" not in wrapper.stderr


def test_shutdown_delay_ends_by_itself():
    with Wrapper("--shutdown-delay", "500ms", command=service("plain", "3")) as wrapper:
        begin = time.monotonic()
        assert wrapper.end(signal.SIGTERM) == 3
        assert time.monotonic() - begin >= 0.5
        assert "signal 15\n" in wrapper.stderr


def test_in_the_shutdown_delay_kept_connections_are_given_back():
    """One that is cut later may have a request on its way (RFC 9112 section 9.6): clients are told before."""
    with Wrapper("--shutdown-delay", "600s", command=service("plain", "3")) as wrapper, \
            Raw(wrapper.port, get()) as client, Raw(wrapper.port, get("/sidecar/healthz")) as other:
        assert all("connection" not in each.read_response()[1] for each in (client, other))
        wrapper.process.terminate()
        wait_until(lambda: wrapper.request("GET", "/sidecar/readyz")[0] == 503)
        for each, path in ((client, "/"), (other, "/sidecar/healthz")):
            each.send(get(path))
            status, fields, _ = each.read_response()
            assert (status, fields.get("connection"), each.read_end()) == (200, "close", b"")


def test_a_second_signal_ends_the_shutdown_delay():
    with Wrapper("--shutdown-delay", "600s", command=service("plain", "3")) as wrapper:
        wrapper.process.send_signal(signal.SIGTERM)
        wait_until(lambda: wrapper.request("GET", "/sidecar/readyz")[0] == 503)
        assert wrapper.end(signal.SIGTERM) == 3


def test_a_crash_in_the_shutdown_delay_ends_it():
    with Wrapper("--shutdown-delay", "600s", command=service("plain")) as wrapper:
        wrapper.process.send_signal(signal.SIGTERM)
        wait_until(lambda: wrapper.request("GET", "/sidecar/readyz")[0] == 503)
        os.kill(wrapper.status()["pid"], signal.SIGKILL)
        assert wrapper.end() == 137


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def test_drain_lets_a_request_in_flight_end():
    with Wrapper("--drain-timeout", "60s", command=service("plain")) as wrapper, \
            socket.create_connection(("127.0.0.1", wrapper.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf")
        wait_until(lambda: wrapper.status()["in_flight"] == 1)
        wrapper.process.send_signal(signal.SIGTERM)
        wrapper.wait_line("running -> draining")
        with Raw(wrapper.port, get()) as newcomer:  # is not refused without a word
            assert newcomer.read_response()[0] == 503
        client.sendall(b"half")
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        assert answer.endswith(b"halfhalf")
        assert wrapper.end() == 0


@pytest.mark.parametrize("request_bytes", [get(), post("/", b"")], ids=["GET", "POST"])
def test_a_service_that_falls_leaves_no_client_without_an_answer(request_bytes):
    with Wrapper(command=service("deaf")) as wrapper, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Raw(wrapper.port, request_bytes)) for _ in range(50)]
        wait_until(lambda: wrapper.status()["in_flight"] == len(clients))
        os.kill(wrapper.status()["pid"], signal.SIGKILL)
        assert {client.read_response()[0] for client in clients} <= {502, 503}
        assert wrapper.end() == 137


ASKED = """
import pathlib, threading
from wrapper import Sidecar
sidecar = Sidecar()

@sidecar.route("GET", "/sidecar/slow")
def slow(request):
    pathlib.Path(__file__).with_name("asked").touch()
    threading.Event().wait(float(request.query["seconds"]))
    return "done"
"""


@pytest.fixture
def asked(tmp_path):
    """A wrapper whose sidecar answers after `?seconds=`; `came(seconds)` is a client that it is busy with."""
    (tmp_path / "asked.py").write_text(ASKED)
    with Wrapper("--sidecar", str(tmp_path / "asked.py"), "--drain-timeout", "40s",
                 command=service("plain")) as wrapper:  # longer than a test waits
        wrapper.wait_line("sidecar loaded")

        def came(seconds):
            client = Raw(wrapper.port, get(f"/sidecar/slow?seconds={seconds}"))
            wait_until((tmp_path / "asked").exists)
            return client

        wrapper.came = came
        yield wrapper


def test_an_answer_of_the_sidecar_that_is_under_way_still_comes(asked):
    with asked.came(0.5) as client:
        asked.process.send_signal(signal.SIGTERM)
        status, _, body = client.read_response()
        assert (status, body, client.read_end()) == (200, b"done", b"")
    assert asked.end() == 0


def test_one_who_follows_the_output_does_not_hold_up_the_end():
    with Wrapper("--capture-output", "--drain-timeout", "600s", command=service("plain", "3")) as wrapper, \
            contextlib.closing(UnixConnection(wrapper.control)) as follower:
        follower.request("GET", "/sidecar/api/logs?lines=0&follow=1")
        followed = follower.getresponse()
        assert wrapper.end(signal.SIGTERM) == 3
        assert followed.read() == b"signal 15\n"


def test_a_second_signal_does_not_wait_for_the_sidecar_either(asked):
    with asked.came(60):
        asked.process.send_signal(signal.SIGTERM)
        asked.wait_line("stopping -> stopped")
        assert asked.end(signal.SIGTERM) == 0


TWICE = """
import signal, sys, threading
over, count = threading.Event(), [0]

def hear(number, frame):
    count[0] += 1
    sys.stderr.write(f"helper got {count[0]}\\n")  # one write: the wrapper's own lines go to the same place
    if count[0] == 2:
        over.set()

signal.signal(signal.SIGTERM, hear)
import socket
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while not over.wait(0.05):
    pass
"""


def test_no_helper_is_started_while_the_wrapper_ends(tmp_path):
    """It would hear of no end, get SIGKILL, and hold the container up for as long as a service may take."""
    sidecar = tmp_path / "late.py"
    sidecar.write_text(f"""
import sys
from wrapper import Sidecar
sidecar = Sidecar()

@sidecar.task
def late(service, stopping):
    print("waits", file=sys.stderr)
    stopping.wait()
    sidecar.service("late", {service("plain")}, route="/late")
""")
    with Wrapper("--sidecar", str(sidecar), "--stop-timeout", "60s", command=service("deaf")) as wrapper:
        pid = wrapper.status()["pid"]
        wrapper.wait_line("waits")
        wrapper.process.send_signal(signal.SIGTERM)
        wrapper.wait_line("cannot add late: the wrapper is shutting down")
        os.kill(pid, signal.SIGKILL)
        assert wrapper.end() == 137
        assert "service=late" not in wrapper.stderr


def test_helpers_end_together_with_the_service_and_hear_a_second_signal(tmp_path):
    (tmp_path / "twice.py").write_text(TWICE)
    with Wrapper("--stop-timeout", "60s", "--helper", f"second=/second={sys.executable} {tmp_path}/twice.py {{port}}",
                 command=service("deaf")) as wrapper:
        wait_until(lambda: wrapper.status()["helpers"]["second"]["ready"])
        main = wrapper.status()["pid"]
        wrapper.process.send_signal(signal.SIGTERM)
        wrapper.wait_line("helper got 1")
        os.kill(main, signal.SIGKILL)
        wrapper.wait_line(f"pid={main} status=137")
        assert wrapper.end(signal.SIGTERM) == 137
        assert "helper got 2" in wrapper.stderr


@contextlib.contextmanager
def changed(tmp_path, change, **options):
    """A wrapper in which some Python ran before its own."""
    script = tmp_path / "changed.py"
    script.write_text(f"import os, pathlib, runpy, sys, threading\nsys.path.insert(0, {str(ROOT)!r})\n{change}\n"
                      "sys.argv = ['wrapper', *sys.argv[4:]]\n"
                      "runpy.run_module('wrapper', run_name='__main__', alter_sys=True)\n")
    with Wrapper(under=[sys.executable, str(script)], **options) as wrapper:
        yield wrapper


def without_thread(name):
    """For `changed`: no thread can be had for one thing."""
    return f"""
start = threading.Thread.start
def scarce(thread):
    if thread.name == {name!r}:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = scarce"""


def test_the_end_needs_no_thread(tmp_path):
    with changed(tmp_path, without_thread("server-stop"), command=service("plain", "3")) as wrapper:
        assert wrapper.end(signal.SIGTERM) == 3
        assert "Traceback" not in wrapper.stderr


def test_where_no_descriptor_is_left_the_service_is_still_ended_as_told():
    """What leaks them may be the sidecar's code."""
    with Wrapper(command=service("plain", "3")) as wrapper:
        wrapper.process.send_signal(signal.SIGALRM)
        wrapper.wait_line(f"signal {int(signal.SIGALRM)}\n")  # so the main thread has loaded all
        hard = resource.prlimit(wrapper.process.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(wrapper.process.pid, resource.RLIMIT_NOFILE, (3, hard))
        assert wrapper.end(signal.SIGTERM) == 3
        assert f"signal {int(signal.SIGTERM)}\n" in wrapper.stderr


def test_no_thread_for_the_first_configuration_is_one_line_and_126(tmp_path):
    environment = {"WRAPPER_CONFIG_SOURCE": __file__, "WRAPPER_CONFIG_FILE": str(tmp_path / "new")}
    with changed(tmp_path, without_thread("first-configuration"), command=service("plain"), wait=False,
                 environment=environment) as wrapper:
        assert wrapper.end() == 126
        assert wrapper.stderr == ("wrapper: cannot start the service: can't start new thread: processes (--pids-limit, "
                                  "ulimit -u) or memory are at their limit\n")


def test_clients_cannot_take_the_descriptors_that_a_restart_needs():
    """1,024 is all that many containers have, and 10,000 clients are let in."""
    few = 'ulimit -n 128; exec "$@"'
    with Wrapper(command=service("plain"), under=["sh", "-c", few, "sh"]) as wrapper:
        before = wrapper.status()["pid"]
        clients = [socket.create_connection(("127.0.0.1", wrapper.port)) for _ in range(128)]
        assert select.select([clients[0]], [], [], 20)[0], "the longest idle make room"
        assert wrapper.command("POST", "/sidecar/api/restart?wait=1")[0] == 200
        assert wrapper.command("GET", "/sidecar/api/status")[1]["pid"] not in (before, None)
        for client in clients:
            client.close()
        assert wrapper.get("/") != str(before).encode()


def test_the_wrapper_takes_all_the_descriptors_it_may_have_and_the_service_finds_its_own_limit():
    """As Go does: 1,024 are soon taken by 2,000 clients, while a service may still use select(2)."""
    script = "ulimit -Sn; ulimit -Hn; : {port}; exec sleep 60"
    with Wrapper("--capture-output", command=["sh", "-c", script], wait=False,
                 under=["sh", "-c", 'ulimit -Sn 256; ulimit -Hn 600; exec "$@"', "sh"]) as wrapper:
        said = wrapper.process.stdout.readline() + wrapper.process.stdout.readline()
        assert said == b"256\n600\n"
        limits = pathlib.Path(f"/proc/{wrapper.process.pid}/limits").read_text()
        assert re.search(r"Max open files +600 +600 ", limits)
def test_the_line_that_says_serving_names_the_control_socket():
    """A second wrapper that sees the same /run takes another place than the first: which it is has to be said."""
    with Wrapper(command=service("plain")) as wrapper:
        wrapper.wait_line(f"control={wrapper.control}")


def test_a_unix_socket_as_the_exposed_port_is_for_its_owner_and_group_only(tmp_path):
    place = tmp_path / "port"
    process = subprocess.Popen([sys.executable, "-m", "wrapper", "--listen", f"unix:{place}", "--control",
                                tmp_path / "control", "--", *service("plain")], cwd=ROOT,
                               preexec_fn=lambda: os.umask(0))
    try:
        wait_until(place.exists)
        assert place.stat().st_mode & 0o777 == 0o660
    finally:
        process.terminate()
        process.wait(20)


def test_requests_are_paused_and_resumed_without_touching_the_service():
    with Wrapper(command=service("plain")) as wrapper, Raw(wrapper.port, b"") as client:
        pid = wrapper.status()["pid"]
        assert run("ctl", "--control", wrapper.control, "pause", "--reason", "a migration").returncode == 0
        client.send(get())
        wait_until(lambda: wrapper.status()["held"] == 1)
        assert run("ctl", "--control", wrapper.control, "resume").returncode == 0
        assert client.read_response()[0] == 200
        assert wrapper.status()["pid"] == pid


@pytest.mark.parametrize("wait", ["0", "600s"], ids=["behind the start", "before it"])
def test_a_check_that_hangs_does_not_outlive_the_wrapper(tmp_path, wait):
    """Where the wrapper is PID 1 the kernel sees to that."""
    check, started, source = tmp_path / "check", tmp_path / "started", tmp_path / "source"
    check.write_text(f"#!/bin/sh\necho $$ > {started}.new; mv {started}.new {started}; exec sleep 600\n")
    check.chmod(0o755)
    source.write_text("new")
    with Wrapper("--config-source", str(source), "--config-file", str(tmp_path / "file"), "--config-check", str(check),
                 "--config-wait", wait, command=service("plain"), wait=False) as wrapper:
        wait_until(started.exists)
        wrapper.end(signal.SIGTERM)
        wait_until(lambda: not pathlib.Path("/proc", started.read_text().strip()).exists())


@pytest.mark.parametrize(("error", "cause"), [
    ('OSError(24, "Too many open files")', "[Errno 24] Too many open files"), ("MemoryError()", "MemoryError")])
def test_a_wrapper_that_cannot_serve_leaves_no_service_behind(tmp_path, error, cause):
    change = f"""
from wrapper.front import server
def refuse(*words):
    while not pathlib.Path({str(tmp_path / 'pid')!r}).exists():
        pass
    raise {error}
server.Server.__init__ = refuse"""
    script = f": {{port}}; echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 60"
    with changed(tmp_path, change, command=["sh", "-c", script], wait=False) as wrapper:
        assert wrapper.end() == 1
        assert f"wrapper: cannot serve: {cause}" in wrapper.stderr.splitlines()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_suspended_service_can_be_continued():
    def state():
        with open(f"/proc/{wrapper_status['pid']}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]

    with Wrapper(command=service("deaf"), start_new_session=True) as wrapper:
        wrapper_status = wrapper.status()
        wrapper.process.send_signal(signal.SIGTSTP)
        wait_until(lambda: state() == "T")
        wrapper.process.send_signal(signal.SIGCONT)
        wait_until(lambda: state() != "T")
        wrapper.process.send_signal(signal.SIGTSTP)
        wait_until(lambda: state() == "T")
        os.kill(wrapper_status["pid"], signal.SIGKILL)


def test_signals_that_came_ignored_stay_ignored():
    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    result = subprocess.run(
        [sys.executable, "-m", "wrapper", "--listen", f"127.0.0.1:{free_port()}", "--upstream", "127.0.0.1:1", "--",
         "grep", "SigIgn", "/proc/self/status"],
        cwd=ROOT, capture_output=True, text=True, timeout=20, preexec_fn=ignore)
    ignored = int(result.stdout.split()[1], 16)
    assert ignored & 1 << signal.SIGHUP - 1
    assert ignored & 1 << signal.SIGCHLD - 1
    assert result.returncode == 0


def test_signals_that_came_blocked_are_heard_and_stay_blocked_for_the_service():
    blocked = {signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE}
    script = ("import signal, sys; print('blocked', *sorted(map(int, signal.pthread_sigmask(0, []))), '.', "
              "file=sys.stderr, flush=True); signal.pause()")
    with Wrapper("--stop-timeout", "100ms", command=[sys.executable, "-c", script, "{port}"], wait=False,
                 preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, blocked)) as wrapper:
        wrapper.wait_line(f"blocked {' '.join(str(int(number)) for number in sorted(blocked))} .")
        assert wrapper.end(signal.SIGTERM) == 137  # we hear it, and the service is deaf


def test_an_ignored_chld_loses_no_status():
    result = subprocess.run(
        [sys.executable, "-m", "wrapper", "--listen", f"127.0.0.1:{free_port()}", "--", "sh", "-c", ": {port}; exit 7"],
        cwd=ROOT, timeout=20, preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert result.returncode == 7


# Orphans

@pytest.mark.parametrize(("words", "status"), [((), 3), (("9",), 9)])
def test_a_grandchild_with_the_pipes_and_the_port_does_not_hide_the_exit(words, status):
    with Wrapper("--capture-output", "--stop-timeout", "1s", command=service("holder", *words), wait=False,
                 preexec_fn=as_subreaper) as wrapper:
        if words:
            assert wrapper.end() == status
        else:
            wrapper.wait_state("running")
            assert wrapper.end(signal.SIGTERM) == status


# What the service gets is what we got

def test_stdio_folder_and_umask_reach_the_service(tmp_path):
    script = "cat; pwd; umask; echo err >&2; : {port}"
    result = subprocess.run(
        [sys.executable, "-m", "wrapper", "--listen", f"127.0.0.1:{free_port()}", "--", "sh", "-c", script],
        input=b"in\n", capture_output=True, cwd=tmp_path, timeout=20, env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: os.umask(0o027))
    assert result.stdout.decode().split() == ["in", str(tmp_path), "0027"]
    assert b"err\n" in result.stderr


def test_the_environment_is_untouched_but_for_port():
    bare = {"A": "1", "PYTHONPATH": str(ROOT)}
    for more in ({}, {"PORT": str(free_port())}, {"LC_ALL": "C.UTF-8"}, {"LC_CTYPE": "C.UTF-8"}, {"LC_CTYPE": "C"}):
        environment = {**bare, **more}
        result = subprocess.run([sys.executable, "-m", "wrapper", "--listen", f"127.0.0.1:{free_port()}", "--",
                                 "env", "{port}=1"], env=environment, capture_output=True, text=True, timeout=20,
                                cwd=ROOT)
        seen = dict(line.split("=", 1) for line in result.stdout.splitlines())
        del seen[next(name for name in seen if name.isdigit())]  # our {port}, which names one for env(1)
        if "PORT" in environment:
            assert seen.pop("PORT") != environment.pop("PORT")
        assert seen == environment


SPOIL = """
import os
from wrapper import Sidecar
os.chdir("/")
os.umask(0o077)
os.environ.clear()
os.environ["ODD"] = "1"
sidecar = Sidecar()
"""


def test_a_restarted_service_gets_what_we_got_whatever_sidecar_code_did_to_itself(tmp_path):
    (tmp_path / "spoil.py").write_text(SPOIL)

    def facts(pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        return (os.readlink(f"/proc/{pid}/cwd"), pathlib.Path(f"/proc/{pid}/environ").read_bytes(),
                [line for line in status.splitlines() if line.startswith("Umask:")])

    with Wrapper("--sidecar", "spoil.py", command=service("plain"), cwd=tmp_path,
                 environment={"PYTHONPATH": str(ROOT)}) as wrapper:
        wrapper.wait_line("sidecar loaded")
        before = facts(wrapper.status()["pid"])
        restarted = wrapper.command("POST", "/sidecar/api/restart?wait=1")[1]
        assert restarted["generation"] == 2
        assert facts(restarted["pid"]) == before


def test_what_the_dockerfile_and_the_settings_put_into_the_environment_is_not_for_the_service(tmp_path):
    """A token is a secret of the wrapper's, and the image's own Python code is not to find our package."""
    command = [*installed(tmp_path / "opt"), "--", "env", "{port}=1"]
    home = str(tmp_path / "opt")
    environment = {"A": "1", "WRAPPER_TOKEN": "s3cret", "WRAPPER_LISTEN": f"127.0.0.1:{free_port()}",
                   "WRAPPER_SERVICE_HOST": "10.0.0.1", "LC_ALL": "C.UTF-8"}  # a Kubernetes service named wrapper
    for path, seen in ((home, None), (f"{home}:/app", "/app"), (f"/a:{home}", "/a"), ("/app", "/app"), ("", "")):
        done = subprocess.run(command, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True,
                              timeout=20)
        found = dict(line.split("=", 1) for line in done.stdout.splitlines())
        assert found.get("PYTHONPATH") == seen
        assert {name for name in found if name.startswith("WRAPPER")} == {"WRAPPER_SERVICE_HOST"}
        assert found["A"] == "1"


def test_a_path_that_holds_more_than_the_wrapper_is_the_services_too(tmp_path):
    command = [*installed(tmp_path / "opt"), "--listen", f"127.0.0.1:{free_port()}", "--", "env", "{port}=1"]
    (tmp_path / "opt" / "application.py").touch()
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(tmp_path / "opt")}, capture_output=True,
                          text=True, timeout=20)
    assert f"PYTHONPATH={tmp_path / 'opt'}" in done.stdout.splitlines()


POOR = "import sys\nfor name in ('_ssl', '_ctypes', '_bz2', '_lzma', 'zlib', '_hashlib'): sys.modules[name] = None\n"


def test_a_python_built_without_optional_parts_serves_all_but_tls(tmp_path):
    """Built from source where a header file was missing, Python has no `_ssl`, `_ctypes` or `_bz2`."""
    (tmp_path / "sitecustomize.py").write_text(POOR)
    environment = {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "mine.py").write_text("from wrapper import Sidecar\nsidecar = Sidecar()\n"
                                      "sidecar.route('GET', '/mine')(lambda request: 'here')\n")
    with Wrapper("--sidecar", str(tmp_path / "mine.py"), "--capture-output", command=service("plain"),
                 environment=environment) as wrapper:
        wait_until(lambda: wrapper.request("GET", "/mine")[2] == b"here")
        assert wrapper.get("/sidecar/").startswith(b"<!")
        assert run("ctl", "restart", "--control", wrapper.control, env={**os.environ, **environment}).returncode == 0
    done = run("--tls-cert", "a", "--tls-key", "b", "--", "true", "{port}", env={**os.environ, **environment})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--tls-cert: this Python has no TLS" in done.stderr


def test_an_empty_environment_does_no_harm():
    result = subprocess.run([sys.executable, "-m", "wrapper", "--listen", f"127.0.0.1:{free_port()}", "--", "/bin/sh",
                             "-c", ": {port}; exit 4"], env={}, cwd=ROOT, timeout=20)
    assert result.returncode == 4


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&- 2>&-", "2>&-", "<&- 2>&-"])
def test_closed_stdio_does_no_harm(closed):
    """No descriptor of ours may get number 2: a line of the log would go to a client, or be read as signals.

    The service finds them closed, as we did.
    """
    port = free_port()
    script = (f"exec {sys.executable} -m wrapper --listen 127.0.0.1:{port} -- sh -c "
              f"': {{port}}; [ -e /proc/self/fd/2 ] && exit 9; sleep 0.2; exit 6' {closed}")
    assert subprocess.run(["sh", "-c", script], cwd=ROOT, timeout=20).returncode == 6


def test_inherited_descriptors_go_on():
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    subprocess.run([sys.executable, "-m", "wrapper", "--listen", f"127.0.0.1:{free_port()}", "--", "bash", "-c",
                    f": {{port}}; echo here >&{writing}"], cwd=ROOT, timeout=20, pass_fds=[writing])
    os.close(writing)
    assert os.read(reading, 100) == b"here\n"
    os.close(reading)


def test_the_service_inherits_nothing_of_ours():
    with Wrapper(command=service("plain")) as wrapper:
        folder = f"/proc/{wrapper.status()['pid']}/fd"

        def links():
            found = []
            for entry in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):  # the connection of the probe that found it ready
                    found.append(os.readlink(f"{folder}/{entry}"))
            return found

        wait_until(lambda: len([link for link in links() if link.startswith("socket:")]) == 1)


def test_an_interactive_shell_works_on_the_terminal():
    """Job control, foreground group, and Ctrl-C seen once and by the foreground job alone."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "wrapper", "--listen", f"127.0.0.1:{free_port()}",
                                  "--log-level", "error", "--upstream", "127.0.0.1:1", "--", "bash", "--norc", "-i"])
    seen = b""
    poll = select.poll()
    poll.register(terminal, select.POLLIN)

    def foreground():
        return os.tcgetpgrp(terminal)

    def sleeps():
        """Its program runs: a Ctrl-C that comes between bash's fork and its exec is lost."""
        leader = foreground()
        return leader != shell and pathlib.Path(f"/proc/{leader}/comm").read_text() == "sleep\n"

    def talk(text, wanted):
        nonlocal seen
        seen = b""
        os.write(terminal, text)
        end = time.monotonic() + 15
        while wanted not in seen:
            assert time.monotonic() < end, seen
            if poll.poll(100):
                seen += os.read(terminal, 4096)

    try:
        talk(b"PS1='>'$'> '\n", b">> ")
        assert b"no job control" not in seen
        shell = foreground()
        assert shell != pid
        talk(b"sleep 300\n", b"sleep 300\r\n")
        wait_until(sleeps)
        talk(b"\x03", b">> ")
        talk(b"sleep 301\n", b"sleep 301\r\n")
        wait_until(sleeps)
        talk(b"\x1a", b"Stopped")
        talk(b"kill %1; tput cols >/dev/null; stty size; echo $((40+2))\n", b"42")
        os.write(terminal, b"exit 5\n")
        with contextlib.suppress(OSError):
            while os.read(terminal, 4096):
                pass
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    finally:
        os.close(terminal)


@contextlib.contextmanager
def on_a_terminal(*options, command):
    """A wrapper whose stdin is its controlling terminal, and the other side of that."""
    ours, theirs = pty.openpty()
    with Wrapper(*options, command=command, stdin=theirs, start_new_session=True,
                 preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) as wrapper:
        os.close(theirs)
        yield wrapper, ours
    os.close(ours)


def test_a_helper_takes_neither_the_terminal_nor_stdin():
    words = f"{sys.executable} -u {SERVICES}/plain.py {{port}}"
    with on_a_terminal("--helper", f"second=/second={words}", command=service("plain")) as (wrapper, terminal):
        wait_until(lambda: wrapper.status()["helpers"]["second"]["ready"])
        assert os.tcgetpgrp(terminal) == wrapper.status()["pid"]
        assert os.readlink(f"/proc/{wrapper.status()['helpers']['second']['pid']}/fd/0") == "/dev/null"


def test_the_terminal_is_the_wrappers_while_no_service_runs():
    with on_a_terminal(command=service("plain")) as (wrapper, terminal):
        assert wrapper.command("POST", "/sidecar/api/stop?wait=1")[0] == 200
        wait_until(lambda: os.tcgetpgrp(terminal) == wrapper.process.pid)
        assert wrapper.command("POST", "/sidecar/api/start?wait=1")[0] == 200
        assert os.tcgetpgrp(terminal) == wrapper.status()["pid"]
        assert wrapper.command("POST", "/sidecar/api/stop?wait=1")[0] == 200
        wait_until(lambda: os.tcgetpgrp(terminal) == wrapper.process.pid)
        os.write(terminal, b"\x03")
        assert wrapper.end() == 0


def test_in_an_overlap_the_terminal_goes_to_the_run_that_takes_over(tmp_path):
    flag = tmp_path / "broken"
    with on_a_terminal("--restart-mode", "overlap", command=service("slow", "0", str(flag))) as (wrapper, terminal):
        before = wrapper.status()["pid"]
        flag.touch()
        assert wrapper.command("POST", "/sidecar/api/restart?wait=1")[0] == 500
        assert os.tcgetpgrp(terminal) == before
        flag.unlink()
        assert wrapper.command("POST", "/sidecar/api/restart?wait=1")[0] == 200
        assert os.tcgetpgrp(terminal) == wrapper.status()["pid"] != before


# Rest

@pytest.mark.soak
def test_nothing_happens_while_nothing_happens():
    """No polling: no voluntary context switch of any thread for a while."""
    def switches():
        total = 0
        for task in os.listdir(f"/proc/{wrapper.process.pid}/task"):
            with open(f"/proc/{wrapper.process.pid}/task/{task}/status") as file:
                total += int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", file.read(), re.MULTILINE)[1])
        return total

    with Wrapper(command=service("deaf"), wait=False) as wrapper:
        wrapper.wait_line("starting -> running")
        before = wait_until_quiet(switches)
        threading.Event().wait(2.5)
        assert switches() == before


def wait_until_quiet(count, pause=1.5, tries=15):
    """A count that has not changed for `pause` seconds."""
    for _ in range(tries):
        before = count()
        threading.Event().wait(pause)
        if count() == before:
            return before
    raise AssertionError("it never is")


def test_a_service_that_reads_its_port_from_a_variable_restarts_in_overlap():
    """As grafana does with GF_SERVER_HTTP_PORT."""
    command = ["sh", "-c", f'exec {sys.executable} -u {SERVICES}/plain.py "$GF_SERVER_HTTP_PORT"']
    with Wrapper("--env", "GF_SERVER_HTTP_PORT={port}", "--restart-mode", "overlap", command=command) as wrapper:
        before = wrapper.get("/")
        done = run("ctl", "--control", wrapper.control, "restart")
        assert done.returncode == 0, done.stderr
        assert wrapper.get("/") != before
