"""How a run leaves: drain, signal, what is in flight goes on, and all that it has started ends with it."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from tests.restarts.raw import Raw, get
from tests.running import Wrapper, service, wait_until
from tests.test_entrypoint import as_subreaper


def shell(script):
    return ["sh", "-c", f": {{port}}; {script}"]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("how", ["restart", "stop", "TERM"])
def test_what_is_in_flight_goes_on_behind_the_stop_signal(tmp_path, how):
    """nginx, gunicorn and uvicorn finish what they have begun, if they are let."""
    may_end = tmp_path / "end"
    with Wrapper("--drain-timeout", "100ms", "--stop-timeout", "60s",
                 command=service("graceful", str(may_end))) as wrapper, \
            Raw(wrapper.port, get("/slow")) as client:
        wrapper.wait_line("begun")
        if how == "TERM":
            wrapper.process.send_signal(signal.SIGTERM)
        else:
            assert wrapper.command("POST", f"/sidecar/api/{how}")[0] == 202
        wrapper.wait_line("signal 15")
        may_end.touch()
        status, _, body = client.read_response()
        assert (status, body.isdigit()) == (200, True)
        if how == "TERM":
            assert wrapper.end() == 0
        else:
            wrapper.wait_state("running" if how == "restart" else "stopped")


def test_what_is_in_flight_is_cut_when_the_service_does_not_end(tmp_path):
    with Wrapper("--drain-timeout", "50ms", "--stop-timeout", "300ms",
                 command=service("graceful", str(tmp_path / "never"))) as wrapper, \
            Raw(wrapper.port, get("/slow")) as client:
        wrapper.wait_line("begun")
        assert wrapper.command("POST", "/sidecar/api/restart?wait=1")[0] == 200
        with pytest.raises((ConnectionResetError, AssertionError)):
            client.read_response()


def test_in_an_overlap_the_old_run_keeps_what_it_has(tmp_path):
    may_end = tmp_path / "end"
    with Wrapper("--restart-mode", "overlap", "--drain-timeout", "0s",
                 command=service("graceful", str(may_end))) as wrapper, Raw(wrapper.port, get("/slow")) as client:
        wrapper.wait_line("begun")
        before = wrapper.status()["pid"]
        assert wrapper.command("POST", "/sidecar/api/restart?wait=1")[0] == 200
        assert int(wrapper.get("/")) == wrapper.status()["pid"] != before
        assert f"signal 15 for {before}" not in wrapper.stderr
        may_end.touch()
        status, _, body = client.read_response()
        assert (status, int(body)) == (200, before)
        wrapper.wait_line(f"signal 15 for {before}")
        wait_until(lambda: not is_alive(before))


def test_the_end_leaves_an_old_run_no_more_time_than_the_service(tmp_path):
    with Wrapper("--restart-mode", "overlap", "--drain-timeout", "100ms", "--stop-timeout", "3s",
                 command=service("graceful", str(tmp_path / "never"))) as wrapper, Raw(wrapper.port, get("/slow")):
        wrapper.wait_line("begun")
        before = wrapper.status()["pid"]
        assert wrapper.command("POST", "/sidecar/api/restart?wait=1")[0] == 200
        assert wrapper.end(signal.SIGTERM) == 0
        assert not is_alive(before)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_stop_signal_is_sent_whichever_asks(asked):
    with Wrapper("--stop-signal", "QUIT", command=service("plain", "3")) as wrapper:
        assert wrapper.end(asked) == 3
        assert "signal 3\n" in wrapper.stderr
        assert asked == signal.SIGQUIT or f"signal {int(asked)}\n" not in wrapper.stderr


def test_a_stop_signal_from_outside_asks_for_a_stop():
    """httpd stops gracefully at WINCH, and its image says so with STOPSIGNAL."""
    script = "trap 'echo told >&2; exit 5' WINCH; trap '' TERM; echo up >&2; while :; do sleep 0.05; done"
    with Wrapper("--stop-signal", "WINCH", command=shell(script), wait=False) as wrapper:
        wrapper.wait_line("up")
        assert wrapper.end(signal.SIGWINCH) == 5
        assert "told" in wrapper.stderr
        assert "shutting down" in wrapper.stderr


def test_a_signal_that_does_not_end_reaches_the_services_own_process_only():
    """gunicorn's workers die of the HUP that its master takes as a reload."""
    script = "trap 'echo reloaded >&2' HUP; sleep 61 & echo worker $! >&2; while :; do sleep 0.05; done"
    with Wrapper(command=shell(script), wait=False) as wrapper:
        wrapper.wait_line("worker")
        worker = int(wrapper.stderr.split("worker ")[1].split()[0])
        wrapper.process.send_signal(signal.SIGHUP)
        wrapper.wait_line("reloaded")
        assert is_alive(worker)


