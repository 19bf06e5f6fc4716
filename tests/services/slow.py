"""Listens after `argv[2]` seconds; exits 9 at once where the file `argv[3]` exists."""

import os
import socket
import sys
import threading

if len(sys.argv) > 3 and os.path.exists(sys.argv[3]):
    sys.exit(9)
threading.Event().wait(float(sys.argv[2]))
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
threading.Event().wait()
