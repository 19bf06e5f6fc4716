"""bundle.py: Python and the wrapper in one folder, started by its own loader, and the wrapper alone in one file.

What only a root without a libc can show is in tests/containers.
"""

from __future__ import annotations

import json
import marshal
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.image.conftest import bundled
from tests.running import ROOT, Wrapper, installed, service, wait_until
from wrapper.image.bundle import command, needed_libraries, program_loader


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Made by a user whose files others may not read."""
    folder = tmp_path_factory.mktemp("bundle") / "wrapper"
    done = bundled(str(folder), umask=0o077)
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
    files = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with Wrapper("--sidecar", str(sidecar), command=files, program=command(str(bundle))) as wrapper:
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


def test_every_user_can_read_it(bundle):
    for path in (bundle, *bundle.rglob("*")):
        wanted = 0o005 if path.is_dir() or path.name in ("python3", "ld.so", "entry.sh") else 0o004
        assert path.stat().st_mode & wanted == wanted, path


def test_messages_name_its_short_name(bundle):
    done = subprocess.run([*command(str(bundle)), "check"], capture_output=True, text=True)
    assert f"as in: {bundle}/entry.sh --upstream" in done.stderr


@pytest.mark.parametrize("verb", ["bundle", "dockerfile"])
def test_it_makes_no_images_and_says_what_does(bundle, verb):
    done = subprocess.run([*command(str(bundle)), verb, "x"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        1, f"wrapper: {verb}: left out of this wrapper, which was made for an image; do it in a checkout\n")


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
    program = ("import collections.abc, sys; from wrapper.image import bundle; "
               "sys.modules['json.tool'] = sys.modules['collections.abc']; import json; "
               "print([module.file for module in bundle.needed_modules() if module.name == 'json.tool'])")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "['json/tool.py']\n", done.stderr


# The wrapper in one file

@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "wrapper.pyz"
    assert bundled(str(path)).returncode == 0
    return path


def test_it_is_the_same_byte_for_byte(program, tmp_path):
    """Made again, by itself and from a copy of the sources with another time, under another umask."""
    copy, again = installed(tmp_path), tmp_path / "again.pyz"
    os.utime(tmp_path / "wrapper" / "cli.py", (1, 1))
    for words in ([sys.executable, program], copy):
        subprocess.run([*words, "bundle", again], check=True, umask=0o077)
        assert again.read_bytes() == program.read_bytes()
    assert os.access(program, os.X_OK)


def test_it_holds_the_package_and_nothing_else(program):
    names = zipfile.ZipFile(program).namelist()
    assert names == sorted(names)
    listed = {str(path.relative_to(ROOT)) for path in (ROOT / "wrapper").rglob("*") if path.is_file()
              and "__pycache__" not in path.parts}
    assert set(names) == listed | {"__main__.py"}


def test_it_runs_as_the_package_does(program, tmp_path):
    sidecar = tmp_path / "hello.py"
    sidecar.write_text("from wrapper import Sidecar\nsidecar = Sidecar()\n"
                       "sidecar.route('GET', '/sidecar/api/hello')(lambda request: 'hello')\n")
    with Wrapper("--sidecar", str(sidecar), command=service("plain"), program=[sys.executable, str(program)],
                 cwd=tmp_path) as wrapper:
        assert wrapper.get("/").decode() == str(wrapper.status()["pid"])
        wait_until(lambda: wrapper.request("GET", "/sidecar/api/hello")[2] == b"hello")
        assert wrapper.get("/sidecar/").startswith(b"<!doctype html>"), "the page is read from the archive"
        done = subprocess.run([program, "ctl", "--control", wrapper.control, "status"], capture_output=True, text=True,
                              env={**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"})
        assert "running" in done.stdout, done.stderr


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """The files of a bundle that a program makes, all of one name since their entry.sh holds it."""
    folder = tmp_path_factory.mktemp("made") / "bundle"

    def made(*words):
        subprocess.run([sys.executable, *words, "bundle", folder], cwd=ROOT, check=True)
        files = {path.relative_to(folder): held(path) for path in folder.rglob("*") if path.is_file()}
        shutil.rmtree(folder)
        return files

    return made


@pytest.fixture(scope="module")
def made_by_program(make, program):
    return make(program)


@pytest.mark.parametrize("package", [["-m", "wrapper"], [
    "-c", "import sys; sys.intern('['); from wrapper.__main__ import start; start()"]])
def test_it_makes_a_bundle_as_the_package_does(made_by_program, make, package):
    """Whatever strings this interpreter, or the one that compiled the package, had interned.

    Compiled modules by the hash of their source and by their code: which of its objects marshal marks as shared is
    not stable from one run of CPython to the next (its issue 34093).
    """
    made = make(*package)
    assert made_by_program.keys() >= made.keys(), "only -c does without runpy, which others load before they begin"
    assert [path for path in made if made_by_program[path] != made[path]] == []


def held(path):
    content = path.read_bytes()
    return (content[:16], marshal.loads(content[16:])) if path.suffix == ".pyc" else content


def test_messages_name_the_words_that_called_it(program, tmp_path):
    for words in (["check"], ["--help"], ["ctl", "--help"]):
        done = subprocess.run([sys.executable, program.name, *words], cwd=program.parent,
                              capture_output=True, text=True)
        assert "python3 wrapper.pyz" in done.stdout + done.stderr
        assert "-m wrapper" not in done.stdout + done.stderr


def test_no_module_is_left_to_threads_where_zipimport_cannot_share_them(program):
    """Up to CPython 3.9 another thread sees a module of an archive before it is whole."""
    main = zipfile.ZipFile(program).read("__main__.py").decode()
    early = main.partition("from wrapper.__main__")[0].replace("(3, 10)", "(9, 9)")
    count = f"{early}\nprint(sum(name.startswith('wrapper') for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(program)!r})\n{count}"],
                          capture_output=True, text=True)
    modules = [name for name in zipfile.ZipFile(program).namelist() if name.endswith(".py")]
    assert int(done.stdout) == len(modules) - 1, done.stderr


# What the wrapper needs of this Python

def surveyed(*more):
    program = ("import sys\nfrom wrapper.image import bundle\n"
               "print(*sorted(module.name for module in bundle.needed_modules(sys.argv[1:])))")
    return subprocess.run([sys.executable, "-c", program, *more], cwd=ROOT, capture_output=True, text=True, check=False)


def test_all_that_the_wrapper_imports_is_found_and_what_is_for_tests_is_not():
    names = set(surveyed().stdout.split())
    assert {"wrapper.entrypoint", "wrapper.sidecar.site", "http.server", "json", "logging", "os"} <= names
    assert not {name for name in names if name.startswith(("wrapper.image", "wrapper.testing", "pytest", "ssl"))}


def test_what_is_asked_for_has_to_be_of_the_standard_library():
    assert "sqlite3" in surveyed("sqlite3").stdout.split()
    assert "is not of the standard library" in surveyed("pytest").stderr


def test_the_libraries_of_the_interpreter_are_those_that_its_loader_names():
    try:
        found = needed_libraries(program_loader(), [os.path.realpath(sys.executable)])
    except RuntimeError as error:
        pytest.skip(str(error))
    assert any(name.startswith("libc.") for name in found)
    assert all(os.path.isfile(path) for path in found.values())
