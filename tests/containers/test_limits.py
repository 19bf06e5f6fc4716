"""A container's limits on processes and memory, reached by a crowd of WebSockets: the wrapper goes on, and recovers."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from tests.containers.engine import wait_until
from tests.restarts.raw import Raw

pytestmark = pytest.mark.container

CROWD = ("--", "python3", "/services/crowd.py", "{port}")
SERVICES = Path(__file__).parents[1] / "services"
WEBSOCKET = (b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
HELLO = b"\x81\x85\0\0\0\0hello"  # one masked frame (RFC 6455 section 5.2)
CLIENTS = 500
DESCRIPTORS = ("--ulimit", "nofile=256:256", "--ulimit", "nproc=32768:32768")  # this host may grant no more


def join(container, stack):
    """500 WebSockets; those that were served, when each of the others has been told to come back."""
    port = int(container.address.split(":")[1])
    served = []
    for _ in range(CLIENTS):
        client = stack.enter_context(Raw(port, WEBSOCKET))
        head = client.read_until(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 101 "):
            served.append(client)
        else:
            assert head.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in head, head
    return served


def assert_all_work(container):
    """Probes, health, ctl, the page; a restart, which tells all WebSockets to come back."""
    for path in ("/sidecar/healthz", "/sidecar/readyz", "/sidecar/", "/sidecar/metrics"):
        assert container.get(path)
    for words in (("health",), ("health", "--ready"), ("ctl", "status"), ("ctl", "restart")):
        done = container.wrapper(*words)
        assert done.returncode == 0, (words, done)


def limits(container):
    problems = json.loads(container.get("/sidecar/api/problems"))
    return [problem for problem in problems if problem["source"] == "limits"]


@pytest.mark.parametrize("limit", [("--pids-limit", "64"), ("--memory", "64m"), DESCRIPTORS],
                         ids=["processes", "memory", "descriptors"])
def test_500_websockets_leave_what_is_needed(image, run, limit):
    container = run(image, *CROWD, options=(*limit, "--volume", f"{SERVICES}:/services:ro"))
    container.wait_running()
    with contextlib.ExitStack() as stack:
        served = join(container, stack)
        print(len(served), "of", CLIENTS, "served")
        for client in served:
            client.send(HELLO)
        assert all(client.read_until(b"hello") for client in served)
        assert len(served) == CLIENTS or wait_until(lambda: limits(container))
        assert_all_work(container)
    wait_until(lambda: container.status()["in_flight"] == 0)
    with contextlib.ExitStack() as stack:
        port = int(container.address.split(":")[1])
        client = stack.enter_context(Raw(port, WEBSOCKET))
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")


def test_500_connections_fit_into_64_mib(image, run, podman):
    """Kept open, each with a request, and with another one while all of them are there."""
    container = run(image, *CROWD, options=("--memory", "64m", "--volume", f"{SERVICES}:/services:ro"))
    container.wait_running()
    port = int(container.address.split(":")[1])
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Raw(port)) for _ in range(CLIENTS)]
        for _ in range(2):
            for client in clients:
                client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert {client.read_response()[0] for client in clients} == {200}
        assert container.status()["state"] == "running"
    assert json.loads(podman("inspect", container.name).stdout)[0]["State"]["OOMKilled"] is False


@pytest.mark.parametrize("path", ["/sidecar/api/events", "/sidecar/metrics"])
def test_500_clients_of_own_paths_leave_processes_to_the_service(image, run, path):
    """An own path needs a thread for as long as it is answered, and a thread is a process to the limit."""
    container = run(image, *CROWD, options=("--pids-limit", "64", "--volume", f"{SERVICES}:/services:ro"))
    container.wait_running()
    port, request = int(container.address.split(":")[1]), f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Raw(port, request)) for _ in range(CLIENTS)]
        heads = [client.read_until(b"\r\n\r\n") for client in clients]
        served = sum(head.startswith(b"HTTP/1.1 200 ") for head in heads)
        print(served, "of", CLIENTS, "served")
        assert all(head.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in head
                   for head in heads if not head.startswith(b"HTTP/1.1 200 "))
        assert served == CLIENTS or wait_until(lambda: limits(container))
        for words in (("health",), ("health", "--ready"), ("ctl", "status"), ("ctl", "restart")):
            done = container.wrapper(*words)
            assert done.returncode == 0, (words, done)
    wait_until(lambda: container.get("/sidecar/"))
