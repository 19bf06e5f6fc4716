"""How far a reader has to walk through the package to follow one event: `python3 -m tests.bench.walks [WALK]`.

A profile function in every thread (threading.setprofile) notes each function of the package that is entered, from the
beginning of the event to its end. A generator that goes on is not entered again. A move is a call into another file
than the caller's. Of several rounds the one with the fewest moves counts: now and then a clock of the wrapper's own
ticks within one. With the name of a WALK its calls are printed in their order, thread by thread. The second pair of
figures leaves out the modules whose functions are words that a reader need not step into, those of waiting among them.
"""

from __future__ import annotations

import collections
import http.client
import itertools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Set
from pathlib import Path

from tests import running
from wrapper import Sidecar

PACKAGE = str(Path(__file__).parents[2] / "wrapper") + os.sep
ROUNDS = 5
GOALS = {"relayed request": (8, 25), "restart": (10, 60), "configuration change": (15, None)}  # files, moves
WORDS = {"deadline.py", "errors.py", "events.py", "log.py", "loop/loop.py", "loop/poller.py", "problems.py",
         "settings/address.py", "settings/values.py", "sockets.py", "text.py", "threads.py"}

sidecar = Sidecar()


class Walk:
    """What is called in the package between `begin` and `end`, by thread."""

    def __init__(self) -> None:
        self._is_on = False
        self._frames: dict[int, object] = {}  # those that have been entered; held, so that no other gets the number
        self._calls: dict[str, list[tuple[str, str, str]]] = {}

    def profile(self, frame, event: str, _: object) -> None:
        if not self._is_on or event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        if id(frame) not in self._frames and not frame.f_code.co_name.startswith("<"):
            self._frames[id(frame)] = frame
            name = threading.current_thread().name
            self._calls.setdefault(name, []).append((_caller(frame), _file(frame), frame.f_code.co_name))

    def begin(self) -> None:
        self._frames, self._calls = {}, {}
        self._is_on = True

    def end(self) -> dict[str, list[tuple[str, str, str]]]:
        self._is_on = False
        return self._calls


def _file(frame) -> str:
    return frame.f_code.co_filename[len(PACKAGE):]


def _caller(frame) -> str:
    """The file of the nearest function of the package that this one was called by, empty at a thread's beginning."""
    above = frame.f_back
    while above is not None and not above.f_code.co_filename.startswith(PACKAGE):
        above = above.f_back
    return "" if above is None else _file(above)


walk = Walk()


def inside() -> None:
    """The wrapper, with every function of it noted."""
    threading.setprofile(walk.profile)
    sys.setprofile(walk.profile)
    runpy.run_module("wrapper", run_name="__main__", alter_sys=True)


@sidecar.route("GET", "/sidecar/api/hello")
def hello(request):
    return {"hello": request.query.get("name", "world")}


@sidecar.task
def obey(service, stopping):
    """Do what the outside asks for, and say how it was done."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["WALKS"])
        with connection.makefile("r") as words:
            for word in words:
                walk.begin()
                if word == "restart\n":
                    service.restart("a walk")
                elif word == "configuration change\n":
                    file = Path(os.environ["WALKS"] + ".file")
                    assert service.apply({str(file): file.read_text() + "x"}, ["true", "{file}"], "signal:HUP") == []
                else:
                    connection.sendall(b"begun\n")
                    assert words.readline() == "end\n"
                connection.sendall(json.dumps(walk.end()).encode() + b"\n")


class Outside:
    """The wrapper as a process, and the line to `obey` in it."""

    def __init__(self, folder: str, service: str) -> None:
        place = f"{folder}/walks"
        Path(place + ".file").write_text("x")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
        listener.listen()
        self._port = running.free_port()
        self._process = _start(service, folder, self._port, place)
        self._line, _ = listener.accept()
        self._words = self._line.makefile("r")
        if service == "configured":
            _read_until(self._process.stdout, b"reads")
        self._client = http.client.HTTPConnection("127.0.0.1", self._port)
        self._get("/")

    def _get(self, path: str) -> None:
        self._client.request("GET", path)
        response = self._client.getresponse()
        response.read()
        assert response.status == 200, response.status

    def take(self, name: str) -> dict[str, list[list[str]]]:
        self._line.sendall(name.encode() + b"\n")
        if name in ("restart", "configuration change"):
            return json.loads(self._words.readline())
        assert self._words.readline() == "begun\n"
        if name == "signal":
            self._process.send_signal(signal.SIGHUP)
            _read_until(self._process.stdout, b"reads")
        else:
            self._get("/" if name == "relayed request" else "/sidecar/api/hello")
        time.sleep(0.05)  # for what comes behind the answer
        self._line.sendall(b"end\n")
        return json.loads(self._words.readline())

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


def _read_until(stream, word: bytes) -> None:
    while word not in stream.readline():
        pass


def _start(service: str, folder: str, port: int, place: str) -> subprocess.Popen[bytes]:
    command = running.service(service, *([place + ".file"] if service == "configured" else []))
    return subprocess.Popen([sys.executable, "-c", "from tests.bench import walks; walks.inside()", "--listen",
                             f"127.0.0.1:{port}", "--control", f"{folder}/control", "--sidecar", "tests.bench.walks",
                             "--log-level", "error", *command],
                            stdout=subprocess.PIPE, env={**os.environ, "WALKS": place})


def moves(calls: list[list[str]], without: Set[str] = frozenset()) -> int:
    return sum(bool(caller) and caller != file and file not in without for caller, file, _ in calls)


def show(calls: list[list[str]]) -> None:
    for (caller, file, function), same in itertools.groupby(calls):
        count = len(list(same))
        print(f"  {caller or '-':>24} -> {file:24} {function}" + (f" ({count} times)" if count > 1 else ""))


def take(name: str) -> list[tuple[str, list[list[str]]]]:
    """The shortest walk of several rounds, by thread."""
    with tempfile.TemporaryDirectory() as folder:
        outside = Outside(folder, "plain" if name == "relayed request" else "configured")
        try:
            walks = [list(outside.take(name).items()) for _ in range(ROUNDS)]
        finally:
            outside.end()
    return min(walks, key=lambda threads: sum(moves(calls) for _, calls in threads))


def main(chosen: list[str]) -> None:
    print(f"{'walk':22}{'calls':>6}{'files':>7}{'moves':>6}{'files':>8}{'moves':>6} without words; goal (files, moves)")
    for name in chosen or [*GOALS, "sidecar route", "signal"]:
        threads = take(name)
        every = [call for _, calls in threads for call in calls]
        files = collections.Counter(file for _, file, _ in every)
        print(f"{name:22}{len(every):6}{len(files):7}{moves(every):6}{len(files.keys() - WORDS):8}"
              f"{moves(every, WORDS):6}  {GOALS.get(name, '')}")
        if chosen:
            for thread, calls in threads:
                print(f"\n{thread}")
                show(calls)
            print(*(f"{count:6} {file}" for file, count in files.most_common()), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
