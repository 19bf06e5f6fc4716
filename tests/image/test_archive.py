"""archive.py: the wrapper as one file, the same bytes whenever and wherever it is made, and as good as the package."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import zipfile

import pytest

from tests.image.conftest import bundled
from tests.running import ROOT, Wrapper, service, wait_until


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "wrapper.pyz"
    assert bundled(str(path)).returncode == 0
    return path


def test_it_is_the_same_byte_for_byte(program, tmp_path):
    """Made again, by itself, with other times on the sources and under another umask."""
    os.utime(ROOT / "wrapper" / "cli.py", (1, 1))
    again = tmp_path / "again.pyz"
    subprocess.run([sys.executable, program, "bundle", again], check=True, umask=0o077)
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


@pytest.mark.parametrize("package", [["-m", "wrapper"], [
    "-c", "import sys; sys.intern('['); from wrapper.__main__ import start; start()"]])
def test_it_makes_a_bundle_as_the_package_does(program, tmp_path, package):
    """Whatever strings this interpreter, or the one that compiled the package, had interned.

    Compiled modules by the hash of their source and by their code: which of its objects marshal marks as shared is
    not stable from one run of CPython to the next (its issue 34093).
    """
    for words in ([sys.executable, str(program)], [sys.executable, *package]):
        subprocess.run([*words, "bundle", str(tmp_path / "bundle")], cwd=ROOT, check=True)
        (tmp_path / "bundle").rename(tmp_path / f"bundle-{len(words)}")
    made = [{path.relative_to(tmp_path / f"bundle-{count}"): held(path)
             for path in (tmp_path / f"bundle-{count}").rglob("*") if path.is_file()} for count in (2, 3)]
    assert made[0].keys() >= made[1].keys(), "only -c does without runpy, which others load before they begin"
    assert [path for path in made[1] if made[0][path] != made[1][path]] == []


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
