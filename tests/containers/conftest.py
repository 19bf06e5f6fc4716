"""Images and containers for the tests of this folder.

Whoever selects these tests wants them run: what is missing is a failure, never a skip.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.containers.engine import NEEDED, Podman, base_tar, build, without_shell


@pytest.fixture(scope="session")
def podman(tmp_path_factory):
    missing = [name for name in NEEDED if shutil.which(name) is None]
    assert not missing, f"cannot run containers: apt-get install {' '.join(missing)}"
    podman = Podman(tmp_path_factory.mktemp("podman"))
    yield podman
    if podman.started:
        podman("rm", "--force", "--time", "0", *podman.started, check=False)


@pytest.fixture(scope="session")
def image(podman):
    """An image with a shell."""
    return build(podman, base_tar(), "python")


@pytest.fixture(scope="session")
def distroless(podman):
    """An image with Python and no shell at all."""
    return build(podman, without_shell(base_tar()), "distroless")


@pytest.fixture
def run(podman):
    """Start a container with the test's service mounted and the exposed port published on a free loopback port."""
    def start(image, *command, options=()):
        return podman.run("--publish", "127.0.0.1::8080", "--volume", f"{Path(__file__).parent}:/srv:ro",
                          *options, image, *command)

    before = len(podman.started)
    yield start
    for name in podman.started[before:]:
        podman("rm", "--force", "--time", "0", name, check=False)
    del podman.started[before:]
