"""Commands as the README has them.

`readme.py run|ask|test` prints the main job, its curl lines, the test line. `readme.py walk FOLDER` does in FOLDER, a
fresh copy, what every fence says, in their order: files are saved, a wrapper that serves does so until the next one
does, and each other command must succeed. `# -> TEXT` behind a command is what it is to print.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
WANTED = {"run": r"python3 -m wrapper .*http\.server.*", "ask": r"curl .*", "test": r".*python3 -m pytest.*"}
FENCE = re.compile(r"(?:^((?:[^\n]+\n)+)\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = {"docker": "the part containers", "dockerfile": "the part containers", "yaml": "the part containers"}
PATIENCE = 30.0  # seconds for a command to succeed, and for a wrapper to be ready
READY = "http://localhost:8080/sidecar/readyz"


def commands(text: str) -> list[str]:
    """Every line of every shell block, continued lines joined."""
    blocks = [content for _, language, content in FENCE.findall(text) if language in ("sh", "bash", "console", "shell")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ").rstrip(" &") for line in lines]


def sections() -> list[str]:
    """The text under each heading."""
    return re.split(r"^#+ .*$", README.read_text(), flags=re.MULTILINE)


class Walk:
    """What was done so far: `left` are commands and fences that another part does, or that need what is not here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        self.left: list[str] = []

    def do(self, before: str, language: str, content: str) -> None:
        """One fence; `before` is the paragraph above it."""
        if saved := re.search(r"[Ss]ave this as `([^`]+)`", before):
            (self._folder / saved[1]).write_text(content)
            print(f"saved {saved[1]}")
        if language == "sh":
            for command in commands(f"```sh\n{content}```"):
                if not self._do(command):
                    return  # what follows asks the wrapper that was to serve
        elif language in ELSEWHERE:
            self.left.append(f"{language}: {content.splitlines()[0]} ...: {ELSEWHERE[language]}")

    def _do(self, command: str) -> bool:
        line, _, awaited = command.partition("# -> ")
        words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
        needed = [words[0], *words[words.index("--") + 1:][:1]] if "--" in words else words[:1]
        missing = [name for name in needed if shutil.which(name) is None]
        if needed[0] in ELSEWHERE or re.fullmatch(WANTED["test"], line):
            self.left.append(f"{line}: {ELSEWHERE.get(needed[0], 'the part readme itself')}")
        elif missing:
            self.left.append(f"{line}: there is no {missing[0]} on this machine")
            return False
        elif "--" in words:
            print(f"$ {line}", flush=True)
            self._serve(line)
        else:
            print(f"$ {command}", flush=True)
            self._ask(line, awaited)
        return True

    def _serve(self, line: str) -> None:
        self.end()
        self._server = subprocess.Popen(["bash", "-c", f"exec env {line}"], cwd=self._folder)
        end = time.monotonic() + PATIENCE
        while self._server.poll() is None and time.monotonic() < end:
            try:
                with urllib.request.urlopen(READY, timeout=5) as answer:
                    return json.load(answer) and None
            except (OSError, ValueError):
                time.sleep(0.1)
        self.end()
        sys.exit(f"README: not ready within {PATIENCE:g} s: {line}")

    def _ask(self, line: str, awaited: str) -> None:
        end = time.monotonic() + PATIENCE
        ask = re.sub(r"^curl", "curl --fail --silent --show-error", line)
        while True:
            done = subprocess.run(["bash", "-c", ask], check=False, cwd=self._folder, capture_output=True, text=True)
            if done.returncode == 0 and awaited in done.stdout.replace('\\"', '"'):
                return
            if time.monotonic() > end:
                self.end()
                sys.exit(f"README: {line}: {done.returncode}, {awaited!r} is not in\n{done.stdout}{done.stderr}")
            time.sleep(0.2)

    def end(self) -> None:
        """Stop what serves, as `docker stop` would."""
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            self._server.wait(PATIENCE)


def walk(folder: Path) -> int:
    steps = Walk(folder)
    os.environ["PYTHONUNBUFFERED"] = "1"
    try:
        for fence in FENCE.findall(README.read_text()):
            steps.do(*fence)
    finally:
        steps.end()
    print("not done here:", *steps.left, sep="\n  ")
    return 0


def main(kind: str, *folder: str) -> int:
    """What is asked stands in the section of what runs."""
    if kind == "walk":
        return walk(Path(*folder))
    chosen = sections()
    if kind == "ask":
        chosen = [section for section in chosen if re.search(WANTED["run"], section)][:1]
    found = [line for section in chosen for line in commands(section) if re.fullmatch(WANTED[kind], line)]
    if not found:
        sys.exit(f"README.md has no command of the kind {kind}: {WANTED[kind]}")
    print("\n".join(found if kind == "ask" else found[:1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
