"""A wrapper as a real process, and the few waits that tests need."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from tests.inner_ports import claim

ROOT = pathlib.Path(__file__).parent.parent
SERVICES = ROOT / "tests" / "services"
# What is tested: `TESTED_PROGRAM="python3 wrapper.pyz"` asks the same of another form of it.
PROGRAM = shlex.split(os.environ.get("TESTED_PROGRAM") or f"{sys.executable} -m tests.guarded")
PATIENCE = 20.0  # seconds after which a test says that what it waits for will not come


def wait_until(condition, timeout=PATIENCE, what=""):
    """The first true value of `condition()`; fails the test when none comes in time."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"did not happen in {timeout} s: {what or condition}"
        time.sleep(0.01)  # the pace of the poll
    return value


def drain(gate, lane, deadline, going) -> bool:
    """Empty a lane as a planned stop does; True if all left by themselves, False if some had to be cut."""
    gate.warn(lane, going)
    in_time = gate.await_empty(lane, deadline)
    gate.cut(lane)
    return in_time


def _claimed_ports() -> tuple[socket.socket, Iterator[int]]:
    """A hundred ports, and what keeps them from all other processes of tests."""
    for start in (10000 + (os.getpid() + step) % 80 * 100 for step in range(80)):
        if (claimed := claim(str(start))) is not None:
            return claimed, itertools.cycle(range(start, start + 100))
    raise AssertionError("80 other processes of tests have claimed all ports")


CLAIM, PORTS = _claimed_ports()


def free_port() -> int:
    """One that no other suite on this machine chooses, and no connection is given (ip_local_port_range)."""
    for port in itertools.islice(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def service(name: str, *words: str) -> list[str]:
    """The command of one of the little services; `{port}` is its first argument."""
    return [sys.executable, "-u", str(SERVICES / f"{name}.py"), "{port}", *words]


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Wrapper:
    """`python3 -m wrapper OPTIONS -- COMMAND` on a free port, with its own control socket; use as a context.

    What blocks its loop is the test's failure, see guard.py.

    `under`: a command that becomes it. `program`: another way to start the wrapper than `python3 -m wrapper`.
    """

    def __init__(self, *options: str, command: list[str], environment: dict[str, str] | None = None,
                 wait: bool = True, under: tuple[str, ...] | list[str] = (), program=PROGRAM, **popen) -> None:
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="wrapper-test-")
        self._control = os.path.join(self.folder, "control.sock")
        # A file of our own, so that a test can wait for a line of it.
        self._log = open(os.path.join(self.folder, "stderr"), "w+b")  # noqa: SIM115  closed in close
        self.process = subprocess.Popen(
            [*under, *program, "--listen", f"127.0.0.1:{self.port}", "--control", self._control,
             *options, "--", *command],
            cwd=popen.pop("cwd", ROOT), stdin=popen.pop("stdin", subprocess.DEVNULL),
            stdout=popen.pop("stdout", subprocess.PIPE), stderr=self._log,
            env={**os.environ, "WRAPPER_CONFIG_HISTORY": os.path.join(self.folder, "history"), **(environment or {})},
            **popen)
        self._said: str | None = None  # all of its stderr, once the file is gone
        if wait:
            try:
                self.wait_state("running")
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Wrapper:
        return self

    def __exit__(self, *error) -> None:
        self.close()
        if error[0] is not None:
            print(self.stderr, file=sys.stderr)

    def close(self) -> None:
        """End it, and leave nothing behind."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._log.close()
        self._said = self.stderr
        shutil.rmtree(self.folder, ignore_errors=True)
        blocked = [line for line in self._said.splitlines() if line.startswith("tests.guard: ")]
        assert not blocked, "\n".join(blocked)

    @property
    def control(self) -> str:
        """The control socket, once it is there: the exposed port is served before it."""
        wait_until(lambda: os.path.exists(self._control) or self.process.poll() is not None, what="the control socket")
        return self._control

    @property
    def stderr(self) -> str:
        if self._said is not None:
            return self._said
        return pathlib.Path(self.folder, "stderr").read_text(errors="replace")

    def wait_line(self, text: str, timeout: float = PATIENCE) -> None:
        """Wait until the wrapper or its service wrote `text` on stderr."""
        wait_until(lambda: text in self.stderr, timeout, f"{text!r} on stderr: {self.stderr}")

    def end(self, number: int | None = None, timeout: float = PATIENCE) -> int:
        """Send a signal if one is given, and wait for the exit status."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def request(self, method: str, path: str, body=None, headers=None) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        return _ask(connection, method, path, body, headers)

    def get(self, path: str) -> bytes:
        status, _, body = self.request("GET", path)
        assert status == 200, (status, body)
        return body

    def command(self, method: str, path: str, body=None) -> tuple[int, object]:
        """A request over the control socket; the body as JSON."""
        status, _, text = _ask(UnixConnection(self.control), method, path, body, None)
        return status, json.loads(text)

    def status(self) -> dict:
        return json.loads(self.get("/sidecar/api/status"))

    def wait_state(self, state: str, timeout: float = PATIENCE) -> dict:
        def look():
            if self.process.poll() is not None:
                raise AssertionError(f"the wrapper ended with {self.process.returncode}: {self.stderr}")
            try:
                status = self.status()
            except OSError:
                return None
            return status if status["state"] == state else None

        return wait_until(look, timeout, f"state {state}: {self.stderr}")


def _ask(connection, method, path, body, headers):
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def run(*words: str, timeout: float = PATIENCE, **options) -> subprocess.CompletedProcess:
    """`python3 -m wrapper WORDS`, to its end."""
    return subprocess.run([*PROGRAM, *words], cwd=ROOT, capture_output=True, text=True,
                          timeout=timeout, **options)


def thread_names() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate())


def installed(folder):
    """The package as the Dockerfile installs it; the result is the command that `entry.sh` runs there."""
    shutil.copytree(ROOT / "wrapper", folder / "wrapper", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "wrapper" / "__main__.py", folder)
    return [sys.executable, str(folder / "__main__.py")]
