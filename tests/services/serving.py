"""HTTP/1.1 for the services beside this file, on plain sockets and with a thread for each connection.

They are started by the hundred, and an interpreter that imports http.server or asyncio takes three times as long.
"""

import socket
import threading


def serve(port, talk, is_over=lambda: False, ready=lambda: None):
    """Listen, call `ready`, and let `talk(connection, reader)` do one request after the other, as long as it is true.

    Every 50 ms and for every connection `is_over` is asked, and ends this.
    """
    listener = socket.create_server(("127.0.0.1", port), backlog=1000)
    listener.settimeout(0.05)
    ready()
    while not is_over():
        try:
            connection, _ = listener.accept()
        except socket.timeout:  # no TimeoutError up to CPython 3.9
            continue
        threading.Thread(target=_converse, args=(connection, talk), daemon=True).start()


def _converse(connection, talk):
    try:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, connection.makefile("rb") as reader:
            while talk(connection, reader):
                pass
    except OSError:
        pass  # the client left


def read_head(reader):
    """A request's method, path and fields, these by their names in lower case; None where the client has left."""
    line = reader.readline()
    if not line.endswith(b"\n"):
        return None
    method, path, _ = line.decode("latin-1").split(" ", 2)
    fields = {}
    while (line := reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip()
    return method, path, fields


def respond(connection, body, status="200 OK"):
    """A response in one piece, since two would wait for the acknowledgement of the first."""
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
