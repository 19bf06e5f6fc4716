"""Zip archives that are the same, byte for byte, whenever they are made, and the wrapper as one file."""

from __future__ import annotations

import importlib.resources
import os
import zipfile
from collections.abc import Iterator
from typing import Any

LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip archive can name
UNIX = 3  # the system whose file modes an entry has
FRONT = b"#!/usr/bin/env python3\n"
MAIN = b"from wrapper.__main__ import start\n\nstart()\n"
SUFFIXES = (".py", ".html", ".typed")


def write(path: str, files: dict[str, bytes], compression: int, front: bytes = b"") -> None:
    """Write an archive behind `front`, which may be the `#!` line of a program."""
    with open(path, "wb") as file:
        file.write(front)
        with zipfile.ZipFile(file, "w", compression, compresslevel=9) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, LONG_AGO)
                entry.create_system, entry.external_attr = UNIX, 0o100644 << 16
                archive.writestr(entry, files[name], compression, 9)


def program(path: str) -> None:
    """The wrapper as one file that any Python runs, laid out as zipapp does it (PEP 441).

    Nothing is compressed: what zlib makes of the same bytes differs between its versions.
    """
    write(path, {"__main__.py": MAIN, **dict(files())}, zipfile.ZIP_STORED, FRONT)
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
