"""Serves what its configuration file says: `configured.py PORT FILE`.

It answers with how often it read the file, its pid and the content. It reads at the start, on HUP and for any POST.
A file that holds `broken` keeps it from starting and is refused with 500 by a POST (the old one stays); `fatal` ends it
whenever it is read; `late-fatal` a moment after a HUP or a POST.
"""

import os
import signal
import socket
import sys

PORT, FILE = int(sys.argv[1]), sys.argv[2]
STATE = {"content": "", "reads": 0}


def read(is_start):
    with open(FILE) as file:
        content = file.read()
    print("reads", content[:60].strip(), flush=True)
    if "late-fatal" in content:
        if is_start:
            os._exit(5)
        signal.setitimer(signal.ITIMER_REAL, 0.1)  # ALRM ends us
    elif "fatal" in content:
        print("this configuration ends me", flush=True)
        os._exit(4)
    if "broken" in content:
        print("this configuration is broken", flush=True)
        if is_start:
            sys.exit(3)
        return False
    STATE.update(content=content, reads=STATE["reads"] + 1)
    return True


def answer(connection):
    head = connection.recv(65536).decode()
    status, text = "200 OK", f"{STATE['reads']} {os.getpid()} {STATE['content']}"
    if head.startswith("POST"):
        text = "reloaded"
        if not read(False):
            status, text = "500 Oh", "cannot reload: this configuration is broken\n"
    if head:
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(text.encode())}\r\n"
                           f"Connection: close\r\n\r\n{text}".encode())


read(True)
signal.signal(signal.SIGHUP, lambda number, frame: read(False))
listener = socket.create_server(("127.0.0.1", PORT), backlog=128)
while True:
    connection, _ = listener.accept()
    with connection:
        try:
            answer(connection)
        except OSError:
            pass
