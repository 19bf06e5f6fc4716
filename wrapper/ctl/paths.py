"""Where the control socket is: one answer for the wrapper that makes it and for `ctl` and `health` that look for it."""

from __future__ import annotations

import os

NAME = "wrapper.sock"
DEFAULT_PREFIX = "/sidecar"  # what the control socket answers under, whatever --prefix says


def candidates() -> list[str]:
    """The default places, best first: /run where it can be written, else the temporary folder."""
    return [f"/run/{NAME}", os.path.join(os.environ.get("TMPDIR") or "/tmp", NAME)]
