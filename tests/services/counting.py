"""Notes every request it answers: `counting.py PORT LOG [START]`.

A line of the log is `up MONOTONIC`, `down MONOTONIC`, `began NUMBER`, `whole NUMBER LENGTH SHA256` or `broken NUMBER`;
the number is the request's query. START: seconds until it listens, or a FIFO it reads first. On TERM it ends at once:
whatever is still on its way then is lost. /slow takes a second, /kept until the file LOG.go exists, /events is an event
stream that beats every 20 ms, and /answer sends the head and half of the body of an answer and keeps the rest.
"""

import hashlib
import os
import signal
import stat
import sys
import time

from serving import read_head, respond, serve

PORT, LOG = int(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
START = sys.argv[3] if len(sys.argv) > 3 else "0"


def note(*words):
    os.write(LOG, (" ".join(map(str, words)) + "\n").encode())  # one write, whole even beside other runs


def go(*_):
    note("down", time.monotonic())
    os._exit(0)


def body_of(fields, reader):
    """Pieces of a request's body; EOFError or ValueError where it breaks."""
    if "transfer-encoding" in fields:
        while size := int(reader.readline(), 16):
            yield from exactly(size, reader)
            reader.readline()
        reader.readline()
    else:
        yield from exactly(int(fields.get("content-length", 0)), reader)


def exactly(left, reader):
    while left:
        piece = reader.read(min(left, 65536))
        if not piece:
            raise EOFError
        left -= len(piece)
        yield piece


def talk(connection, reader):
    if (head := read_head(reader)) is None:
        return False
    method, path, fields = head
    path, _, number = path.partition("?")
    if method == "GET" and path == "/":
        note("whole", number, 0, "-")
        respond(connection, b"ok")
        return True
    note("began", number)
    length, digest = 0, hashlib.sha256()
    try:
        for piece in body_of(fields, reader):
            length += len(piece)
            digest.update(piece)
    except (EOFError, OSError, ValueError):
        note("broken", number)
        return False
    if path == "/slow":
        time.sleep(1)
    while path == "/kept" and not os.path.exists(sys.argv[2] + ".go"):
        time.sleep(0.01)
    note("whole", number, length, digest.hexdigest())
    answer(path, connection)
    return True


def answer(path, connection):
    if path == "/events":
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n")
        for count in range(1000):
            event = b"data: %d\ndata: more\n\n" % count
            # In two pieces, so that an end may come in the middle of an event.
            for piece in (event[:9], event[9:]):
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                time.sleep(0.01)
        connection.sendall(b"0\r\n\r\n")
    elif path == "/answer":
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789")
        time.sleep(1000)
    else:
        respond(connection, b"ok")


signal.signal(signal.SIGTERM, go)
if os.path.exists(START) and stat.S_ISFIFO(os.stat(START).st_mode):
    with open(START) as fifo:
        fifo.read()
else:
    time.sleep(float(START))  # how long this service takes to start
serve(PORT, talk, ready=lambda: note("up", time.monotonic()))
