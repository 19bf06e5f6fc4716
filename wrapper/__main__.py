"""`python3 -m wrapper`: the image's entrypoint."""

from __future__ import annotations

import os
import sys

from wrapper.cli import main

if __name__ == "__main__":
    status = main(sys.argv[1:])
    try:
        if sys.stdout is not None:  # None: it came closed
            sys.stdout.flush()
    except OSError:
        pass  # whoever read it has left
    # Not sys.exit: a thread of sidecar code that is still busy must not keep the container from ending.
    os._exit(status)
