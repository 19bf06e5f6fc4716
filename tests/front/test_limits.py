"""The limits of a container, each reached by a crowd: the wrapper goes on, says so, and recovers by itself."""

from __future__ import annotations

import contextlib

import pytest

from tests.restarts.raw import Raw
from tests.running import Wrapper, run, service, wait_until

WEBSOCKET = (b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
PLAIN = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
CLIENTS = 500


def few_descriptors(number):
    return ["sh", "-c", f'ulimit -n {number}; exec "$@"', "sh"]


def crowd(port, stack, request):
    """Clients that asked for `request` and stay, and how many of them were served."""
    served = 0
    for _ in range(CLIENTS):
        client = stack.enter_context(Raw(port, request))
        head = client.read_until(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 503 "):
            assert b"\r\nRetry-After: " in head, head
        else:
            assert head.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 200 ")), head
            served += 1
    return served


def assert_all_work(wrapper):
    """Probes, health, ctl, the page and a restart."""
    for path in ("/sidecar/healthz", "/sidecar/readyz", "/sidecar/", "/sidecar/metrics"):
        wrapper.get(path)
    for words in (["health", "--timeout", "20s"], ["health", "--timeout", "20s", "--ready"], ["ctl", "status"],
                  ["ctl", "restart"]):
        word, *rest = words
        done = run(word, "--control", wrapper.control, *rest)
        assert done.returncode == 0, (words, done)


def limits(wrapper):
    return [problem for problem in wrapper.command("GET", "/sidecar/api/problems")[1] if problem["source"] == "limits"]


@pytest.mark.parametrize("request_", [PLAIN, WEBSOCKET], ids=["kept connections", "websockets"])
def test_256_descriptors_are_enough_for_500_clients(request_):
    with Wrapper(command=service("crowd"), under=few_descriptors(256)) as wrapper:
        with contextlib.ExitStack() as stack:
            assert crowd(wrapper.port, stack, request_) > 80
            wait_until(lambda: limits(wrapper))
            assert_all_work(wrapper)
        wait_until(lambda: wrapper.status()["in_flight"] == 0)
        assert wrapper.get("/") == b"ok"
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                client = stack.enter_context(Raw(wrapper.port, WEBSOCKET))
                assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
