"""What the tests of several rooms of service/ need."""

from __future__ import annotations

import signal
import socket
import threading
from types import SimpleNamespace

import pytest

from tests.running import service, wait_until
from tests.service.life import Life


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


@pytest.fixture
def gated(tmp_path):
    """The command of a service that does not listen for as long as the file `shut` exists."""
    shut = tmp_path / "shut"
    wait = f"while [ -e {shut} ]; do sleep 0.02; done"  # the pace of the poll
    return SimpleNamespace(shut=shut, command=["sh", "-c", f"{wait}; exec {' '.join(service('plain'))}"])


@pytest.fixture
def live():
    lives = []

    def start(*options, command=None):
        life = Life(*options, command=command or service("plain"))
        lives.append(life)
        life.controller.launch()
        return life

    yield start
    for life in lives:
        life.controller.shut_down(signal.SIGKILL)
        assert life.controller.over.wait(20)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith(("process-", "controller-"))])
