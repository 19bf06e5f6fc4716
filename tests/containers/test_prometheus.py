"""Debian's Prometheus and Alertmanager in an image that has neither Python nor shell, as prom/prometheus is."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from tests.containers.engine import ROOT, Container, build, wait_until, wrap_as_it_is
from wrapper.image import survey

pytestmark = pytest.mark.container

README = ROOT / "README.md"
PROGRAMS = {"prometheus": "prometheus", "promtool": "promtool", "alertmanager": "prometheus-alertmanager",
            "amtool": "amtool"}
TEMPLATES = "usr/share/prometheus/alertmanager"  # Debian's Alertmanager reads its own from there
# As prom/prometheus has it, but for the libc, which its static programs do without.
BASE = f"""FROM scratch
COPY lib /lib
COPY lib /lib64
COPY --chown=65534:65534 root /
COPY {' '.join(PROGRAMS)} /bin/
USER 65534
EXPOSE 9090
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
"""
PRESET = """FROM {image}
ENV WRAPPER_SIDECAR=wrapper.presets.prometheus SITE_CONFIGURATION=/etc/site.json SITE_INTERVAL=1s
ENV ALERTMANAGER_COMMAND="/bin/alertmanager --storage.path=/prometheus/alertmanager"
COPY site.json /etc/site.json
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus", "--web.enable-lifecycle", \
     "--rules.alert.resend-delay=1s"]
"""
CONFIGURATION = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ["/etc/prometheus/rules/*.yml"]
scrape_configs:
  - job_name: itself
    static_configs: [{targets: ["127.0.0.1:9090"]}]
alerting:
  alertmanagers:
    - path_prefix: /alertmanager
      static_configs: [{targets: ["127.0.0.1:9090"]}]
"""
ALERT = {"alert": "Always", "expr": "vector(1)", "labels": {"severity": "page"}}
SITE = {"rules": [{"name": "site", "rules": [ALERT]}],
        "notifiers": [{"type": "webhook", "url": "http://127.0.0.1:1/"}, {"type": "pigeon"}], "silences": ["Quiet"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    missing = [program for program in PROGRAMS.values() if shutil.which(program) is None]
    assert not missing, "cannot build the image: apt-get install prometheus prometheus-alertmanager"
    folder = tmp_path_factory.mktemp("prometheus")
    loader = survey.loader()
    (folder / "lib").mkdir()
    for name, program in PROGRAMS.items():
        shutil.copy(shutil.which(program), folder / name)
    libraries = survey.libraries(loader, [str(folder / name) for name in PROGRAMS])
    for name, path in {os.path.basename(loader): loader, **libraries}.items():
        shutil.copy(path, folder / "lib" / name)
    for name in ("prometheus", "etc/prometheus/rules", "etc/alertmanager"):
        (folder / "root" / name).mkdir(parents=True)
        (folder / "root" / name / ".kept").touch()
    shutil.copytree(f"/{TEMPLATES}", folder / "root" / TEMPLATES)
    (folder / "root/etc/prometheus/prometheus.yml").write_text(CONFIGURATION)
    (folder / "site.json").write_text(json.dumps(SITE))
    return folder


@pytest.fixture(scope="module")
def wrapped(podman, folder):
    return wrap_as_it_is(podman, build(podman, BASE, "prometheus", folder), "prometheus-wrapped")


def document(container, path):
    return json.loads(container.get(path))


def scrapes(container):
    found = document(container, "/api/v1/query?query=count_over_time(up[1h])")["data"]["result"]
    return int(found[0]["value"][1]) if found else 0


def test_it_answers_at_its_own_port_and_keeps_its_volume(wrapped, podman, run):
    container = run(wrapped, port=9090, options=("--read-only", "--cap-drop", "ALL"))
    container.wait_running()
    assert container.get("/-/ready").startswith("Prometheus Server is Ready")
    before = wait_until(lambda: scrapes(container))
    podman("restart", container.name)
    container.wait_running()
    wait_until(lambda: scrapes(container) > before)
    assert container.wrapper("ctl", "restart").returncode == 0, "two runs at once would share a lock: in turn"
    podman("stop", container.name)
    assert container.exit_status() == 0


def test_the_preset_gives_it_rules_receivers_and_silences_on_one_port(wrapped, podman, folder, run):
    image = build(podman, PRESET.format(image=wrapped), "prometheus-site", folder)
    container = run(image, port=9090)
    container.wait_running()
    wait_until(lambda: [group["name"] for group in document(container, "/api/v1/rules")["data"]["groups"]] == ["site"])
    wait_until(lambda: "webhook_configs" in document(container, "/alertmanager/api/v2/status")["config"]["original"])
    silences = wait_until(lambda: document(container, "/alertmanager/api/v2/silences"))
    assert [one["matchers"][0]["value"] for one in silences] == ["Quiet"]
    wait_until(lambda: [one["labels"]["alertname"] for one in document(container, "/alertmanager/api/v2/alerts")])
    problem, = wait_until(lambda: document(container, "/prom-wrapper/config-subscriber")["problems"])
    assert problem["description"] == "notifier 1-pigeon is left out: amtool rejects the new file with status 1"
    assert document(container, "/prom-wrapper/alerts-status")["silenced"] == 0


def test_the_manifest_of_the_readme_runs_as_pasted(wrapped, podman, tmp_path):
    """But for what is podman's: it would give the containers' port to the host, has probes of its own, and gives a
    Secret's file to every user whatever its defaultMode says.
    """
    manifest = next(block for block in re.findall(r"^```yaml\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
                    if "kind: Deployment" in block)
    ports = "ports: [{name: http, containerPort: 9090}]"
    assert "image: prometheus-wrapped" in manifest
    assert ports in manifest
    pasted = tmp_path / "prometheus.yaml"
    pasted.write_text(manifest.replace("image: prometheus-wrapped", f"image: {wrapped}:latest").replace(ports, ""))
    try:
        podman("kube", "play", str(pasted))
        pods = podman("ps", "--format", "{{.Names}}", "--filter", "label=app=prometheus").stdout.split()
        names = [name for name in pods if name.endswith("-prometheus")]
        assert names, podman("ps", "--all").stdout
        for name in names:
            container = Container(podman, name)
            wait_until(lambda container=container: container.wrapper("health", "--ready").returncode == 0)
            shown = json.loads(container.wrapper("ctl", "status", "--json").stdout)
            problems = json.loads(container.wrapper("ctl", "problems", "--json").stdout)
            assert shown["state"] == "running"
            assert all("every user can read it" in each["message"] for each in problems), container.logs()
    finally:
        podman("kube", "down", str(pasted), check=False)
        podman("secret", "rm", "prometheus-token", check=False)
