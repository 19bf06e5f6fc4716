"""`python3 -m wrapper bundle FOLDER` and `bundle FILE.pyz`: the wrapper for an image, with Python or without.

The folder is for one that has no Python, or another libc. It is started by its own loader, which is told where its
libraries are: no variable is set that the service would get. The file is the same byte for byte whenever it is made.
"""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

import wrapper
from wrapper.errors import CannotMake

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
# What the interpreter itself imports when it is needed, which no import of a module shows.
BY_NAME = ("_strptime", "encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.utf_8_sig")
# What sidecars usually import, beside what the wrapper does itself.
ORDINARY = ("concurrent.futures.thread", "configparser", "csv", "dataclasses", "gzip", "html.parser", "http.cookies",
            "logging", "pathlib", "secrets", "tempfile", "urllib.request", "uuid", "xml.etree.ElementTree")
LEFT_OUT = ("wrapper.image", "wrapper.testing", "importlib._bootstrap")  # not for a container; frozen in every Python
# What imports them does without; their libraries are large, OpenSSL's nearly 9 MB.
DISPENSABLE = ("_bz2", "_hashlib", "_lzma", "_ssl", "_uuid")
STANDARD = os.path.dirname(os.path.realpath(os.__file__))


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
        modules, loader = needed_modules(more), program_loader()
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
        for name, path in needed_libraries(loader, [interpreter, *self._native]).items():
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


# What the wrapper needs of this Python

class Module:
    """A module with a file of its own, and `file`, its name below a folder of modules."""

    def __init__(self, spec: ModuleSpec) -> None:
        self.name = spec.name
        self.path = str(spec.origin)
        self.is_native = not self.path.endswith(".py")
        self.is_ours = self.name.partition(".")[0] == "wrapper"
        self.file = self.name.replace(".", "/") + ("/__init__.py" if spec.submodule_search_locations else ".py")
        self._loader: Any = spec.loader

    def source(self) -> bytes:
        """The module's source, from its loader: the wrapper may have come in a zip archive."""
        source: bytes = self._loader.get_data(self.path)
        return source

    @property
    def is_standard(self) -> bool:
        path = os.path.realpath(self.path)
        return path.startswith(STANDARD + os.sep) and "-packages" + os.sep not in path


def needed_modules(more: Sequence[str] = ()) -> list[Module]:
    """Every module in memory once the wrapper, what sidecars usually import and `more` are loaded.

    Found by importing them, so that no list grows old. Comes before anything is imported that a bundle does without.
    Raises: ImportError for one of `more`; a usual one may be missing.
    """
    sys.modules.update(dict.fromkeys(set(DISPENSABLE) - {f"_{name}" for name in more}))  # type: ignore[arg-type]  # None: no such module
    for found in pkgutil.walk_packages(wrapper.__path__, "wrapper."):
        if not found.name.startswith(LEFT_OUT):
            _import(found.name)
    for name in (*_imported_late(), *BY_NAME, *ORDINARY):
        _import(name)
    for name in more:
        importlib.import_module(name)
    loaded = _loaded()
    for name in more:
        if not any(module.name == name and module.is_standard for module in loaded):
            raise ImportError(f"{name} is not of the standard library; install it beside the sidecar: "
                              "python3 -m pip install --target FOLDER")
    return [module for module in loaded
            if (module.is_standard or module.is_ours) and not module.name.startswith(LEFT_OUT)]


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # this Python was built, or packaged, or is to be copied without it or what it needs


def _imported_late() -> set[str]:
    """The modules that functions of ours import once they are called."""
    ours = [module for module in _loaded() if module.is_ours and not module.name.startswith(LEFT_OUT)]
    trees = [ast.parse(module.source()) for module in ours]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names} | {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def _loaded() -> list[Module]:
    """Modules that are built in or frozen are part of the interpreter, and need no file."""
    specs = [_spec(name) for name in sorted(sys.modules)]
    return [Module(spec) for spec in specs if spec is not None and spec.has_location and spec.origin is not None]


def _spec(name: str) -> ModuleSpec | None:
    """The module's own spec, also where another module stands under its name, as for collections.abc.

    os has one though it is frozen: by its file an interpreter knows its library.
    """
    if name == "os":
        return PathFinder.find_spec(name, [STANDARD])
    spec: ModuleSpec | None = getattr(sys.modules[name], "__spec__", None)
    if spec is not None and spec.name == name:
        return spec
    folders = getattr(sys.modules.get(name.rpartition(".")[0]), "__path__", None)
    return PathFinder.find_spec(name, folders) if folders else None


def program_loader() -> str:
    """The program loader that the kernel gave this process: ld-linux-x86-64.so.2, ld-musl-x86_64.so.1 and so on.

    Raises: RuntimeError where there is none.
    """
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            path = line.rstrip().partition("/")[2]
            if os.path.basename(path).startswith("ld-"):
                return "/" + path
    raise RuntimeError("this python3 is linked statically, and can load nothing; use another")


def needed_libraries(loader: str, files: Sequence[str]) -> dict[str, str]:
    """The shared libraries that files need, by the name that they are asked for, as `ldd` lists them."""
    found = {}
    for file in files:
        listed = subprocess.run([loader, "--list", file], capture_output=True, text=True, check=False).stdout
        for line in listed.splitlines():
            name, arrow, found_at = line.strip().partition(" => ")
            path = found_at.partition(" (")[0]
            if arrow and os.path.isfile(path) and not os.path.samefile(path, loader):
                found[os.path.basename(name)] = path
    return found
