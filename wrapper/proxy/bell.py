"""Wakes a thread that waits in poll() for something else."""

from __future__ import annotations

import os


class Bell:
    """A descriptor that is readable from `ring` on. Its last reference closes it, so that nobody rings a closed one."""

    __slots__ = ("_reading", "_writing")

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    @classmethod
    def make(cls) -> Bell | None:
        """None where there are no descriptors left."""
        try:
            return cls()
        except OSError:
            return None

    def fileno(self) -> int:
        return self._reading

    def ring(self) -> None:
        """To be called once; never waits."""
        os.write(self._writing, b"!")

    def __del__(self) -> None:
        if not hasattr(self, "_writing"):
            return
        os.close(self._reading)
        os.close(self._writing)
