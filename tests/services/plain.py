"""Answers every GET with its pid, and every POST with the body it got; prints the signals it is sent."""

import os
import signal
import sys

from serving import read_head, respond, serve

ENDING = []  # the signals to end that have come


def talk(connection, reader):
    if (head := read_head(reader)) is None:
        return False
    method, _, fields = head
    if method not in ("GET", "POST"):
        respond(connection, b"", "501 Unsupported method")
        return False
    if fields.get("expect") == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = reader.read(int(fields.get("content-length", 0)))
    respond(connection, body if method == "POST" else str(os.getpid()).encode())
    return fields.get("connection") != "close"


def report(number, frame):
    sys.stderr.write(f"signal {number}\n")  # one write: the wrapper's own lines go to the same place
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        ENDING.append(number)


for number in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
               signal.SIGWINCH, signal.SIGALRM, signal.SIGPIPE, signal.SIGTTIN, signal.SIGTTOU, signal.SIGRTMIN + 3}:
    signal.signal(number, report)
serve(int(sys.argv[1]), talk, is_over=lambda: ENDING)  # last: when it listens it counts as ready, and may be signalled
# At once: an interpreter that winds up has its handlers undone, and would die of a second signal.
os._exit(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
