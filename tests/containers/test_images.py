"""Images of every kind, as they come and wrapped by the generator: to the outside they are the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.containers.engine import WRAPPER, build, wait_until, wrap_as_it_is
from tests.containers.kinds import KINDS, PORT, Kind
from wrapper.image import bundle

pytestmark = pytest.mark.container

MAX_ADDED = 20_000_000  # bytes; without OpenSSL, which has 9 million
OURS = ("WRAPPER_", "PORT=", "HOSTNAME=")  # variables that may differ


@pytest.fixture(scope="module")
def images(podman, context):
    """The pair of images of a kind, each made once."""
    made = {}

    def pair(name, kind):
        if name not in made:
            tag = f"kind-{len(made)}"
            base = build(podman, kind.text, f"{tag}-base", context)
            made[name] = base, wrap_as_it_is(podman, base, tag)
        return made[name]
    return pair


def inspect(podman, image):
    shown = json.loads(podman("inspect", image).stdout)[0]
    return shown, shown["Config"], shown.get("Healthcheck")


def told(text):
    """What the service says of itself, without what may differ."""
    lines = text.splitlines()
    return sorted(line for line in lines if not line.startswith(tuple(f"variable {name}" for name in OURS)))


@pytest.mark.parametrize("name", KINDS)
def test_a_wrapped_image_is_the_same_to_the_outside(name, images, podman, run):
    kind = KINDS[name]
    before, after = images(name, kind)
    has_same_face(kind, before, after, podman)
    answers, statuses = [], []
    for image, port in ((before, kind.port), (after, kind.ours)):
        container = run(image, *kind.words, options=kind.options, port=port)
        answers.append(told(wait_until(lambda container=container: container.get("/"))))
        podman("stop", container.name)
        statuses.append(container.exit_status())
    assert answers[1] == answers[0]
    assert statuses == [kind.status, kind.status]


def has_same_face(kind, before, after, podman):
    (old, old_config, old_health), (new, config, health) = inspect(podman, before), inspect(podman, after)
    assert config["Entrypoint"][:len(WRAPPER)] == list(WRAPPER)
    for key in ("Cmd", "User", "WorkingDir", "Volumes", "StopSignal"):
        assert config.get(key) == old_config.get(key), key
    assert [each for each in config["Env"] if not each.startswith("WRAPPER_")] == old_config["Env"]
    assert set(config["ExposedPorts"]) == {*old_config["ExposedPorts"], f"{kind.ours}/tcp"}
    if old_health:
        assert health == old_health
    assert new["Size"] - old["Size"] <= MAX_ADDED


@pytest.mark.parametrize(("words", "status"), [
    (["/echo", "--exit=0"], 0), (["/echo", "--exit=7"], 7), (["/echo", "--kill"], 137), (["/"], 126), (["/nope"], 127)])
def test_exit_statuses_are_the_same(words, status, images, podman):
    pair = images("statuses", Kind("scratch", PORT))
    found = [podman.once(image, *words).returncode for image in pair]
    assert found == [status, status]


def test_files_outlive_a_restart_of_the_container(images, podman, run):
    _, image = images("a volume", KINDS["a volume"])
    container = run(image, port=9000)
    assert wait_until(lambda: container.get("/")).count("wrote line") == 1
    podman("restart", container.name)
    wait_until(lambda: container.get("/").count("wrote line") == 2)


def test_health_and_ctl_work_where_there_is_nothing(images, podman, run):
    kind = KINDS["locked down"]
    _, image = images("locked down", kind)
    container = run(image, options=kind.options, port=kind.ours)
    first = container.wait_running()
    assert podman("healthcheck", "run", container.name, check=False).returncode == 0
    done = container.wrapper("ctl", "restart")
    assert done.returncode == 0, done.stderr
    assert container.wait_running()["pid"] != first["pid"]
    assert "running" in container.wrapper("ctl", "status").stdout


def test_the_short_name_works_where_there_is_a_shell(images, run):
    _, image = images("busybox, shell form", KINDS["busybox, shell form"])
    container = run(image, port=9000)
    container.wait_running()
    assert "running" in container.execute("/opt/wrapper/entry.sh", "ctl", "status").stdout


def test_a_musl_loader_is_asked_and_started_as_glibcs_is(tmp_path):
    """What a bundle made in python:3-alpine relies on; no musl build of CPython is to be had from Debian or PyPI."""
    (tmp_path / "hello.c").write_text('const char *hello() { return "hello"; }')
    (tmp_path / "main.c").write_text("int puts(const char *); const char *hello(); int main() { puts(hello()); }")
    words = ["musl-gcc", "-o"]
    subprocess.run([*words, "libhello.so", "-shared", "hello.c"], cwd=tmp_path, check=True)
    subprocess.run([*words, "main", "main.c", "-L.", "-lhello", f"-Wl,-rpath,{tmp_path}"], cwd=tmp_path, check=True)
    loader = str(next(Path("/lib").glob("ld-musl-*.so.1")))
    found = bundle.needed_libraries(loader, [str(tmp_path / "main")])
    assert found == {"libhello.so": str(tmp_path / "libhello.so")}, "and no libc, which is the loader itself"
    (tmp_path / "lib").mkdir()
    (tmp_path / "libhello.so").rename(tmp_path / "lib/libhello.so")
    done = subprocess.run([loader, "--library-path", str(tmp_path / "lib"), str(tmp_path / "main")],
                          capture_output=True, text=True)
    assert done.stdout == "hello\n", done.stderr
