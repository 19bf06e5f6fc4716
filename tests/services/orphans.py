"""Leaves `argv[2]` orphans behind that end at once, then listens."""

import os
import socket
import sys
import threading

for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()  # a group of its own: the end of the service's group would not take it along
        os._exit(0)
    os.wait()
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
sys.stderr.write(f"left {sys.argv[2]} orphans\n")  # one write: the wrapper's own lines go to the same place
threading.Event().wait()
