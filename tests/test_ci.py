""".ci/run and the workflows: what is promised is tested, and nothing of strangers runs with our rights."""

from __future__ import annotations

import re
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
