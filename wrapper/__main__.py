"""`python3 -m wrapper`: the image's entrypoint."""

from __future__ import annotations

import sys

# `-m` puts the working folder first: a queue.py that an image has there must not stand in for the standard library's.
# It stays as the last place to look, for sidecars that are named by their module.
if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    sys.path.append(sys.path.pop(0))

import os

from wrapper.cli import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def start() -> NoReturn:
    """The `wrapper` program of an installation, and what every other way to call it comes to."""
    status = main(sys.argv[1:])
    try:
        if sys.stdout is not None:  # None: it came closed
            sys.stdout.flush()
    except OSError:
        pass  # whoever read it has left
    # Not sys.exit: a thread of sidecar code that is still busy must not keep the container from ending.
    os._exit(status)


if __name__ == "__main__":
    start()
