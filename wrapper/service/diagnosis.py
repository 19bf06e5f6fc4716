"""Why a command cannot be run, and the way out: what exec(2) says is one word, and often about another file."""

from __future__ import annotations

import os
import shutil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_LINE_BYTES = 256  # of which Linux reads the name of the interpreter (execve(2))
SHELL_WORDS = frozenset(("cd", "export", "source", ".", "set", "ulimit", "umask", "exec", "eval", "trap"))
OPERATORS = frozenset(("&&", "||", ";", "|", "&"))


def why_not(command: Sequence[str]) -> str | None:
    """One sentence that holds no word of the command; None where nothing is seen that would keep it from running."""
    name = command[0]
    if (path := shutil.which(name)) is not None:
        return _interpreter_fault(path)
    if os.path.isdir(name):
        return "it is a directory"
    if os.path.exists(name):
        return "Permission denied; chmod +x makes it a program"
    if " " in name.strip():  # a command line in one word, as a shell would take it
        return "not found; give its words without quotes"
    if "=" in name:
        return "not found; a variable of the service is set with --env NAME=VALUE"
    if name in SHELL_WORDS or OPERATORS.intersection(command):
        return "not found; no shell reads the command, so give it to one: sh -c '...'"
    return "not found"


def _interpreter_fault(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            line = file.read(FIRST_LINE_BYTES).partition(b"\n")[0]
    except OSError:  # a program that may be run and not be read
        return None
    if not line.startswith(b"#!"):
        return None
    words = line[2:].decode("utf-8", "replace").split(None, 1)
    if line.endswith(b"\r"):
        return "its first line ends in CR LF; save it with LF alone"
    return None if words and os.path.exists(words[0]) else "the interpreter that its first line names is not there"
