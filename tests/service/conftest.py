"""What the tests of several rooms of service/ need."""

from __future__ import annotations

import socket
import threading

import pytest


@pytest.fixture
def answering():
    """Listens and answers every connection with the given bytes; yields a function that starts one."""
    listeners = []

    def start(answer, family=socket.AF_INET, place=("127.0.0.1", 0)):
        listener = socket.socket(family)
        listener.bind(place)
        listener.listen()
        listeners.append(listener)

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if answer is not None:
                        connection.recv(4096)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
