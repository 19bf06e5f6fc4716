"""What a wrapper's process holds, read from /proc: threads, descriptors, children."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple


class Vitals(NamedTuple):
    threads: int
    descriptors: int
    zombies: int
    children: int


def vitals(pid: int) -> Vitals:
    threads = os.listdir(f"/proc/{pid}/task")
    children = [child for thread in threads for child in _children(pid, thread)]
    states = [state for child in children if (state := _state(child))]
    return Vitals(len(threads), len(os.listdir(f"/proc/{pid}/fd")), states.count("Z"), len(states))


def _children(pid: int, thread: str) -> list[str]:
    try:
        return pathlib.Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
    except OSError:
        return []


def _state(pid: str) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
