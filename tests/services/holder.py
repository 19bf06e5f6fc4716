"""A shell-like service whose grandchild keeps its pipes and its port, while the service itself exits 3 on TERM."""

import os
import signal
import socket
import sys
import threading

listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
listener.set_inheritable(True)
if os.fork() == 0:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Event().wait()
signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
if len(sys.argv) > 2:
    os._exit(int(sys.argv[2]))
threading.Event().wait()
