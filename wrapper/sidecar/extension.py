"""`Sidecar`: what authors write against."""

from __future__ import annotations


class Sidecar:
    """Routes, tasks, watches, mounts and helper services of one author, declared in one place."""
