"""Listens, and ignores TERM, INT and QUIT: only SIGKILL ends it."""

import signal
import socket
import sys
import threading

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
threading.Event().wait()
