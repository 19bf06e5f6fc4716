"""bundle.py and survey.py: Python and the wrapper in one folder, started by its own loader.

What only a root without a libc can show is in tests/containers.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.image.conftest import bundled
from tests.running import ROOT, Wrapper, wait_until
from wrapper.image.bundle import command


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "wrapper"
    done = bundled(str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_no_variable_and_no_library_of_the_image_reaches_it(bundle, tmp_path):
    """What an image has for its own Python is not for ours, and what ours needs the service does not see."""
    (tmp_path / "queue.py").write_text("raise SystemExit('the working folder')")
    (tmp_path / "wrapper").mkdir()
    (tmp_path / "wrapper" / "__init__.py").write_text("raise SystemExit('the working folder')")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nope",
                   "LD_LIBRARY_PATH": "/nope", "PYTHONSTARTUP": "/nope"}
    done = subprocess.run([*command(str(bundle)), "--upstream", "127.0.0.1:1", "--listen", f"unix:{tmp_path}/s", "env"],
                          cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == environment


def test_it_maps_nothing_from_outside(bundle, tmp_path):
    with Wrapper("--upstream", "127.0.0.1:1", command=["sleep", "60"], program=command(str(bundle)),
                 wait=False) as wrapper:
        wrapper.wait_line("serving")
        with open(f"/proc/{wrapper.process.pid}/maps") as maps:
            mapped = {line.split()[-1] for line in maps if "/" in line}
    programs = {path for path in mapped if ".so" in path or "python" in path}
    assert programs
    assert programs <= {str(path) for path in bundle.rglob("*")}


def test_it_relays_shows_its_page_and_steers(bundle, tmp_path):
    sidecar = tmp_path / "hello.py"
    sidecar.write_text("import csv, json, logging, tempfile, urllib.request, xml.etree.ElementTree\n"
                       "from wrapper import Sidecar\nsidecar = Sidecar()\n"
                       "sidecar.route('GET', '/sidecar/api/hello')(lambda request: {'hello': 1})\n")
    service = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with Wrapper("--sidecar", str(sidecar), command=service, program=command(str(bundle))) as wrapper:
        assert b"hello.py" in wrapper.get("/")
        assert wrapper.get("/sidecar/").startswith(b"<!doctype html>")
        wait_until(lambda: wrapper.request("GET", "/sidecar/api/hello")[0] == 200)
        assert json.loads(wrapper.get("/sidecar/api/hello")) == {"hello": 1}
        for words in (["health", "--ready"], ["ctl", "restart"], ["ctl", "status"]):
            verb, *rest = words
            done = subprocess.run([f"{bundle}/entry.sh", verb, "--control", wrapper.control, *rest],
                                  capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        assert "running" in done.stdout


def test_every_user_can_read_it(tmp_path):
    folder = tmp_path / "strict"
    assert bundled(str(folder), umask=0o077).returncode == 0
    for path in (folder, *folder.rglob("*")):
        wanted = 0o005 if path.is_dir() or path.name in ("python3", "ld.so", "entry.sh") else 0o004
        assert path.stat().st_mode & wanted == wanted, path


def test_messages_name_its_short_name(bundle):
    done = subprocess.run([*command(str(bundle)), "check"], capture_output=True, text=True)
    assert f"as in: {bundle}/entry.sh --upstream" in done.stderr


def test_what_a_function_imports_is_there(bundle):
    done = subprocess.run([*command(str(bundle)), "--hodl", "1s", "serve"], capture_output=True, text=True)
    assert "did you mean --hold?" in done.stderr, "difflib is imported for this alone"


def test_a_module_more_is_there_when_it_is_named(bundle, tmp_path):
    folder = tmp_path / "more"
    assert bundled(str(folder), "sqlite3", "lzma", "ssl").returncode == 0
    words = ["-c", "import sqlite3, lzma, ssl, wrapper.front.secure; "
             "print(sqlite3.connect(':memory:').execute('select 1').fetchone())"]
    for place, status in ((folder, 0), (bundle, 1)):
        python = command(str(place))[:-2]
        assert subprocess.run([*python, *words], stderr=subprocess.DEVNULL).returncode == status


def test_without_tls_it_says_how_to_get_it(bundle, tmp_path):
    """OpenSSL is a third of all bytes, and most containers have their TLS in front of them."""
    assert not list(bundle.rglob("*libcrypto*"))
    wrapper = [*command(str(bundle)), "--listen", f"unix:{tmp_path}/s", "--control", f"{tmp_path}/c"]
    done = subprocess.run([*wrapper, "--tls-cert", "a", "--tls-key", "b", "--", "true", "{port}"],
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--tls-cert: this Python has no TLS" in done.stderr
    assert "--build-arg MODULES=ssl" in done.stderr
    done = subprocess.run([*wrapper, "--config-source", "https://127.0.0.1:1/", "--config-file", f"{tmp_path}/f",
                           "--upstream", "127.0.0.1:1", "true"], capture_output=True, text=True)
    assert done.returncode == 0, "a source that cannot be read stops no service"
    assert "https: this Python has no TLS" in done.stderr


@pytest.mark.parametrize(("words", "cause"), [
    ([], "name the folder"), (["FOLDER", "no_such_module"], "No module named 'no_such_module'"),
    (["FOLDER", "pytest"], "not of the standard library"), (["/"], "is not empty"),
    (["/proc/nope"], "/proc/nope")])
def test_what_cannot_be_made_is_one_line_and_1(words, cause, tmp_path):
    done = bundled(*(str(tmp_path / "new") if word == "FOLDER" else word for word in words))
    assert done.returncode == 1
    assert re.fullmatch(rf"wrapper: .*{re.escape(cause)}.*\n", done.stderr)


def test_a_module_that_puts_another_in_its_place_keeps_its_file():
    """As collections.abc does up to CPython 3.13.0: it is not found in memory under its own name."""
    program = ("import collections.abc, sys; from wrapper.image import survey; "
               "sys.modules['json.tool'] = sys.modules['collections.abc']; import json; "
               "print([module.file for module in survey.modules() if module.name == 'json.tool'])")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "['json/tool.py']\n", done.stderr
