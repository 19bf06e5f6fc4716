"""`python3 -m wrapper bundle FILE.pyz`: the wrapper as one file, the same byte for byte whenever it is made."""

from __future__ import annotations

import importlib.resources
import os
import zipfile
from collections.abc import Iterator
from typing import Any

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


def program(path: str) -> None:
    """The wrapper as one file that any Python runs, laid out as zipapp does it (PEP 441).

    Nothing is compressed: what zlib makes of the same bytes differs between its versions, and zipimport fails where
    two threads decompress at a time (its `_importing_zlib`).
    """
    found = {"__main__.py": MAIN, **dict(files())}
    with open(path, "wb") as file:
        file.write(FRONT)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(found):
                entry = zipfile.ZipInfo(name, LONG_AGO)
                entry.create_system, entry.external_attr = UNIX, 0o100644 << 16
                archive.writestr(entry, found[name])
    os.chmod(path, 0o755)


def files() -> Iterator[tuple[str, bytes]]:
    """Every file of the package, wherever that was loaded from: it may be such a program itself."""
    yield from _below(importlib.resources.files("wrapper"), "wrapper")


def _below(folder: Any, name: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _below(entry, f"{name}/{entry.name}")
        elif entry.name.endswith(SUFFIXES):
            yield f"{name}/{entry.name}", entry.read_bytes()
