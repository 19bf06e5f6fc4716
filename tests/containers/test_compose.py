"""The README's recipe and Compose file, around a stand-in that has Grafana's user, port variable and folder.

Podman 4.3 cannot wait until a container is healthy, and runs no health check without systemd: both is done by hand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.containers.engine import ROOT, STAGE, Container, build, wait_until, wrap_as_it_is
from tests.containers.manifests import COMPOSE
from tests.running import free_port

pytestmark = pytest.mark.container

GRAFANA = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY echo-static /echo
RUN mkdir -p /var/lib/grafana && chown 472:0 /var/lib/grafana
RUN printf '#!/bin/sh\\nPORT=$GF_SERVER_HTTP_PORT exec /echo --write=/var/lib/grafana/lines\\n' >/run.sh \
 && chmod +x /run.sh
USER 472
EXPOSE 3000
ENTRYPOINT ["/run.sh"]
"""
CURL = f"""FROM {STAGE}
ENTRYPOINT ["python3", "-c", "import sys, urllib.request as r; print(r.urlopen(sys.argv[-1], timeout=9).read())"]
"""
DOCKER = """docker() {
    case $1 in
        pull) ;;
        build) shift; podman build --isolation=chroot --network=host --format=docker --pull=never "$@" ;;
        run) shift; podman run --detach --name wrapper-test-recipe --health-interval=disable "$@" ;;
        *) podman "$@" ;;
    esac
}
set -e -o pipefail
"""


def test_the_three_lines_of_the_readme_wrap_an_image(podman, context):
    """As pasted, but for the address that the port is published on; there is no Docker here, and no registry."""
    podman("tag", build(podman, GRAFANA, "grafana", context), "docker.io/grafana/grafana")
    port = free_port()
    lines = re.search("^```sh\n(docker pull .*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    assert lines.count("-p 3000:3000") == 1
    lines = lines.replace("-p 3000:3000", f"-p 127.0.0.1:{port}:3000")
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    try:
        done = subprocess.run(["bash", "-c", DOCKER + lines], cwd=ROOT, env={**podman.environment, "PATH": path},
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        container = Container(podman, "wrapper-test-recipe", 3000)
        container.wait_running()
        assert "wrote line" in container.get("/")
        podman("stop", container.name)
        assert container.exit_status() == 143
    finally:
        podman("rm", "--force", "--time", "0", "wrapper-test-recipe", check=False)


@pytest.fixture
def compose(podman, context, tmp_path):
    port = free_port()
    wrapped = wrap_as_it_is(podman, build(podman, GRAFANA, "grafana", context), "grafana-wrapped")
    text = COMPOSE
    for pasted, ours in (("3000:3000", f"127.0.0.1:{port}:3000"), ("image: grafana-wrapped", f"image: {wrapped}"),
                         ("image: curlimages/curl", f"image: {build(podman, CURL, 'curl', tmp_path)}")):
        assert pasted in text
        text = text.replace(pasted, ours)
    (tmp_path / "compose.yaml").write_text(text)

    def compose(*words):
        program = [sys.executable, "-m", "podman_compose", "--project-name", "wrapper-test", *words]
        done = subprocess.run(program, cwd=tmp_path, env=podman.environment, capture_output=True, text=True,
                              timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout
    yield compose
    compose("down", "--volumes")


def test_the_compose_file_of_the_readme_works_as_pasted(compose, podman):
    compose("up", "--detach", "grafana")
    grafana = Container(podman, "wrapper-test_grafana_1", 3000)
    wait_until(lambda: podman("healthcheck", "run", grafana.name, check=False).returncode == 0)
    assert "wrote line" in grafana.get("/"), "its volume can be written"
    compose("up", "--detach", "visitor")
    visitor = Container(podman, "wrapper-test_visitor_1")
    assert visitor.exit_status() == 0, visitor.logs()
    compose("stop", "grafana")
    assert grafana.exit_status() == 143
