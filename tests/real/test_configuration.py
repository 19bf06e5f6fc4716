"""Debian's Prometheus and Alertmanager with the preset: rules, receivers and silences from a site configuration."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request

import pytest

from tests.config.conftest import Server, answer
from tests.running import PATIENCE, Wrapper, wait_until

pytestmark = pytest.mark.real

CONFIGURATION = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%(rules)s]
alerting:
  alertmanagers:
    - static_configs: [{targets: ["127.0.0.1:%(listen)d"]}]
      path_prefix: /alertmanager
scrape_configs:
  - job_name: itself
    static_configs: [{targets: ["127.0.0.1:%(listen)d"]}]
"""
ALWAYS = {"alert": "Always", "expr": "vector(1)", "labels": {"severity": "page"}}


class Site:
    """A configuration server of the test's own."""

    def __init__(self):
        self.document = {}
        self.server = Server(lambda connection, head: connection.sendall(answer(json.dumps(self.document))))


class Monitoring:
    """Prometheus behind the wrapper with the preset, and a site to change."""

    def __init__(self, folder, *options, rules=(), **environment):
        self.site = Site()
        self.rules = folder / "site.yml"
        self.rules.write_text("groups: []\n")
        self.alertmanager = folder / "alertmanager.yml"
        self.main = folder / "prometheus.yml"
        command = ["prometheus", f"--config.file={self.main}", f"--storage.tsdb.path={folder / 'data'}",
                   "--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle", "--rules.alert.resend-delay=1s"]
        self.main.write_text(CONFIGURATION % {"listen": 1, "rules": self.rules})
        self.wrapper = Wrapper(
            "--ready-path", "/-/ready", "--capture-output", *options, command=command, wait=False, environment={
                "SITE_CONFIGURATION": self.site.server.url, "SITE_INTERVAL": "200ms",
                "PROMETHEUS_RULES": str(self.rules), "ALERTMANAGER_CONFIG": str(self.alertmanager),
                "ALERTMANAGER_COMMAND": f"prometheus-alertmanager --storage.path={folder / 'alerts'}", **environment})
        self.main.write_text(CONFIGURATION % {"listen": self.wrapper.port, "rules": self.rules})

    def get(self, path):
        return json.loads(self.wrapper.get(path))

    def rule_names(self):
        groups = self.get("/api/v1/rules")["data"]["groups"]
        return {rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "ok"}

    def problems(self):
        return self.wrapper.command("GET", "/sidecar/api/problems")[1]

    def silences(self):
        return {tuple(sorted((one["name"], one["value"]) for one in silence["matchers"])): silence["createdBy"]
                for silence in self.get("/alertmanager/api/v2/silences") if silence["status"]["state"] == "active"}


@pytest.fixture
def monitoring(tmp_path):
    missing = [name for name in ("prometheus", "promtool", "amtool", "prometheus-alertmanager")
               if shutil.which(name) is None]
    assert not missing, "cannot run: apt-get install prometheus prometheus-alertmanager"
    made = Monitoring(tmp_path, "--sidecar", "wrapper.presets.prometheus")
    with made.wrapper as wrapper:
        wrapper.wait_state("running")
        yield made
    made.site.server.close()


def helper_state(monitoring):
    return monitoring.get("/sidecar/api/status")["helpers"].get("alertmanager", {}).get("state")


def test_rules_come_go_and_are_rejected_while_requests_go_on(monitoring):
    """Within two intervals, without a restart, without a lost request; what promtool rejects never arrives."""
    statuses, stop = [], threading.Event()

    def load():
        while not stop.is_set():
            statuses.append(monitoring.wrapper.request("GET", "/api/v1/status/buildinfo")[0])

    pid = monitoring.wrapper.status()["pid"]
    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        begin = time.monotonic()
        monitoring.site.document = {"rules": [{"name": "site", "rules": [ALWAYS]}]}
        wait_until(lambda: "Always" in monitoring.rule_names())
        assert time.monotonic() - begin < 5

        broken = {"alert": "Broken", "expr": "up ==="}
        monitoring.site.document = {"rules": [{"name": "site", "rules": [ALWAYS, broken]}]}
        wait_until(lambda: "promtool rejects the new file" in str(monitoring.problems()))
        assert "Broken" not in monitoring.rules.read_text()
        assert "parse error" in str(monitoring.problems()[0]["details"]["output"])
        assert monitoring.rule_names() == {"Always"}

        mended = {"alert": "Mended", "expr": "up == 0"}
        monitoring.site.document = {"rules": [{"name": "site", "rules": [ALWAYS, mended]}]}
        wait_until(lambda: "Mended" in monitoring.rule_names())
        wait_until(lambda: not monitoring.problems())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert len(statuses) > 100
    assert monitoring.wrapper.status()["pid"] == pid


