""".ci/run and the workflows: what is promised is tested, and nothing of strangers runs with our rights."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / ".ci" / "run"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROMISED = ["3.9", "3.10", "3.11", "3.12", "3.13"]  # setup.py: python_requires


def test_the_plain_suite_runs_on_every_version_that_is_promised():
    assert re.search(r"^VERSIONS=\((.*?)\)", RUN.read_text(), re.MULTILINE)[1].split() == PROMISED
    assert all(f"part_suite-{version}()" in RUN.read_text() for version in PROMISED)
    matrix = re.search(r"version: \[(.*)\]", (ROOT / ".github/workflows/ci.yml").read_text())[1]
    assert set(PROMISED) <= set(re.findall(r"[\d.]+", matrix))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_an_action_is_pinned_by_its_hash(path):
    """A tag can be moved to other code; a commit's hash cannot."""
    used = re.findall(r"uses: *(\S+)", path.read_text())
    assert used and not [one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", one)]
    assert "git clone" not in path.read_text()


@pytest.mark.parametrize("text", [RUN.with_name("images").read_text(), (ROOT / ".github/workflows/ci.yml").read_text()],
                         ids=["wrapped", "their Python"])
def test_an_image_is_pinned_by_its_digest(text):
    images = re.findall(r"[\w./-]+@sha256:(\w+)", text)
    assert len(images) >= 2
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in images)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_a_pull_request_is_never_privileged(path):
    text = path.read_text()
    assert "\npermissions:\n  contents: read\n" in text
    assert "write" not in re.sub("#.*", "", text)
    assert "pull_request_target" not in text
    jobs = re.split(r"^  (?=\w+:$)", text.partition("\njobs:\n")[2], flags=re.MULTILINE)
    assert all("if: github.event_name == 'push'" in job for job in jobs if "--privileged" in job)


@pytest.mark.parametrize(("kind", "found"), [
    ("run", [r"python3 -m wrapper -- python3 -m http\.server \{port\}.*"]), ("ask", [r"curl localhost:8080/.*"] * 2),
    ("test", [r"python3 -m pip install -e '\.\[test\]' && python3 -m pytest -n 4"])])
def test_ci_finds_the_commands_of_the_readme(kind, found):
    """One runs the main job with nothing installed, curl asks it, one passes the tests; CI runs what this prints."""
    command = [sys.executable, ROOT / ".ci" / "readme.py", kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(found)
    assert all(re.fullmatch(one, line) for one, line in zip(found, lines)), lines
