"""Images and containers for the tests of this folder.

Whoever selects these tests wants them run: what is missing is a failure, never a skip.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.browser.conftest import browser  # noqa: F401  a fixture
from tests.containers import stand_ins
from tests.containers.engine import (
    NEEDED,
    PREFIX,
    STAGE,
    Podman,
    base_tar,
    build,
    without_shell,
    wrap,
    wrap_as_it_is,
)
from wrapper.image import bundle

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def podman(tmp_path_factory):
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    assert not missing, f"cannot run containers: apt-get install {' '.join(missing)}"
    podman = Podman(tmp_path_factory.mktemp("podman"))
    if podman("image", "exists", STAGE, check=False).returncode:
        podman("import", str(base_tar()), STAGE)
    yield podman
    if podman.started:
        podman("rm", "--force", "--time", "0", *podman.started, check=False)


@pytest.fixture(scope="session")
def image(podman):
    """An image with Python and a shell, and the wrapper in front."""
    return wrap(podman, STAGE, "python")


@pytest.fixture(scope="session")
def distroless(podman):
    """An image with Python and no shell at all, and the wrapper in front."""
    base = f"{PREFIX}/distroless-base"
    podman("import", str(without_shell(base_tar())), base)
    return wrap(podman, base, "distroless")


@pytest.fixture(scope="session")
def context(tmp_path_factory):
    """What the images of kinds.py are built from: one little service for every libc, or none."""
    folder = tmp_path_factory.mktemp("context")
    source = str(HERE / "echo.c")
    for name, *compiler in (("echo-static", "gcc", "-static"), ("echo", "gcc"), ("echo-musl", "musl-gcc"),
                            ("echo-own-loader", "gcc", "-Wl,--dynamic-linker=/lib/ld.so")):
        subprocess.run([*compiler, "-O1", "-o", str(folder / name), source], check=True)
    loader = bundle.program_loader()
    shutil.copy(loader, folder / "ld.so")
    shutil.copy(bundle.needed_libraries(loader, [str(folder / "echo")])["libc.so.6"], folder)
    shutil.copy(shutil.which("busybox"), folder / "busybox")
    shutil.copy(next(Path("/lib").glob("ld-musl-*.so.1")), folder)
    (folder / "entry script.sh").write_text('#!/bin/sh\nexec "$@" --from-script\n')
    (folder / "entry script.sh").chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def stand_in(podman, tmp_path_factory):
    """A well-known image, as it comes and wrapped by the generator; the name is the one that this knows it by."""
    @functools.lru_cache
    def pair(name):
        folder = tmp_path_factory.mktemp(name)
        getattr(stand_ins, name.replace("-", "_"))(folder)
        base = build(podman, getattr(stand_ins, name.replace("-", "_").upper()), name, folder)
        return base, wrap_as_it_is(podman, base, f"{name}-wrapped")
    return pair


@pytest.fixture(scope="session")
def prometheus(stand_in):
    return stand_in("prometheus")[1]


@pytest.fixture
def run(podman):
    """Start a container with the test's service mounted and the exposed port published on a free loopback port."""
    def start(image, *command, options=(), port=8080):
        return podman.run("--publish", f"127.0.0.1::{port}", "--volume", f"{HERE}:/srv:ro", *options, image, *command,
                          port=port)

    before = len(podman.started)
    yield start
    for name in podman.started[before:]:
        podman("rm", "--force", "--time", "0", name, check=False)
    del podman.started[before:]
