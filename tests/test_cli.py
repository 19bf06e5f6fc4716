"""cli.py: run, check, help, and what a mistake is answered with."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import subprocess
import sys

import pytest

from tests.running import PATIENCE, PROGRAM, ROOT, free_port, run
from wrapper import cli
from wrapper.errors import BadSettings
from wrapper.settings import settings


@pytest.mark.parametrize(("words", "status", "said"), [
    (("--hold", "soon", "--", "true", "{port}"), 2, "expected a duration"),
    (("--listen", f"127.0.0.1:{free_port()}", "--", "/no/such/program", "{port}"), 127, "not found"),
    (("--listen", "192.0.2.1:80", "--", "true", "{port}"), 1, "cannot listen")])
def test_a_fault_at_the_start_is_told_as_the_log_is_set(words, status, said):
    """A collector that reads JSON lines gets no other ones."""
    done = run("--log-format", "json", *words)
    assert done.returncode == status
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert said in lines[-1]["message"] and lines[-1]["level"] == "error"


def test_a_source_folder_that_holds_its_own_place_is_refused(tmp_path):
    """Each change would be one more file of the source, in folders in folders; what is hidden is none of it."""
    def faults(*options):
        words = ["--upstream", "127.0.0.1:1", "--config-source", str(tmp_path), *options, "--", "x"]
        try:
            settings.read(words, {}, cli.unreadable)
        except BadSettings as error:
            return error.faults
        return []

    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "a.yml").write_text("a")
    for place in ("", "out/", "link/out/", "link"):
        fault, = faults("--config-file", f"{tmp_path}/{place}")
        assert f"lies in --config-source={tmp_path}" in fault
    assert faults("--config-file", f"{tmp_path}/.out/") == faults("--config-file", f"{tmp_path}-out/") == []
    assert faults("--config-file", f"{tmp_path}/b.yml", "--config-select", "a.yml") == []


def test_check_prints_every_setting_with_its_origin():
    result = run("check", "--all", "--hold", "5s", "--token", "s3cret", "--", "true", "{port}",
                 env={**os.environ, "WRAPPER_HOLD_MAX": "7", "WRAPPER_NOPE": "1"})
    assert result.returncode == 0
    assert re.search(r"--hold +=\s+5s +\(--hold\)", result.stdout)
    assert re.search(r"--stop-signal +=\s+TERM +\(default\)", result.stdout)
    assert re.search(r"--upstream +=\s+none +\(default\)", result.stdout)
    assert re.search(r"--hold-max +=\s+7 +\(WRAPPER_HOLD_MAX\)", result.stdout)
    assert "s3cret" not in result.stdout
    assert "WRAPPER_NOPE" in result.stdout
    assert run("check", "--hold", "x").returncode == 2


def test_check_prints_what_was_set_and_the_defaults_where_all_is_asked_for():
    result = run("check", "--hold", "5s", "--", "true", "{port}", env={**os.environ, "WRAPPER_HOLD_MAX": "7"})
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["--hold", "--hold-max", "COMMAND"]
    assert re.fullmatch(r"\d+ others have their defaults; check --all prints them too", lines[3])
    assert len(lines) == 4
    assert "--all " not in run("check", "--hold", "5s", "--all", "--", "true", "{port}").stdout


@pytest.mark.parametrize(("words", "status", "said"), [
    (["--listen", "192.0.2.1:8080", "--", "true", "{port}"], 1, "no such address; --listen :PORT"),
    (["--listen", f"127.0.0.1:{free_port()}", "--", "sleep 5 {port}"], 127, "without quotes")])
def test_a_mistake_is_one_line_that_names_the_way_out(words, status, said):
    done = run(*words)
    assert (done.returncode, said in done.stderr.splitlines()[-1]) == (status, True)


def test_check_prints_values_as_they_can_be_pasted_back():
    words = ["--helper", "a=/a=sleep '{port} x'", "--helper", "b=/b=true {port}", "--exit-status", "143=0",
             "--ready-status", "200,300-399", "--backoff", "1s..2s", "--", "true", "{port}", "a b"]
    said = run("check", "--all", *words).stdout.splitlines()
    lines = dict(line.partition(" (")[0].split(" = ") for line in said)
    pasted = []
    for line in said:
        flag, _, value = line.rpartition("  (")[0].partition("=") if "COMMAND" not in line else line.partition("=")
        if value.strip() != "none" and flag.strip() != "COMMAND":
            pasted += [flag.strip(), *shlex.split(value)]
    assert [pasted[at + 1] for at, word in enumerate(pasted) if word == "--helper"] == [words[1], words[3]]
    switches = {"--capture-output", "--h2c", "--access-log"}
    joined = [f"{flag}={value}" for flag, value in zip(pasted[::2], pasted[1::2])]
    assert switches <= {word.partition("=")[0] for word in joined}
    again = settings.read([*joined, "--", *words[-3:]], {})
    assert again.helper == settings.read(words, {}).helper
    assert shlex.split(lines[next(name for name in lines if name.startswith("COMMAND"))]) == words[-3:]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict"])
def test_check_shows_what_a_terminal_cannot(encoding):
    words = [b"check", b"--control", "/tmp/\u2603".encode(), b"--", b"true", b"{port}", b"\xff"]
    done = subprocess.run([sys.executable, "-m", "wrapper", *words], cwd=ROOT, capture_output=True, timeout=20,
                          env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\udcff" in done.stdout


def test_a_bad_certificate_is_a_fault_among_others_for_check_and_run():
    words = ["--tls-cert", "/nope", "--tls-key", "/nope", "--hold", "bad", "--", "true", "{port}"]
    for verb in (["check"], []):
        done = run(*verb, *words)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 2
        assert "--tls-cert /nope" in done.stderr


def test_a_fault_is_one_line_whatever_the_value_holds():
    done = run("--hold", "1\n2", "--", "true", "{port}")
    assert done.stderr == "wrapper: --hold=1\\n2: expected a duration such as 500ms, 10s, 2m or plain seconds\n"


def test_what_is_no_setting_is_said_as_the_log_is_set():
    words = ("--log-level", "error", "--listen", f"127.0.0.1:{free_port()}", "--", "true", "{port}")
    done = run(*words, env={**os.environ, "WRAPPER_NOPE": "1"})
    assert "WRAPPER_NOPE" not in done.stderr


@pytest.mark.parametrize("words", ["check -- true {port}", "--help", "--version", "--nope", "check --nope"])
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_reader_that_left_is_no_reason_for_a_traceback(words, closed):
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m wrapper {words} {closed}"], cwd=ROOT, timeout=20,
                          stderr=subprocess.PIPE)
    assert done.returncode == (2 if "nope" in words else 0)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(("words", "status"), [("--hold=nope -- true {port}", 2), ("-- /no/such/program {port}", 127)])
def test_what_cannot_start_ends_though_stderr_is_full_and_not_read(words, status):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * select.PIPE_BUF)
    os.set_blocking(writing, True)
    with open(reading, "rb"), open(writing, "wb") as stderr:
        done = subprocess.run([*PROGRAM, "--listen", f"127.0.0.1:{free_port()}", *words.split()], cwd=ROOT,
                              timeout=PATIENCE, stderr=stderr)
    assert done.returncode == status


@pytest.mark.parametrize("words", ["check --help", "--listen :80 --help", "-h", "--nope --help -- true"])
def test_help_is_given_wherever_it_is_asked_for(words):
    done = run(*words.split())
    assert (done.returncode, "--stop-timeout" in done.stdout) == (0, True)
    behind = run("--listen", f"127.0.0.1:{free_port()}", "--env", "P={port}", "printf", "%s", "--help")
    assert behind.stdout == "--help"


def test_help_and_version():
    assert "--stop-timeout" in run("--help").stdout
    assert re.fullmatch(r"wrapper \d+\.\d+\.\d+\n", run("--version").stdout)
