"""preflight.py: what `check` finds before a run would."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from tests.running import ROOT, run

PROGRAM = [sys.executable, str(ROOT / "wrapper" / "__main__.py")]


@pytest.mark.parametrize(("words", "said"), [
    (["--", "no-such-program", "{port}"], "COMMAND: cannot run 'no-such-program': not found"),
    (["--", "sleep 5 {port}"], "COMMAND: cannot run 'sleep 5 {port}': not found; give its words without quotes"),
    (["--", "/tmp", "{port}"], "COMMAND: cannot run '/tmp': it is a directory"),
    (["--", "/etc/passwd", "{port}"], "COMMAND: cannot run '/etc/passwd': Permission denied"),
    (["--helper", "a=/a=nope {port}", "--", "true", "{port}"], "--helper=a: cannot run 'nope': not found"),
    (["--config-source", "/etc", "--config-file", "/tmp/x/", "--config-check", "nope {file}", "--", "true", "{port}"],
     "--config-check: cannot run 'nope': not found"),
    (["--sidecar", "/nope.py", "--", "true", "{port}"], "--sidecar=/nope.py: cannot be read: No such file"),
    (["--sidecar", "no.such", "--", "true", "{port}"], "--sidecar=no.such: there is no such module"),
    (["--config-history", "/etc/passwd", "--", "true", "{port}"], "--config-history=/etc/passwd: is a file"),
    (["--token-file", "/nope", "--", "true", "{port}"], "--token-file=/nope: No such file"),
    (["--config-source", "http:/host", "--config-file", "/x", "--", "true", "{port}"], "a URL has two slashes")])
def test_check_finds_what_a_run_would_find(words, said):
    done = run("check", *words)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_check_compiles_a_sidecar_and_does_not_run_it(tmp_path):
    (tmp_path / "broken.py").write_text("import os\ndef broken(:\n")
    (tmp_path / "whole.py").write_text("open('ran', 'w')\n")
    for word in ("broken", "broken.py"):
        done = subprocess.run([*PROGRAM, "check", "--sidecar", word, "--",
                               "true", "{port}"], cwd=tmp_path, capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"--sidecar={word}: does not compile: " in done.stderr and "line 2" in done.stderr
    done = subprocess.run([*PROGRAM, "check", "--sidecar", "whole",
                           "--sidecar", "wrapper.presets.prometheus", "--", "true", "{port}"], cwd=tmp_path, timeout=20)
    assert done.returncode == 0
    assert not (tmp_path / "ran").exists()


def test_a_module_that_is_no_file_is_not_judged(tmp_path):
    """In an archive, or a folder without an __init__.py: only an import would tell."""
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("zipped.py", "raise RuntimeError('imported')")
        archive.writestr("broken.py", "def broken(:")
    (tmp_path / "folder").mkdir()
    words = [word for name in ("zipped", "folder") for word in ("--sidecar", name)]
    for more, status in ([], 0), (["--sidecar", "broken"], 2):
        done = subprocess.run([*PROGRAM, "check", *words, *more, "--", "true", "{port}"], cwd=tmp_path, timeout=20,
                              env={**os.environ, "PYTHONPATH": str(tmp_path / "archive.zip")}, capture_output=True)
        assert done.returncode == status
        assert b"Traceback" not in done.stderr


def test_a_weak_token_is_the_operators_choice(tmp_path):
    """A run takes it, and has a problem on its board."""
    (tmp_path / "token").write_text("sesame")
    assert run("check", "--token-file", str(tmp_path / "token"), "--", "true", "{port}").returncode == 0
    (tmp_path / "token").write_text("sesame\nsesame\n")
    done = run("check", "--token-file", str(tmp_path / "token"), "--", "true", "{port}")
    assert (done.returncode, "more than one line" in done.stderr) == (2, True)


def test_two_runs_at_once_are_pointed_out():
    """Two of them on one data folder may destroy it; a service without one is well served, so it is no fault."""
    done = run("check", "--restart-mode", "overlap", "--", "true", "{port}")
    assert done.returncode == 0
    assert "warning: --restart-mode=overlap: " in done.stdout and "one data folder" in done.stdout
    assert "warning" not in run("check", "--", "true", "{port}").stdout
