"""The README's Compose file with podman-compose, around a stand-in that has Grafana's user, port variable and folder.

Podman 4.3 cannot wait until a container is healthy, and runs no health check without systemd: both is done by hand.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.containers.engine import STAGE, Container, build, wait_until, wrap_as_it_is
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
