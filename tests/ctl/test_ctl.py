"""ctl.py: every verb against a live wrapper, as another process sees it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading

import pytest

from tests.ctl.speaking import answer, answering
from tests.running import PATIENCE, ROOT, Wrapper, run, service, wait_until
from wrapper.ctl.ctl import CLEAR, main

CLOCK = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  "


@pytest.fixture(scope="module")
def live():
    """One wrapper for the tests that leave the service running."""
    with Wrapper("--capture-output", "--stop-timeout", "3s", command=service("plain")) as wrapper:
        yield wrapper


def ctl(wrapper, *words, **options):
    return run("ctl", "--control", wrapper.control, *words, **options)


@contextlib.contextmanager
def following(wrapper, *words):
    """A verb that goes on until Ctrl-C, for the lines it writes; one that hangs is ended, and its test fails."""
    verb = subprocess.Popen([sys.executable, "-m", "wrapper", "ctl", "--control", wrapper.control, *words], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    guard = threading.Timer(PATIENCE, verb.kill)
    guard.start()
    try:
        yield verb
        verb.send_signal(signal.SIGINT)
    finally:
        verb.communicate()
        guard.cancel()
    assert verb.returncode == 130


def line_of(verb):
    line = verb.stdout.readline()
    assert line, "it ended without the line"
    return line


# To look at

def test_status_is_a_table(live):
    done = ctl(live, "status")
    assert done.returncode == 0
    assert re.match(rf"service +running for .*, since {CLOCK.strip()}", done.stdout)
    assert f"pid {live.status()['pid']}" in done.stdout
    assert re.search(r"^problems +none$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout, "no colours where no terminal shows them"


@pytest.mark.parametrize("words", [("--json", "status"), ("status", "--json")])
def test_json_is_the_document_of_the_api(live, words):
    assert json.loads(ctl(live, *words).stdout)["state"] == "running"


def test_status_watch_draws_again(live):
    with following(live, "status", "--watch", "--json") as watch:
        first, second = (json.loads(line_of(watch)) for _ in range(2))
    assert second["uptime_seconds"] > first["uptime_seconds"]


def test_status_watch_fits_the_terminal(live):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 4, 30, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("LINES", "COLUMNS")}
    watch = subprocess.Popen([sys.executable, "-m", "wrapper", "ctl", "--control", live.control, "status", "--watch"],
                             cwd=ROOT, stdout=theirs, env={**environment, "NO_COLOR": "1"})
    os.close(theirs)
    try:
        shown = b""
        while shown.count(CLEAR.encode()) < 2:
            shown += os.read(ours, 65536)
    finally:
        watch.send_signal(signal.SIGINT)
        watch.wait(PATIENCE)
        os.close(ours)
    lines = shown.decode().split(CLEAR)[1].replace("\r", "").splitlines()
    assert re.match("service +running for ", lines[0])
    assert len(lines) == 3, "the fourth is where the cursor stands"
    assert max(map(len, lines)) <= 30


def test_problems_and_config_say_that_there_is_nothing(live):
    assert ctl(live, "problems").stdout == "no problems\n"
    assert json.loads(ctl(live, "problems", "--json").stdout) == []
    assert ctl(live, "config").stdout == "no configuration is watched\n"
    assert json.loads(ctl(live, "config", "--look", "--json").stdout) == []


def test_pause_says_for_how_long_and_status_that_all_is_held(live):
    """30 s is the most that is given, and a migration may count on the 100 that were asked for."""
    try:
        done = ctl(live, "pause", "--for", "100s", "--reason", "a migration")
        assert done.stdout == f"running, pid {live.status()['pid']}, paused for 30 s\n"
        assert "; paused: a migration" in ctl(live, "status").stdout
    finally:
        assert "paused" not in ctl(live, "resume").stdout


def test_signal_reaches_the_service_and_logs_show_it(live):
    assert ctl(live, "signal", "usr2").stdout == f"sent USR2 to pid {live.status()['pid']}\n"
    line = f"signal {int(signal.SIGUSR2)}\n"
    wait_until(lambda: line in ctl(live, "logs").stdout)
    assert ctl(live, "logs", "--lines", "0").stdout == ""
    assert line.strip() in json.loads(ctl(live, "logs", "--json").stdout)


def test_logs_follow_as_more_comes(live):
    """The last lines first, so that it does not matter which of the two comes sooner."""
    with following(live, "logs", "--follow") as logs:
        ctl(live, "signal", "ALRM")
        while line_of(logs) != f"signal {int(signal.SIGALRM)}\n":
            pass


def test_logs_keep_characters_whole_however_they_come(tmp_path):
    go_on = tmp_path / "go-on"
    script = ("import os, sys, time, http.server, pathlib, threading\n"
              "def work():\n"
              "    os.write(1, b'caf\\xc3')\n"
              f"    while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(.01)\n"
              "    os.write(1, b'\\xa9 done\\n')\n"
              "threading.Thread(target=work, daemon=True).start()\n"
              "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)"
              ".serve_forever()\n")
    with Wrapper("--capture-output", command=[sys.executable, "-c", script, "{port}"]) as wrapper:
        wait_until(lambda: "caf" in ctl(wrapper, "logs").stdout)
        with following(wrapper, "logs", "--follow") as logs:
            assert logs.stdout.read(3) == "caf"
            go_on.touch()
            assert line_of(logs) == "\xe9 done\n"


def test_a_terminal_of_few_characters_is_no_fault(live):
    done = ctl(live, "restart", "--reason", "caf\xe9", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "caf\\xe9" in done.stdout


@pytest.mark.parametrize("words", ["restart", "status", "logs"])
def test_nobody_need_hear_what_it_says(live, words):
    command = f"{sys.executable} -m wrapper ctl --control {live.control} {words} >&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("words", "status"), [("ctl status", 1), ("ctl signal USR1", 1), ("ctl logs", 1),
                                               ("health", 0), ("health --json", 0)])
def test_a_full_disk_is_one_line_and_changes_nothing_about_health(live, words, status):
    command = f"{sys.executable} -u -m wrapper {words} --control {live.control} >/dev/full"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr.count("\n")) == (status, status)
    assert status == 0 or "cannot write: No space left on device" in done.stderr


def test_events_are_what_happened_so_far(live):
    lines = ctl(live, "events").stdout.splitlines()
    assert re.fullmatch(rf"{CLOCK}stopped -> starting  first start", lines[0])
    assert json.loads(ctl(live, "events", "--json").stdout.splitlines()[0])["id"] == 1


def test_events_follow(live):
    with following(live, "events", "--follow", "--json") as events:
        ctl(live, "signal", "USR1")
        while json.loads(line_of(events))["kind"] != "signal":
            pass


# To do

def test_restart_shows_the_states_as_they_pass(live):
    before = live.status()
    done = ctl(live, "restart", "--reason", "new certificates")
    after = live.status()
    assert done.returncode == 0, done.stderr
    turns = re.findall(rf"^{CLOCK}(\w+ -> \w+)", done.stdout, re.MULTILINE)
    assert turns == ["running -> draining", "draining -> stopping", "stopping -> starting", "starting -> running"]
    assert "new certificates (asked by the control socket)" in done.stdout
    assert done.stdout.splitlines()[-1] == f"running, pid {after['pid']}"
    assert after["generation"] == before["generation"] + 1


def test_restart_shows_the_next_run_while_it_starts():
    with Wrapper("--restart-mode", "overlap", command=service("plain")) as wrapper:
        done = ctl(wrapper, "restart", "--reason", "new certificates")
        assert re.search(rf"^{CLOCK}starting the next run, pid \d+  new certificates", done.stdout, re.MULTILINE)
        assert re.search(r"running -> running  the next run, ready after \d+\.\d s, took over: new cert", done.stdout)
        wrapper.wait_line("starting the next run")
        wrapper.wait_line("restarted in")


def test_restart_in_json_is_the_status_afterwards(live):
    document = json.loads(ctl(live, "--json", "restart").stdout)
    assert document["state"] == "running"
    assert document["pid"] == live.status()["pid"]


def test_reload_restarts_where_no_reload_is_configured(live):
    before = live.status()["generation"]
    assert ctl(live, "reload").returncode == 0
    assert live.status()["generation"] == before + 1


def test_stop_and_start(live):
    assert ctl(live, "stop").stdout.splitlines()[-1] == "stopped"
    assert live.request("GET", "/")[0] == 503
    assert ctl(live, "stop").returncode == 0, "what is done already is well"
    assert re.search(r"^running, pid \d+$", ctl(live, "start").stdout, re.MULTILINE)
    assert live.request("GET", "/")[0] == 200


def test_no_wait_only_asks(live):
    before = live.status()["generation"]
    done = ctl(live, "restart", "--no-wait")
    assert done.returncode == 0
    wait_until(lambda: live.status()["generation"] > before)
    live.wait_state("running")


def test_a_start_that_fails_is_1_and_says_why(tmp_path):
    marker = tmp_path / "broken"
    script = f'[ -e {marker} ] && exit 3; exec "$@"'
    command = ["sh", "-c", script, "sh", *service("plain")]
    with Wrapper("--restart", "on-failure", "--backoff", "30s..30s", command=command) as wrapper:
        marker.touch()
        done = ctl(wrapper, "restart")
        assert done.returncode == 1
        assert done.stderr == "wrapper ctl: cannot restart: it ended with status 3\n"
        assert "starting -> backoff" in done.stdout
        assert "! service: " in ctl(wrapper, "problems").stdout


def test_a_reason_may_be_in_any_encoding(live):
    """It was said that the answer could not be read, and nothing was done."""
    done = ctl(live, "restart", "--json", "--reason", b"caf\xe9 \xc3\xa9")
    assert (done.returncode, done.stderr) == (0, "")
    assert any("caf\\ufffd \\u00e9 (asked by" in line for line in ctl(live, "events", "--json").stdout.splitlines())


def test_what_contradicts_an_action_under_way_is_1():
    with Wrapper(command=["sleep", "60", "{port}"], wait=False) as wrapper:
        done = ctl(wrapper, "stop")  # it has not started yet
        assert done.returncode == 1
        assert done.stderr.startswith("wrapper ctl: cannot stop: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("signal", "NONSENSE"), ("restart", "--service", "missing"),
                                   ("restart", "--service", "")])
def test_what_the_wrapper_refuses_is_one_line_and_1(live, words):
    done = ctl(live, *words)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_logs_without_captured_output_say_how_to_have_them():
    with Wrapper(command=service("plain")) as wrapper:
        done = ctl(wrapper, "logs")
    assert done.returncode == 1
    assert "--capture-output" in done.stderr


def test_lines_of_the_service_and_of_a_helper_are_told_apart():
    """In what is passed on by their names, for `ctl logs` and the API by --service."""
    said = shlex.join(["sh", "-c", 'echo "from $1"; shift; exec "$@"', "sh", "mail", *service("plain")])
    with Wrapper("--capture-output", "--output-prefix", "--helper", f"mail=/mail={said}",
                 command=["sh", "-c", 'echo "from main"; exec "$@"', "sh", *service("plain")]) as wrapper:
        passed = [wrapper.process.stdout.readline() for _ in range(2)]
        lines = {name: ctl(wrapper, "logs", *words).stdout
                 for name, words in (("main", ()), ("mail", ("--service", "mail")))}
    assert sorted(passed) == [b"mail | from mail\n", b"service | from main\n"]
    for mine, theirs in (("main", "mail"), ("mail", "main")):
        assert f"from {mine}\n" in lines[mine]
        assert f"from {theirs}" not in lines[mine]


def test_another_prefix_is_no_hindrance():
    """ctl is another process: it cannot know what --prefix the wrapper was given."""
    with Wrapper("--prefix", "/elsewhere", command=service("plain"), wait=False) as wrapper:
        wrapper.wait_line("starting -> running")
        assert json.loads(ctl(wrapper, "--json", "status").stdout)["state"] == "running"
        assert run("health", "--ready", "--control", wrapper.control).returncode == 0


# No wrapper there, and bad usage

@pytest.mark.parametrize("words", [("ctl", "status"), ("ctl", "restart"), ("ctl", "logs", "--follow"), ("health",),
                                   ("health", "--ready")])
def test_without_a_wrapper_it_is_one_line_and_1(tmp_path, words):
    done = run(*words, "--control", str(tmp_path / "nothing.sock"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no wrapper runs here" in done.stderr


@pytest.mark.parametrize("words", [["logs", "--follow"], ["logs", "--follow", "--json"], ["events", "--follow"]])
def test_a_wrapper_that_is_killed_meanwhile_is_one_line_and_1(words):
    with Wrapper("--capture-output", command=service("plain")) as wrapper:
        wrapper.process.send_signal(signal.SIGUSR1)  # for a line in the output
        verb = subprocess.Popen([sys.executable, "-m", "wrapper", "ctl", "--control", wrapper.control, *words],
                                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert verb.stdout.readline()
        group = wrapper.status()["pid"]
        wrapper.process.kill()
        os.killpg(group, signal.SIGKILL)
        said = verb.communicate(timeout=PATIENCE)[1]
    assert (verb.returncode, said.count("\n")) == (1, 1)
    assert said.startswith("wrapper ctl: the wrapper went away")


@pytest.mark.parametrize("words", ["restart", "stop --json", "config rollback 1", "logs --follow", "events --follow"])
def test_a_wrapper_that_hangs_is_one_line_and_1(tmp_path, words, monkeypatch, capsys):
    """Stopped by SIGSTOP or a debugger; what may take long is waited for, its beginning is not."""
    monkeypatch.setattr("wrapper.ctl.ctl.STEP_TIMEOUT", 0.05)
    place = str(tmp_path / "c.sock")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(place)
        deaf.listen()
        guard = threading.Timer(PATIENCE, deaf.shutdown, [socket.SHUT_RDWR])
        guard.start()
        returned = main(["--control", place, *words.split()])
        guard.cancel()
    assert (returned, capsys.readouterr().err) == (1, "wrapper ctl: the wrapper does not answer in time\n")


@pytest.mark.parametrize("words", [("ctl",), ("ctl", "dance"), ("ctl", "signal"), ("ctl", "logs", "--lines", "-1"),
                                   ("ctl", "logs", "-n", "x")])
def test_bad_usage_is_2(words):
    done = run(*words)
    assert done.returncode == 2
    assert "usage: " in done.stderr


ODD = ("\x1b]0;mine\x07", [], {}, {"state": "\x1b[2J"}, [{"source": "\x1b[2J", "message": 3}], [3],
       {"error": "\x1b[2J"}, {"last_event": "\x1b"}, {"state": "running", "since": 3, "helpers": []})


@pytest.mark.parametrize("document", [*map(json.dumps, ODD), "plain \x1b]0;text\x07"])
@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_listens_there_may_say_anything(tmp_path, document, status, capsys):
    """A traceback would help no operator, and a terminal obeys what is not escaped.

    In this process: what is raised fails the test, and 160 more interpreters would show nothing else.
    """
    place = str(tmp_path / "c.sock")
    kind = "text/plain" if document.startswith("plain") else "application/json"
    with answering(place, answer(status, document, kind)):
        for words in ("status", "problems", "config", "logs", "events", "signal HUP", "restart", "stop --no-wait"):
            returned = main(["--control", place, *words.split()])
            said = capsys.readouterr()
            assert not {"\x1b", "\x07"} & set(said.out + said.err)
            assert "Traceback" not in said.err
            assert returned == 0 or said.err.count("\n") == 1, (words, said.err)


def test_what_the_service_prints_is_escaped_for_a_terminal(tmp_path):
    """An escape sequence in a log can retitle, clear or answer for the terminal that shows it."""
    script = "printf 'a\\tb\\033]0;mine\\007\\r\\n'; exec \"$@\""
    with Wrapper("--capture-output", command=["sh", "-c", script, "sh", *service("plain")]) as wrapper:
        assert "a\tb\\x1b]0;mine\\x07\n" in ctl(wrapper, "logs", "-n", "20").stdout
        assert "a\tb\x1b]0;mine\x07" in json.loads(ctl(wrapper, "logs", "--json").stdout)


@pytest.mark.parametrize("follow", [[], ["--follow"]])
def test_a_line_in_json_is_a_line_of_the_service(tmp_path, follow, capsys):
    """Form feeds and the like end no line: each was shown as several without --follow."""
    place = str(tmp_path / "c.sock")
    with answering(place, answer(200, "a\x0cb\x1cc\r\nd\n", "text/plain; charset=utf-8")):
        main(["--control", place, "logs", "--json", *follow])
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said == (["a\x0cb\x1cc", "d"] if follow else [["a\x0cb\x1cc", "d"]])


def test_it_says_whom_it_talks_to(live):
    where = f"pid {live.process.pid} at {live.control}"
    assert where in ctl(live, "status").stdout
    done = run("ctl", "signal", "USR1", env={**os.environ, "WRAPPER_CONTROL": live.control})
    assert done.stderr == f"wrapper ctl: to the wrapper with {where}\n"
    assert ctl(live, "signal", "USR1").stderr == "", "where the socket was named it is known"


def test_usage_names_the_words_that_were_typed():
    assert run("ctl", "--help").stdout.startswith("usage: python3 -m wrapper ctl ")
    assert run("ctl", "logs", "--help").stdout.startswith("usage: python3 -m wrapper ctl logs ")


def test_a_reader_that_leaves_is_no_fault(live):
    command = f"{sys.executable} -m wrapper ctl --control {live.control} events | head -1"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
