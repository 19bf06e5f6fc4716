"""Where the control socket is: one answer for the wrapper that makes it and for `ctl` and `health` that look for it."""

from __future__ import annotations

import os

NAME = "wrapper.sock"
DEFAULT_PREFIX = "/sidecar"  # what the control socket answers under, whatever --prefix says


def candidates() -> list[str]:
    """The default places, best first: /run, the temporary folder, and what Docker's --read-only leaves writable."""
    return [os.path.join(folder, NAME) for folder in ("/run", os.environ.get("TMPDIR") or "/tmp", "/dev/shm")]
