"""accesslog.py: a line for each request, dropped and counted rather than waited for."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import socket
import sys
import tracemalloc

import pytest

from tests.running import PATIENCE, Wrapper, service, wait_until
from wrapper.http1.message import Ended
from wrapper.http1.request import read_request
from wrapper.sidecar import accesslog
from wrapper.sidecar.accesslog import AccessLog, combined_line, json_line

COMBINED = re.compile(r'^(\S+) - - \[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000)\] '
                      r'"((?:[^"\\]|\\.)*)" (\d{3}) (\d+) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"'
                      r' seconds=\d+\.\d{3} held=\d+\.\d{3}( replayed)?( cut=\w+)?$')


def ended(target="/a?b=c", fields=""):
    head = read_request(f"GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode("latin-1"), 65536)
    return Ended("GET", target, 200, 0.0123456, 0.01, 0.0, 0, 512, False, "192.0.2.7", head)


def test_the_combined_format_is_that_of_apache_and_nginx():
    line = combined_line(1769860800.5, ended(fields="Referer: http://a/b\r\nUser-Agent: curl/8\r\n"))
    assert line == ('192.0.2.7 - - [31/Jan/2026:12:00:00 +0000] "GET /a?b=c HTTP/1.1" 200 512 "http://a/b" "curl/8"'
                    ' seconds=0.012 held=0.000')


def test_fields_that_were_not_sent_are_a_dash():
    assert ' "-" "-" ' in combined_line(0, ended())


def test_a_line_says_how_long_it_took_was_held_and_who_cut_it():
    line = combined_line(0, ended()._replace(seconds=3.5, held=2.0714, cut="service"))
    assert line.endswith(" seconds=3.500 held=2.071 cut=service")
    assert json.loads(json_line(0, ended()._replace(cut="client")))["cut"] == "client"
    assert json.loads(json_line(0, ended()))["cut"] is None


def test_a_line_says_that_its_request_travelled_twice():
    assert combined_line(0, ended()._replace(replayed=True)).endswith(" held=0.000 replayed")
    assert "replayed" not in combined_line(0, ended())
    assert json.loads(json_line(0, ended()._replace(replayed=True)))["replayed"] is True


# Answers with the first bytes of a hundred, and then waits, or leaves where it is asked for /half.
CUTTING = """
import socket, sys
for_ever = []
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listener.accept()
    if data := connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nhalf")
        connection.close() if b"/half" in data else for_ever.append(connection)
"""
BREAKING = """
from wrapper import Sidecar

sidecar = Sidecar()


@sidecar.route("GET", "/sidecar/x")
def x():
    yield "one"
    raise ValueError
