"""What `check` finds before a run would: programs and files that are not there, sidecars that do not compile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.machinery import PathFinder

from wrapper.service.program import why_not
from wrapper.settings.settings import Settings
from wrapper.sidecar.access import read_token
from wrapper.sidecar.loader import is_file


def faults(chosen: Settings) -> Iterator[str]:
    """One line each, with the option it is about."""
    yield from _program("COMMAND", chosen.command)
    for name, _, command in chosen.helper:
        yield from _program(f"--helper={name}", command)
    if chosen.config_check is not None:
        yield from _program("--config-check", chosen.config_check)
    for word in chosen.sidecar:
        yield from _sidecar(word)
    for flag, path in (("--config-template", chosen.config_template),
                       ("--config-token-file", chosen.config_token_file)):
        try:
            if path is not None:
                open(path, "rb").close()
        except OSError as error:
            yield f"{flag}={path}: {error.strerror}"
    if chosen.config_history is not None and os.path.isfile(chosen.config_history):
        yield f"--config-history={chosen.config_history}: is a file, and must be a folder"
    for flag, path in (("--token-file", chosen.token_file), ("--metrics-token-file", chosen.metrics_token_file)):
        try:
            if path is not None:
                read_token(path)
        except (OSError, ValueError) as error:
            yield f"{flag}={path}: {getattr(error, 'strerror', None) or error}"


def warnings(chosen: Settings) -> Iterator[str]:
    """What is allowed and may do harm, one line each."""
    if chosen.restart_mode == "overlap":
        yield ("--restart-mode=overlap: in a restart two runs of COMMAND are up at once; where both would write to one "
               "data folder, that may destroy it, and `replace` is the mode to take")


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
