"""`python3 -m wrapper bundle`: Python and the wrapper in one folder, for an image that has no Python, or another libc.

It is started by its own loader, which is told where its libraries are: no variable is set that the service would get.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from wrapper.errors import CannotMake
from wrapper.image import survey
from wrapper.image.survey import Module

FOLDER = "/opt/wrapper"  # where it stands in an image
ENTRY = """#!/bin/sh
# The wrapper by a short name, for people: docker exec CONTAINER {folder}/entry.sh ctl status
exec {command} "$@"
"""


def command(folder: str = FOLDER) -> list[str]:
    """The words that start the wrapper of a bundle, without a shell; the service's Python variables are not for it."""
    return [f"{folder}/lib/ld.so", "--library-path", f"{folder}/lib", f"{folder}/bin/python3", "-IS", "-m", "wrapper"]


def make(folder: str, more: Sequence[str] = ()) -> None:
    """Fill a new folder; `more`: modules of the standard library that a sidecar needs beside the usual ones.

    Raises: CannotMake, OSError.
    """
    try:
        modules, loader = survey.modules(more), survey.loader()
    except (ImportError, RuntimeError) as error:
        raise CannotMake(f"bundle: {error}") from error
    if os.path.isdir(folder) and os.listdir(folder):
        raise CannotMake(f"bundle: {folder} is not empty; name a new folder")
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
        from wrapper.image import archive  # after the survey, which takes what it finds in memory

        for name, content in archive.files():
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