"""


@pytest.mark.parametrize(("path", "who"), [("/endless", "client"), ("/half", "service"), ("/sidecar/x", "sidecar")])
def test_a_response_that_was_cut_is_marked(path, who, tmp_path):
    (tmp_path / "breaking.py").write_text(BREAKING)
    with Wrapper("--access-log", "--sidecar", str(tmp_path / "breaking.py"),
                 command=[sys.executable, "-c", CUTTING, "{port}"]) as wrapper, \
            socket.create_connection(("127.0.0.1", wrapper.port)) as client:
        wrapper.wait_line("sidecar loaded")
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(1024)
        if who == "client":
            client.close()
        wrapper.wait_line(f" cut={who}")


@pytest.mark.parametrize("agent", ['" 200 1 "', "back\\slash\\", "\x1b[31mred", "a\tb"])
def test_no_field_ends_its_line_or_its_quotes(agent):
    """A log line that a client can forge is worth nothing (CWE-117)."""
    parts = ended()
    parts.head.fields = b"User-Agent: " + agent.encode() + b"\r\n"
    line = combined_line(0, parts)
    assert COMBINED.match(line), line
    assert line.isprintable()


def test_json_lines_hold_the_same_and_more():
    document = json.loads(json_line(1769860800, ended(fields="User-Agent: curl/8\r\n")))
    assert document["time"] == "2026-01-31T12:00:00Z"
    assert (document["method"], document["target"], document["status"]) == ("GET", "/a?b=c", 200)
    assert document["user_agent"] == "curl/8"
    assert document["seconds"] == 0.012346


@pytest.mark.parametrize("line", [combined_line, json_line])
def test_secrets_in_fields_are_not_logged(line):
    fields = "Authorization: Bearer sesame\r\nCookie: sesame\r\n"
    assert "sesame" not in line(0, ended(fields=fields))


def test_every_line_comes_out_whole():
    reading, writing = os.pipe()
    log = AccessLog(as_json=True, descriptor=writing)
    for number in range(500):
        log.observe(ended(f"/{number}"))
    with open(reading, encoding="utf-8") as pipe:
        found = [json.loads(pipe.readline())["target"] for _ in range(500)]
    assert found == [f"/{number}" for number in range(500)]


def test_the_last_lines_are_there_when_it_is_over(monkeypatch):
    """What ends while the wrapper drains must not be lost with the pace of the writer."""
    monkeypatch.setattr(accesslog, "GATHER_INTERVAL", 30.0)
    reading, writing = os.pipe()
    log = AccessLog(as_json=True, descriptor=writing)
    log.observe(ended("/last"))
    log.finish()
    assert b"/last" in os.read(reading, 65536)


def test_a_reader_that_stalls_does_not_keep_the_wrapper_from_its_end(monkeypatch):
    monkeypatch.setattr(accesslog, "END_TIMEOUT", 0.05)
    reading, writing = os.pipe()
    log = AccessLog(as_json=True, descriptor=writing)
    for _ in range(500):
        log.observe(ended("/" + "x" * 500))
    log.finish()
    os.close(reading)


def test_a_request_that_ends_with_the_wrapper_is_logged():
    with Wrapper("--access-log", "--drain-timeout", "50ms", command=service("slow", "0")) as wrapper, \
            socket.create_connection(("127.0.0.1", wrapper.port)) as client:
        client.sendall(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: wrapper.status()["in_flight"] == 1)
        wrapper.end(signal.SIGTERM)
        assert '"GET /late HTTP/1.1"' in wrapper.stderr


def fill(writing):
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)


def test_a_reader_that_stalls_costs_lines_not_time(monkeypatch, capfd):
    """The road must not wait for the reader of stderr."""
    monkeypatch.setattr(accesslog, "WAITING_MAX", 10_000)
    reading, writing = os.pipe()
    fill(writing)  # else the writer may just have emptied the queue
    log = AccessLog(as_json=False, descriptor=writing)
    for _ in range(2000):
        log.observe(ended("/" + "x" * 500))
    assert 0 < log._waiting.qsize() < 10_000 / 500
    os.set_blocking(reading, False)
    said = []
    with open(reading, "rb", buffering=0) as pipe:

        def is_told():
            pipe.read(65536)
            said.append(capfd.readouterr().err)
            return "lines were dropped" in "".join(said)

        wait_until(is_told)


def test_a_line_that_waits_keeps_nothing_of_its_request(monkeypatch):
    """3,000 requests of 60 kB kept 180 MB where stderr was not read."""
    monkeypatch.setattr(accesslog, "GATHER_INTERVAL", 30.0)
    reading, writing = os.pipe()
    log = AccessLog(as_json=False, descriptor=writing)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(300):
            log.observe(ended(f"/{number}", fields="X: " + "y" * 60_000 + "\r\n"))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
        log.finish()
    assert log._is_over.wait(PATIENCE)  # `finish` waits for a moment only
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert len(pipe.readlines()) == 300


def test_requests_appear_in_the_wrappers_log():
    with Wrapper("--access-log", command=service("plain")) as wrapper:
        wrapper.get("/hello?x=1")
        wrapper.wait_line('"GET /hello?x=1 HTTP/1.1" 200')


def test_without_the_option_there_is_no_line():
    with Wrapper(command=service("plain")) as wrapper:
        wrapper.get("/hello")
        wrapper.command("POST", "/sidecar/api/restart?wait=1")
        assert "/hello" not in wrapper.stderr