class Hooks:
    """Where Alertmanager sends what it has to say."""

    def __init__(self):
        self.received = threading.Event()
        self.server = Server(self._take)

    def _take(self, connection, head):
        self.received.set()
        connection.sendall(answer("thank you"))


def test_alertmanager_as_a_helper_with_receivers_and_silences(monitoring):
    wait_until(lambda: helper_state(monitoring) == "running")
    hooks = Hooks()
    monitoring.site.document = {"rules": [{"name": "site", "rules": [ALWAYS]}],
                                "notifiers": [{"severity": "page", "type": "webhook", "url": hooks.server.url}]}
    wait_until(lambda: hooks.server.url in monitoring.alertmanager.read_text())
    wait_until(lambda: "0-webhook" in str(monitoring.get("/alertmanager/api/v2/receivers")))
    assert hooks.received.wait(60), "the alert goes from the rule to the receiver, through the exposed port"

    by_hand = {"matchers": [{"name": "alertname", "value": "Hand", "isRegex": False}], "createdBy": "a person",
               "startsAt": "2026-01-01T00:00:00Z", "endsAt": "2050-01-01T00:00:00Z", "comment": "by hand"}
    request = urllib.request.Request(f"http://127.0.0.1:{monitoring.wrapper.port}/alertmanager/api/v2/silences",
                                     json.dumps(by_hand).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        assert response.status == 200
    hand = {(("alertname", "Hand"),): "a person"}

    document = monitoring.site.document
    monitoring.site.document = {**document, "silences": ["Always"]}
    wait_until(lambda: monitoring.silences() == {**hand, (("alertname", "Always"),): "wrapper"})
    monitoring.site.document = {**document, "silences": [{"alertname": "Always", "job": "x"}]}
    wait_until(lambda: monitoring.silences() == {**hand, (("alertname", "Always"), ("job", "x")): "wrapper"})
    monitoring.site.document = document
    wait_until(lambda: monitoring.silences() == hand)
    assert not monitoring.problems()

    monitoring.site.document = {**document, "notifiers": [{"type": "pigeon"}]}
    wait_until(lambda: "no such type of notifier: 'pigeon'" in str(monitoring.problems()))
    monitoring.site.document = {**document, "notifiers": [{"type": "email", "to": "x"}]}
    wait_until(lambda: "smtp: 'from' is missing" in str(monitoring.problems()))
    monitoring.site.document = document
    wait_until(lambda: not monitoring.problems())


TWICE = "remote_write: [{url: 'http://127.0.0.1:1/'}, {url: 'http://127.0.0.1:1/'}]\n"


def test_what_promtool_likes_and_prometheus_does_not_start_with_is_undone(tmp_path):
    """The same remote_write twice is such a thing. The way back, and the way on, are as for any other change."""
    site, main = Site(), tmp_path / "prometheus.yml"
    good = "global: {scrape_interval: 1s}\n"
    main.write_text(good)
    site.document = {"file": good}
    command = ["prometheus", f"--config.file={main}", f"--storage.tsdb.path={tmp_path / 'data'}",
               "--web.listen-address=127.0.0.1:{port}"]
    with Wrapper("--ready-path", "/-/ready", "--capture-output", "--config-source", site.server.url, "--config-select",
                 "file", "--config-file", str(main), "--config-interval", "200ms", "--config-min-interval", "0s",
                 "--config-check", "promtool check config {file}", command=command) as wrapper:
        site.document = {"file": good + TWICE}
        wait_until(lambda: "undone" in str(wrapper.command("GET", "/sidecar/api/problems")))
        problem = wrapper.command("GET", "/sidecar/api/problems")[1][0]
        assert "error loading config" in str(problem["details"]["output"])
        assert problem["details"]["rejected"] != problem["details"]["kept"]
        assert main.read_text() == good
        wrapper.get("/-/ready")
        site.document = {"file": good}
        wait_until(lambda: not json.loads(wrapper.get("/sidecar/api/problems")))
        site.document = {"file": good.replace("1s", "2s")}
        wait_until(lambda: "scrape_interval: 2s" in wrapper.get("/api/v1/status/config").decode())
        assert not json.loads(wrapper.get("/sidecar/api/problems"))
    site.server.close()
