"""__main__.py: the first lines that run, in any Python and any folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.running import ROOT, Wrapper, installed, service, wait_until

WRONG = "raise RuntimeError('the wrong module')"


@pytest.mark.parametrize("place", ["working folder", "PYTHONPATH"])
def test_started_as_a_file_it_is_safe_from_every_module_of_the_image(tmp_path, place):
    """Of what Python itself loads before our first line, `-m` takes many from the working folder; a file does not.

    In an environment of its own: what an installer put into the tests' one (`pip install -e`) imports such modules.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "python"], check=True)
    command, app = [str(tmp_path / "python" / "bin" / "python3"), *installed(tmp_path / "opt")[1:]], tmp_path / "app"
    app.mkdir()
    for name in ("wrapper", "types", "runpy", "queue", "signal", "socket", "contextlib", "enum", "warnings", "re"):
        (app / f"{name}.py").write_text(WRONG)
    (app / "json").mkdir()
    (app / "json" / "__init__.py").write_text(WRONG)
    (app / "mine.py").write_text("import theirs\nfrom wrapper import Sidecar\nsidecar = Sidecar()\n"
                                 "sidecar.route('GET', '/mine')(lambda request: theirs.WORD)\n")
    (app / "theirs.py").write_text("WORD = 'here'\n")
    elsewhere = {"cwd": app} if place == "working folder" else {"cwd": "/", "environment": {"PYTHONPATH": str(app)}}
    isolated = [sys.executable, "-I", *service("configured", os.devnull)[1:]]
    with Wrapper("--sidecar", "mine", program=command, command=isolated, **elsewhere) as wrapper:
        wait_until(lambda: wrapper.request("GET", "/mine")[2] == b"here")
        assert subprocess.run([*command, "health", "--control", wrapper.control], cwd=app, timeout=20,
                              env={**os.environ, **elsewhere.get("environment", {})}).returncode == 0


AUTHORS = "from wrapper import Sidecar\nsidecar = Sidecar()\nimport sys, time\n"


@pytest.mark.parametrize("code", ["sys.stdout.close()", "sys.stdout = object()",
                                  "class Out:\n    def flush(self): raise SystemExit(9)\nsys.stdout = Out()",
                                  "class Out:\n    def flush(self): time.sleep(1000)\nsys.stdout = Out()"])
def test_what_a_sidecar_does_to_stdout_changes_neither_the_end_nor_its_status(tmp_path, code):
    (tmp_path / "mine.py").write_text(AUTHORS + code)
    with Wrapper("--sidecar", str(tmp_path / "mine.py"), "--exit-status", "0=42", command=service("plain")) as wrapper:
        wrapper.wait_line("sidecar loaded")
        assert wrapper.end(signal.SIGTERM) == 42
        assert "Traceback" not in wrapper.stderr


def test_what_a_sidecar_prints_is_seen_at_once_and_the_last_words_too(tmp_path):
    (tmp_path / "mine.py").write_text(AUTHORS + "print('begun'); print('last', end='')")
    with Wrapper("--sidecar", str(tmp_path / "mine.py"), command=service("plain"),
                 environment={"PYTHONUNBUFFERED": ""}) as wrapper:
        assert wrapper.process.stdout.readline() == b"begun\n"
        wrapper.wait_line("sidecar loaded")
        wrapper.end(signal.SIGTERM)
        assert wrapper.process.stdout.read() == b"last"


def test_what_pythonpath_names_stands_behind_the_standard_library_and_before_what_is_installed():
    script = ("import runpy, sys; settled = runpy.run_path(sys.argv[1])['settled']; "
              "print(*settled(sys.path[1:]), sep='\\n')")
    done = subprocess.run([sys.executable, "-c", script, str(ROOT / "wrapper" / "__main__.py")], cwd="/", text=True,
                          env={**os.environ, "PYTHONPATH": "/one:/two"}, capture_output=True, check=True)
    entries = done.stdout.split()
    at = entries.index("/one")
    assert entries[at + 1] == "/two"
    assert entries[at - 1].endswith("lib-dynload")
    assert all("-packages" not in entry for entry in entries[:at])


def test_a_python_that_is_too_old_is_one_line_and_2(tmp_path):
    """What old Pythons cannot read they would answer with a traceback: `test_house.py` keeps it from two files."""
    script = ("import runpy, sys; sys.version_info = (3, 8, 18, 'final', 0); "
              "runpy.run_path(sys.argv[1], run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", script, str(ROOT / "wrapper" / "__main__.py")], cwd=tmp_path,
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert re.fullmatch("wrapper: needs Python 3.9 or newer; .*\n", done.stderr)


def test_modules_in_the_working_folder_do_not_shadow_the_standard_library(tmp_path):
    """`python3 -m` puts the working folder first, and images have all sorts of files in theirs."""
    for name in ("queue", "signal", "socket", "random", "json", "http"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')")
    (tmp_path / "mine.py").write_text("from wrapper import Sidecar\nsidecar = Sidecar()\n"
                                      "sidecar.route('GET', '/mine')(lambda request: 'here')\n")
    command = [sys.executable, "-I", *service("configured", os.devnull)[1:]]  # isolated: it is not what is tested
    with Wrapper("--sidecar", "mine", command=command, cwd=tmp_path, program=[sys.executable, "-m", "wrapper"],
                 environment={"PYTHONPATH": str(ROOT)}) as wrapper:
        wait_until(lambda: wrapper.request("GET", "/mine")[2] == b"here")
