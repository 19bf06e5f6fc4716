"""health.py: what a HEALTHCHECK and an exec probe learn, and what that costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.ctl.speaking import answer, answering
from tests.running import ROOT, Wrapper, run, service

# What costs milliseconds and MiB every ten seconds, for as long as the container lives.
HEAVY = {"argparse", "email", "http", "inspect", "json", "re", "signal", "ssl", "tempfile", "threading", "typing",
         "urllib"}


@pytest.fixture(scope="module")
def live():
    with Wrapper("--stop-timeout", "3s", command=service("plain")) as wrapper:
        yield wrapper


def health(wrapper, *words, **options):
    return run("health", *words, "--control", wrapper.control, **options)


def test_alive_and_serving_are_told_apart(live):
    assert health(live).stdout == "healthy\n"
    assert health(live, "--ready").stdout == "ready\n"
    run("ctl", "stop", "--control", live.control)
    try:
        done = health(live)
        assert done.returncode == 0
        assert done.stdout.startswith("the wrapper serves; the service is stopped")
        done = health(live, "--ready")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("wrapper health: the service is stopped")
        assert json.loads(health(live, "--ready", "--json").stdout)["status"] == 503
    finally:
        run("ctl", "start", "--control", live.control)


def test_json_is_the_document_of_the_path(live):
    assert json.loads(health(live, "--json").stdout) == {"healthy": True}
    assert json.loads(health(live, "--json", "--ready").stdout)["ready"] is True


def test_it_loads_next_to_nothing(live):
    """57 ms of processor time and 18.5 MiB they were, of which a bare Python takes 13 ms and 10.9 MiB."""
    program = ("import sys; from wrapper import cli; status = cli.main(sys.argv[1:]); "
               "print(status, *{name.partition('.')[0] for name in sys.modules})")
    done = subprocess.run([sys.executable, "-S", "-c", program, "health", "--control", live.control], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    said, loaded = done.stdout.splitlines()
    assert (said, loaded.split()[0]) == ("healthy", "0")
    assert not HEAVY & set(loaded.split())


@pytest.mark.parametrize(("words", "status", "said"), [
    (["--timeout", "soon"], 2, "expected a duration"), (["--timeout"], 2, "a value is missing"),
    (["--redy"], 2, "no such option"), (["--help"], 0, "[--timeout D]"),
    (["--control=/nowhere"], 1, "no wrapper runs")])
def test_its_usage(words, status, said):
    done = run("health", *words)
    assert done.returncode == status
    assert said in done.stdout + done.stderr


def test_usage_names_the_words_that_were_typed():
    assert run("health", "--help").stdout.startswith("usage: python3 -m wrapper health ")
    file = str(ROOT / "wrapper" / "__main__.py")
    done = subprocess.run([sys.executable, file, "health", "--help"], capture_output=True, text=True, timeout=20)
    assert done.stdout.startswith(f"usage: python3 {file} health ")


@pytest.mark.parametrize("noise", [b"", b"SSH-2.0-x\r\n", answer(200, "all is well", "text/plain"),
                                   answer(200, "\x1b]0;me\x07", "text/plain"), b"HTTP/1.1 "])
def test_what_is_no_wrapper_is_one_line_and_1(tmp_path, noise):
    place = str(tmp_path / "c.sock")
    with answering(place, noise):
        for words in ([], ["--ready"], ["--json"]):
            done = run("health", "--control", place, *words)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
            assert "\x1b" not in done.stderr


def test_what_it_prints_is_escaped(tmp_path):
    place = str(tmp_path / "c.sock")
    with answering(place, answer(503, json.dumps({"error": "\x1b[2Jnice", "status": 503}))):
        done = run("health", "--control", place, "--ready")
    assert done.stderr == "wrapper health: \\x1b[2Jnice\n"


def test_the_environment_of_the_container_names_the_socket(live):
    done = run("health", env={**os.environ, "WRAPPER_CONTROL": live.control})
    assert (done.returncode, done.stdout) == (0, "healthy\n")
