"""Serves what its environment says: `variables.py PORT NAME...`, one `NAME=value` a line, and its pid.

Where BREAKS is set it exits with that status.
"""

import os
import sys

from serving import read_head, respond, serve

PORT, NAMES = int(sys.argv[1]), sys.argv[2:]


def talk(connection, reader):
    if read_head(reader) is None:
        return False
    lines = [f"{name}={os.environ[name]}" for name in NAMES if name in os.environ]
    respond(connection, "\n".join([str(os.getpid()), *lines]).encode())
    return True


if "BREAKS" in os.environ:
    sys.exit(int(os.environ["BREAKS"]))
serve(PORT, talk)
