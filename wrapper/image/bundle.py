"""`python3 -m wrapper bundle FOLDER` and `bundle FILE.pyz`: the wrapper for an image, with Python or without.

The folder is for one that has no Python, or another libc. It is started by its own loader, which is told where its
libraries are: no variable is set that the service would get. The file is the same byte for byte whenever it is made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from wrapper.errors import CannotMake
from wrapper.image import survey
from wrapper.image.survey import Module

FOLDER = "/opt/wrapper"  # where it stands in an image
ENTRY = """#!/bin/sh
# The wrapper by a short name, for people: docker exec CONTAINER {folder}/entry.sh ctl status
exec {command} "$@"
"""
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip archive can name
UNIX = 3  # the system whose file modes an entry has
FRONT = b"#!/usr/bin/env python3\n"
MAIN = b"""import sys

# zipimport shows a module to other threads before it is whole: leave none to them. What makes a bundle has none.
if sys.version_info < (3, 10) and sys.argv[1:2] != ["bundle"]:
    import pkgutil
    import wrapper
    for found in pkgutil.walk_packages(wrapper.__path__, "wrapper."):
        __import__(found.name)

from wrapper.__main__ import start

start()
"""
SUFFIXES = (".py", ".html", ".json", ".typed")


def command(folder: str = FOLDER) -> list[str]:
    """The words that start the wrapper of a bundle, without a shell; the service's Python variables are not for it."""
    return [f"{folder}/lib/ld.so", "--library-path", f"{folder}/lib", f"{folder}/bin/python3", "-IS", "-m", "wrapper"]


def make(words: Sequence[str]) -> None:
    """The file or the folder that is named first; then modules of the standard library that sidecars need in a folder.

    Raises: CannotMake, OSError.
    """
    if not words:
        raise CannotMake("name the folder, or the FILE.pyz, that it is to be")
    if words[0].endswith(".pyz"):
        _make_program(words[0])
    else:
        _fill(words[0], words[1:])


def _make_program(path: str) -> None:
    """The wrapper as one file that any Python runs, laid out as zipapp does it (PEP 441).

    Nothing is compressed: what zlib makes of the same bytes differs between its versions, and zipimport fails where
    two threads decompress at a time (its `_importing_zlib`).
    """
    import zipfile  # not in memory before the survey, which takes what it finds there

    found = {"__main__.py": MAIN, **dict(_files())}
    with open(path, "wb") as file:
        file.write(FRONT)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(found):
                entry = zipfile.ZipInfo(name, LONG_AGO)
                entry.create_system, entry.external_attr = UNIX, 0o100644 << 16
                archive.writestr(entry, found[name])
    os.chmod(path, 0o755)


def _files() -> Iterator[tuple[str, bytes]]:
    """Every file of the package, wherever that was loaded from: it may be such a program itself."""
    import importlib.resources  # as above

    yield from _below(importlib.resources.files("wrapper"), "wrapper")


def _below(folder: Any, name: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _below(entry, f"{name}/{entry.name}")
        elif entry.name.endswith(SUFFIXES):
            yield f"{name}/{entry.name}", entry.read_bytes()


def _fill(folder: str, more: Sequence[str]) -> None:
    """Fill a new folder."""
    try:
        modules, loader = survey.modules(more), survey.loader()
    except (ImportError, RuntimeError) as error:
        raise CannotMake(str(error)) from error
    if os.path.isdir(folder) and os.listdir(folder):
        raise CannotMake(f"{folder} is not empty; name a new folder")
    before = os.umask(0o022)  # readable for every user that an image may have
    try:
        bundle = _Bundle(os.path.abspath(folder))
        bundle.put_modules(modules)
        bundle.put_programs(loader)
    finally:
        os.umask(before)


class _Bundle:
    """The layout is the one that an interpreter looks for around itself."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._library = f"lib/{os.path.basename(os.path.dirname(os.__file__))}"  # python3.13, python3.13t
        self._native: list[str] = []
        os.makedirs(self._path(f"{self._library}/lib-dynload"))

    def put_modules(self, modules: Sequence[Module]) -> None:
        """Compiled, each a file of its own: out of a compressed archive two threads cannot import at a time."""
        for module in modules:
            if module.is_native:
                self._copy(module.path, f"{self._library}/lib-dynload/{os.path.basename(module.path)}")
                self._native.append(module.path)
            else:
                self._write(f"{self._library}/{module.file}", module.source())
        self._compile([self._path(f"{self._library}/{module.file}") for module in modules if not module.is_native])
        for name, content in _files():
            if not name.endswith(".py"):
                self._write(f"{self._library}/{name}", content)

    def put_programs(self, loader: str) -> None:
        """The interpreter, the loader, and every library that something here asks for."""
        interpreter = os.path.realpath(sys.executable)
        self._copy(interpreter, "bin/python3", 0o755)
        self._copy(loader, "lib/ld.so", 0o755)
        for name, path in survey.libraries(loader, [interpreter, *self._native]).items():
            self._copy(path, f"lib/{name}")
        entry = ENTRY.format(folder=self._folder, command=" ".join(command(self._folder)))
        self._write("entry.sh", entry.encode(), 0o755)

    def _compile(self, sources: list[str]) -> None:
        """Without docstrings and asserts (-OO), by PEP 552's unchecked hashes: a start compares no time.

        In a process of its own, so that the same sources give the same bytes, as far as CPython can: the order of a
        set follows the hash seed before 3.11, and marshal tells what strings a process had interned before.
        """
        subprocess.run([sys.executable, "-sS", "-m", "compileall", "-qb", "-o2", "--invalidation-mode=unchecked-hash",
                        self._path(self._library)], check=True, cwd="/", env={**os.environ, "PYTHONHASHSEED": "0"})
        for source in sources:
            os.unlink(source)

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _write(self, name: str, content: bytes, mode: int = 0o644) -> None:
        path = self._path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)

    def _copy(self, source: str, name: str, mode: int = 0o644) -> None:
        """Without symbols, where this machine can strip them."""
        with open(source, "rb") as file:
            self._write(name, file.read(), mode)
        if shutil.which("strip"):
            subprocess.run(["strip", "--strip-unneeded", self._path(name)], check=False, stderr=subprocess.DEVNULL)
