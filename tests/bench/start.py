"""How late the service is started, and what the wrapper weighs at rest: `python3 tests/bench/start.py`.

The measure of the start is a bare `python3 -c "subprocess.Popen(...)"` with the same command; the measure of the weight
is an interpreter that has imported http.server and http.client. Medians of 10, taking turns.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import contestants

ROUNDS = 10
MAX_START, MAX_WEIGHT = 1.3, 1.6  # ratios
STAMP = "echo $EPOCHREALTIME >{file}.part; mv {file}.part {file}; exec sleep 60"  # bash's first act; in s
BARE_START = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
BARE_WEIGHT = "import http.server, http.client, sys; print('ready', flush=True); sys.stdin.read()"


def wait_until(happens: Callable[[], bool], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not happens():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {timeout} s")
        time.sleep(0.005)  # the pace of the poll


def wrapper(folder: str, *command: str) -> list[str]:
    return [sys.executable, "-m", "wrapper", "--listen", contestants.free_address(), "--control", f"{folder}/control",
            "--log-level", "error", "--upstream", contestants.free_address(), "--", *command]


def bare(folder: str, *command: str) -> list[str]:
    return [sys.executable, "-c", BARE_START, *command]


def start(make: Callable[..., list[str]]) -> float:
    """Milliseconds from the start of the interpreter to the first act of the service."""
    with tempfile.TemporaryDirectory() as folder:
        stamp = Path(folder, "stamp")
        command = make(folder, "bash", "-c", STAMP.format(file=stamp))
        begin = time.time()
        process = subprocess.Popen(command, env=contestants.environment(), stderr=subprocess.DEVNULL)
        try:
            wait_until(stamp.exists)
            return (float(stamp.read_text()) - begin) * 1e3
        finally:
            members = contestants.family(process.pid)
            contestants.end(process)
            kill(members)


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def resident(pid: int) -> float:
    """MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@contextlib.contextmanager
def interpreter() -> Iterator[int]:
    command = [sys.executable, "-c", BARE_WEIGHT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def weight_of_wrapper() -> float:
    """At rest: the service is ready, and one request has been relayed."""
    def make(folder: str, listen: str) -> list[str]:
        return [sys.executable, "-m", "wrapper", "--listen", listen, "--control", f"{folder}/control", "--",
                sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1", "--directory", folder]
    with contestants.run("wrapper", make) as running:
        return resident(running.pid)


def weight_of_interpreter() -> float:
    with interpreter() as pid:
        return resident(pid)


def compare(what: str, unit: str, mine: list[float], reference: list[float], bound: float) -> bool:
    ratio = statistics.median(mine) / statistics.median(reference)
    verdict = "" if ratio <= bound else " (missed)"
    print(f"| {what} | {statistics.median(mine):.1f} {unit} | {statistics.median(reference):.1f} {unit} "
          f"| {ratio:.2f}{verdict} | ≤ {bound} |")
    return ratio <= bound


def main() -> int:
    start(wrapper)  # the first one compiles
    starts = [(start(wrapper), start(bare)) for _ in range(ROUNDS)]
    weights = [(weight_of_wrapper(), weight_of_interpreter()) for _ in range(3)]
    print("| | wrapper | bare interpreter | ratio | goal |\n|---|---:|---:|---:|---|")
    met = [compare("the service is started after", "ms", *map(list, zip(*starts)), MAX_START),
           compare("resident memory at rest", "MiB", *map(list, zip(*weights)), MAX_WEIGHT)]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
