"""The README's manifests in podman's own Kubernetes, with what podman 4.3 leaves out done by hand: probes, a Service
with several endpoints, and the symbolic links by which the kubelet changes a ConfigMap's volume in one instant.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import urllib.error
import urllib.request

import pytest

from tests.containers.balancer import Balancer, Clients
from tests.containers.engine import Container, wait_until
from tests.containers.manifests import KUBERNETES, documents
from tests.running import free_port

pytestmark = pytest.mark.container

PORTS = "ports: [{name: http, containerPort: 9090}]"
NAME = "kind: Deployment\nmetadata: {name: prometheus}"
SPLAY = "WRAPPER_CONFIG_SPLAY, value: 30s"


class Replica(Container):
    """A pod of the Deployment, on a loopback port; volumes go by their names in podman, so each pod has its own."""

    def __init__(self, podman, image, folder, number):
        super().__init__(podman, f"prometheus-{number}-pod-0-prometheus")
        self.published, self.number = free_port(), number
        port = f"ports: [{{name: http, containerPort: 9090, hostPort: {self.published}, hostIP: 127.0.0.1}}]"
        text = KUBERNETES
        for pasted, ours in (("image: prometheus-wrapped", f"image: {image}:latest"), (PORTS, port),
                             ("replicas: 2", "replicas: 1"), (NAME, f"{NAME[:-1]}-{number}}}"),
                             (SPLAY, SPLAY.replace("30s", "2s"))):
            assert pasted in text
            text = text.replace(pasted, ours)
        for name in ("prometheus-site", "prometheus-token", "name: data"):
            text = text.replace(name, f"{name}-{number}")
        self.file = folder / f"{number}.yaml"
        self.file.write_text(text)

    def __enter__(self):
        self.podman("kube", "play", str(self.file))
        wait_until(self.is_ready, 60)
        return self

    def __exit__(self, *_):
        self.podman("kube", "down", str(self.file), check=False)
        self.podman("secret", "rm", f"prometheus-token-{self.number}", check=False)
        for name in ("prometheus-site", "prometheus-token", "data"):
            self.podman("volume", "rm", "--force", f"{name}-{self.number}", check=False)

    @property
    def address(self):
        return f"127.0.0.1:{self.published}"

    def asked(self, method, path, token=None):
        """The status of a response."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"http://{self.address}{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def is_ready(self):
        return self.asked("GET", "/sidecar/readyz") == 200

    def end(self):
        """As the kubelet ends a pod: TERM, and SIGKILL behind the grace period. The exit status."""
        self.podman("stop", "--time", "30", self.name)
        return self.exit_status()

    def volume(self, name):
        return pathlib.Path(self.podman("volume", "inspect", "--format", "{{.Mountpoint}}", name).stdout.strip())


@pytest.fixture(scope="module")
def replicas(podman, prometheus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kubernetes")

    def replica(number):
        return Replica(podman, prometheus, folder, number)
    with replica(1) as first, replica(2) as second:
        yield replica, first, second


def test_the_probes_are_answered(replicas):
    container = next(each for each in documents(KUBERNETES) if each["kind"] == "Deployment")
    container = container["spec"]["template"]["spec"]["containers"][0]
    for replica in replicas[1:]:
        for probe in ("readinessProbe", "livenessProbe"):
            assert replica.asked("GET", container[probe]["httpGet"]["path"]) == 200
        assert replica.get("/-/ready").startswith("Prometheus Server is Ready")


def test_the_token_is_the_secrets(replicas):
    """Podman gives every user its file, whatever its defaultMode says, and does not decode what `data` holds."""
    _, replica, _ = replicas
    token = (replica.volume(f"prometheus-token-{replica.number}") / "token").read_text()
    assert len(token) >= 16
    assert replica.asked("POST", "/sidecar/api/config") == 401
    assert replica.asked("POST", "/sidecar/api/config", token[:-1] + "x") == 401
    assert replica.asked("POST", "/sidecar/api/config", token) == 202
    problems = json.loads(replica.wrapper("ctl", "problems", "--json").stdout)
    assert [each["message"] for each in problems if "every user can read it" not in each["message"]] == []


def test_a_changed_config_map_reaches_every_replica_and_takes_none_out(replicas):
    """The kubelet writes a new folder beside the old one and renames a link over `..data`."""
    for replica in replicas[1:]:
        place = replica.volume(f"prometheus-site-{replica.number}")
        old = (place / "prometheus.yml").read_text()
        for folder, text in (("..first", old), ("..second", old.replace("itself", "renamed"))):
            (place / folder).mkdir()
            (place / folder / "prometheus.yml").write_text(text)
        (place / "..data").symlink_to("..first")
        (place / "..data_tmp").symlink_to("..data/prometheus.yml")
        os.rename(place / "..data_tmp", place / "prometheus.yml")
        (place / "..data_tmp").symlink_to("..second")
        os.rename(place / "..data_tmp", place / "..data")
    for replica in replicas[1:]:
        def has_it(replica=replica):
            assert replica.is_ready()
            return "renamed" in json.loads(replica.get("/api/v1/status/config"))["data"]["yaml"]
        wait_until(has_it, 60)
    wait_until(lambda: len({replica.get("/sidecar/metrics").partition("\nwrapper_config_hash{")[2].splitlines()[0]
                            for replica in replicas[1:]}) == 1)


def test_a_rolling_replacement_fails_no_request(replicas):
    """maxSurge 1, maxUnavailable 0; a pod that ends is taken out of the Service only after it has got its TERM."""
    replica, *old = replicas
    with Balancer() as balancer, concurrent.futures.ThreadPoolExecutor() as pool:
        balancer.backends = [("127.0.0.1", each.published) for each in old]
        with Clients(balancer.port, "/-/healthy") as clients, replica(3) as third, replica(4) as fourth:
            for leaving, coming in zip(old, (third, fourth)):
                balancer.backends = [*balancer.backends, ("127.0.0.1", coming.published)]
                end = pool.submit(leaving.end)
                wait_until(lambda leaving=leaving: leaving.asked("GET", "/sidecar/readyz") == 503)
                balancer.backends = [each for each in balancer.backends if each[1] != leaving.published]
                assert end.result(60) == 0
            before = clients.served
            wait_until(lambda: clients.served > before + 1000)
            clients.stop()
    print(clients.served, "served")
    assert clients.failures == []
