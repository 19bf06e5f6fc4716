"""A shell-like service whose grandchild keeps its pipes and its port, while the service itself exits 3 on TERM."""

import os
import signal
import socket
import sys
import threading

listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.set_inheritable(True)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)  # in the grandchild from its first moment
if os.fork() == 0:
    threading.Event().wait()
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
listener.listen()  # last: from here on it counts as ready, and may be stopped
if len(sys.argv) > 2:
    os._exit(int(sys.argv[2]))
threading.Event().wait()
