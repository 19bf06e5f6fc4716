"""Debian's Prometheus and Alertmanager in an image that has neither Python nor shell, as prom/prometheus is."""

from __future__ import annotations

import json

import pytest

from tests.containers.engine import build, wait_until

pytestmark = pytest.mark.container

PRESET = """FROM {image}
ENV WRAPPER_SIDECAR=wrapper.presets.prometheus SITE_CONFIGURATION=/etc/site.json SITE_INTERVAL=1s
ENV ALERTMANAGER_COMMAND="/bin/alertmanager --storage.path=/prometheus/alertmanager"
COPY site.json /etc/site.json
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus", "--web.enable-lifecycle", \
     "--rules.alert.resend-delay=1s"]
"""
ALERT = {"alert": "Always", "expr": "vector(1)", "labels": {"severity": "page"}}
SITE = {"rules": [{"name": "site", "rules": [ALERT]}],
        "notifiers": [{"type": "webhook", "url": "http://127.0.0.1:1/"}, {"type": "pigeon"}], "silences": ["Quiet"]}


def document(container, path):
    return json.loads(container.get(path))


def scrapes(container):
    found = document(container, "/api/v1/query?query=count_over_time(up[1h])")["data"]["result"]
    return int(found[0]["value"][1]) if found else 0


def test_it_answers_at_its_own_port_and_keeps_its_volume(prometheus, podman, run):
    container = run(prometheus, port=9090, options=("--read-only", "--cap-drop", "ALL"))
    container.wait_running()
    assert container.get("/-/ready").startswith("Prometheus Server is Ready")
    before = wait_until(lambda: scrapes(container))
    podman("restart", container.name)
    container.wait_running()
    wait_until(lambda: scrapes(container) > before)
    assert container.wrapper("ctl", "restart").returncode == 0, "two runs at once would share a lock: in turn"
    podman("stop", container.name)
    assert container.exit_status() == 0


def test_the_preset_gives_it_rules_receivers_and_silences_on_one_port(prometheus, podman, tmp_path, run):
    (tmp_path / "site.json").write_text(json.dumps(SITE))
    image = build(podman, PRESET.format(image=prometheus), "prometheus-site", tmp_path)
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
