"""Answers GET / with its pid and /ready and /live with 200; `moody.py PORT MOOD [HOST]` does what the file MOOD says.

`shut`: does not listen for as long as it says so. `503`: answers so. `hang`: takes connections and answers nothing.
`die`: exits 3 at once, and does not even listen.
"""

import os
import pathlib
import socket
import sys
import threading

PORT, MOOD, HOST = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"


def mood():
    try:
        return MOOD.read_text()
    except FileNotFoundError:
        return ""


def answer(connection):
    with connection:
        connection.recv(65536)
        while mood() == "hang":
            threading.Event().wait(0.01)
        body = str(os.getpid()).encode()
        status = b"503 No" if mood() == "503" else b"200 OK"
        connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


while True:
    if mood() == "die":
        sys.exit(3)
    if mood() == "shut":
        threading.Event().wait(0.01)
        continue
    sys.stderr.write(f"listens at {HOST}\n")
    with socket.create_server((HOST, PORT), family=socket.AF_INET6 if ":" in HOST else socket.AF_INET) as listener:
        listener.settimeout(0.02)
        while mood() not in ("shut", "die"):
            try:
                connection, _ = listener.accept()
            except socket.timeout:
                continue
            connection.settimeout(None)
            threading.Thread(target=answer, args=(connection,), daemon=True).start()