TIDY = """
import signal, sys, time

def tidy(number, frame):
    time.sleep(0.3)  # what tidying up takes
    sys.stderr.write("tidied\\n")
    sys.exit()

signal.signal(signal.SIGTERM, tidy)
sys.stderr.write("up\\n")
signal.pause()
"""


def tidy(tmp_path):
    """A process that takes a moment to tidy up after TERM."""
    (tmp_path / "tidy.py").write_text(TIDY)
    return f"{sys.executable} {tmp_path / 'tidy.py'}"


@pytest.mark.parametrize("script", ["{tidy}; echo end", "{tidy} | cat", "setsid {tidy} & wait"])
def test_a_stop_waits_for_all_that_the_leader_leaves(tmp_path, script):
    """A command that is a script without `exec`, such as npm start: the shell ends first, the service tidies up."""
    with Wrapper(command=shell(script.format(tidy=tidy(tmp_path))), wait=False) as wrapper:
        wrapper.wait_line("up")
        wrapper.end(signal.SIGTERM)
        assert "tidied" in wrapper.stderr


def test_what_a_killed_leader_leaves_gets_term(tmp_path):
    """As dumb-init's suite asks for."""
    with Wrapper(command=shell(f"{tidy(tmp_path)} & echo leader $$ >&2; wait"), wait=False) as wrapper:
        wrapper.wait_line("up")
        wrapper.wait_line("leader ")
        os.kill(int(wrapper.stderr.split("leader ")[1].split()[0]), signal.SIGKILL)
        assert wrapper.end() == 137
        assert "tidied" in wrapper.stderr


def test_a_daemon_of_the_old_run_is_ended_before_the_next_one_starts(tmp_path):
    """`php-fpm -D && exec nginx`: the daemon is nobody's child any more, and went on with the old configuration."""
    daemon = f"setsid sh -c 'sleep 600 & echo $! >>{tmp_path}/daemons'"
    with Wrapper(command=["sh", "-c", f"{daemon}; exec {' '.join(service('plain'))}"],
                 preexec_fn=as_subreaper) as wrapper:
        assert wrapper.command("POST", "/sidecar/api/restart?wait=1")[0] == 200
        old, new = map(int, (tmp_path / "daemons").read_text().split())
        assert not is_alive(old)
        assert is_alive(new)
        wrapper.end(signal.SIGTERM)
        assert not is_alive(new)


def test_a_helpers_daemon_is_not_the_services(tmp_path):
    daemon = f"setsid sh -c 'sleep 600 & echo $! >{tmp_path}/daemon'"
    (tmp_path / "helper.sh").write_text(f"{daemon}; exec {' '.join(service('plain')).replace('{port}', '$1')}")
    with Wrapper("--helper", f"aside=/aside=sh {tmp_path}/helper.sh {{port}}", command=service("plain"),
                 preexec_fn=as_subreaper) as wrapper:
        wait_until(lambda: wrapper.status()["helpers"]["aside"]["state"] == "running")
        assert wrapper.command("POST", "/sidecar/api/restart?wait=1")[0] == 200
        assert is_alive(left := int((tmp_path / "daemon").read_text()))
        wrapper.end(signal.SIGTERM)
        assert not is_alive(left)


# root without CAP_KILL, as under `cap_drop: ALL`, and a service that has dropped root
UNPRIVILEGED = ("setpriv", "--bounding-set=-kill", "--inh-caps=-kill")
AS_OTHER_USER = """
import os, sys
code = open(sys.argv[1]).read()
sys.path.insert(0, os.path.dirname(sys.argv.pop(1)))
import encodings.idna, serving, signal  # as root, since they may stand where only root can read
os.setuid(65534)
exec(code)
"""


def test_a_service_that_cannot_be_signalled_goes_on_and_the_action_fails_at_once():
    python, _, plain, port = service("plain")
    with Wrapper(command=[python, "-c", AS_OTHER_USER, plain, port], under=UNPRIVILEGED) as wrapper:
        pid = wrapper.status()["pid"]
        for verb in ("restart", "stop"):
            status, document = wrapper.command("POST", f"/sidecar/api/{verb}?wait=1")
            assert (status, "CAP_KILL" in document["error"]) == (500, True)
        assert int(wrapper.get("/")) == pid
        assert "CAP_KILL" in wrapper.command("GET", "/sidecar/api/problems")[1][0]["message"]
        assert wrapper.command("POST", "/sidecar/api/signal?name=HUP")[0] == 500
        try:
            assert wrapper.end(signal.SIGTERM) == 137
            assert "cannot signal the service" in wrapper.stderr
        finally:
            os.kill(pid, signal.SIGKILL)  # in a container the kernel does it
