"""What `check` prints, and what it finds before a run would: programs, files and sidecars that are of no use to one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder

from wrapper.service.diagnosis import why_not
from wrapper.settings import settings
from wrapper.settings.settings import Settings
from wrapper.sidecar.access import read_token
from wrapper.sidecar.loader import is_file


def setting_lines(chosen: Settings, wants_all: bool) -> list[str]:
    """`--name = value  (origin)`, one a line for each value, as a shell would take it; secrets masked."""
    rows = [row for row in settings.table() if wants_all or chosen.origins[row.name] != "default"]
    left = len(settings.table()) - len(rows)
    width = max(len(row.flag) for row in settings.table())
    lines = [f"{row.flag:{width}} = {text}  ({chosen.origins[row.name]})" for row in rows
             for text in [*map(shlex.quote, row.show(chosen.texts[row.name]))] or ["none"]]
    lines.append(f"{'COMMAND':{width}} = {' '.join(map(shlex.quote, chosen.command))}")
    return [*lines, f"{left} others have their defaults; check --all prints them too"] if left else lines


def faults(chosen: Settings) -> Iterator[str]:
    """One line each, with the option it is about."""
    yield from _program("COMMAND", chosen.command)
    for name, _, command in chosen.helper:
        yield from _program(f"--helper={name}", command)
    if chosen.config_check is not None:
        yield from _program("--config-check", chosen.config_check)
    for word in chosen.sidecar:
        yield from _sidecar(word)
    for flag, path, read in (("--config-template", chosen.config_template, _open),
                             ("--config-token-file", chosen.config_token_file, _open),
                             ("--token-file", chosen.token_file, read_token),
                             ("--metrics-token-file", chosen.metrics_token_file, read_token)):
        try:
            if path is not None:
                read(path)
        except (OSError, ValueError) as error:
            yield f"{flag}={path}: {getattr(error, 'strerror', None) or error}"
    if chosen.config_history is not None and os.path.isfile(chosen.config_history):
        yield f"--config-history={chosen.config_history}: is a file, and must be a folder"


def warnings(chosen: Settings) -> Iterator[str]:
    """What is allowed and may do harm, one line each."""
    if chosen.restart_mode == "overlap":
        yield ("--restart-mode=overlap: in a restart two runs of COMMAND are up at once; where both would write to one "
               "data folder, that may destroy it, and `replace` is the mode to take")


def _open(path: str) -> None:
    open(path, "rb").close()


def _program(option: str, command: Sequence[str]) -> Iterator[str]:
    if (fault := why_not(command)) is not None:
        yield f"{option}: cannot run {command[0]!r}: {fault}"


def _sidecar(word: str) -> Iterator[str]:
    try:
        path = word if is_file(word) else _found(word)
        if path is None:
            yield f"--sidecar={word}: there is no such module; a file is named by its path, {word}.py"
        elif path == word or (path.endswith(".py") and os.path.isfile(path)):  # else in an archive, or compiled already
            with open(path, "rb") as file:
                compile(file.read(), path, "exec", dont_inherit=True)
    except OSError as error:
        yield f"--sidecar={word}: cannot be read: {error.strerror}"
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL byte
        yield f"--sidecar={word}: does not compile: {error}"


def _found(module: str) -> str | None:
    """The file of a module; nothing is imported, as that would run the author's code."""
    name, places, spec = "", None, None
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    return (spec and spec.origin) or f"{module} has no file"
