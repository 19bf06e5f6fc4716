"""What the wrapper needs of this Python, found by importing it all and asking the loader; no list that grows old.

Call `modules` before anything else is imported that a bundle does without.
"""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

import wrapper

# What the interpreter itself imports when it is needed, which no import of a module shows.
BY_NAME = ("_strptime", "encodings.ascii", "encodings.idna", "encodings.latin_1", "encodings.utf_8_sig")
# What sidecars usually import, beside what the wrapper does itself.
ORDINARY = ("concurrent.futures.thread", "configparser", "csv", "dataclasses", "gzip", "html.parser", "http.cookies",
            "logging", "pathlib", "secrets", "tempfile", "urllib.request", "uuid", "xml.etree.ElementTree")
LEFT_OUT = ("wrapper.image", "wrapper.testing", "importlib._bootstrap")  # not for a container; frozen in every Python
# What imports them does without; their libraries are large, OpenSSL's nearly 9 MB.
DISPENSABLE = ("_bz2", "_hashlib", "_lzma", "_ssl", "_uuid")
STANDARD = os.path.dirname(os.path.realpath(os.__file__))


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
        """As its loader has it: the wrapper may have come in a zip archive."""
        source: bytes = self._loader.get_data(self.path)
        return source

    @property
    def is_standard(self) -> bool:
        path = os.path.realpath(self.path)
        return path.startswith(STANDARD + os.sep) and "-packages" + os.sep not in path


def modules(more: Sequence[str] = ()) -> list[Module]:
    """Every module in memory once the wrapper, what sidecars usually import and `more` are loaded.

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
    """What functions of ours import once they are called."""
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
    """Of a module that puts another one in its place, as collections.abc does, its own.

    And that of os though it is frozen: by its file an interpreter knows its library.
    """
    if name == "os":
        return PathFinder.find_spec(name, [STANDARD])
    spec: ModuleSpec | None = getattr(sys.modules[name], "__spec__", None)
    if spec is not None and spec.name == name:
        return spec
    folders = getattr(sys.modules.get(name.rpartition(".")[0]), "__path__", None)
    return PathFinder.find_spec(name, folders) if folders else None


def loader() -> str:
    """The program loader that the kernel gave this process: ld-linux-x86-64.so.2, ld-musl-x86_64.so.1 and so on.

    Raises: RuntimeError where there is none.
    """
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            path = line.rstrip().partition("/")[2]
            if os.path.basename(path).startswith("ld-"):
                return "/" + path
    raise RuntimeError("this python3 is linked statically, and can load nothing; use another")


def libraries(loader: str, files: list[str]) -> dict[str, str]:
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
