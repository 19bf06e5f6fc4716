"""Debian's Prometheus and Alertmanager with the preset: rules, receivers and silences from a site configuration."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import subprocess
import threading
import time
import urllib.request

import pytest

from tests.config.conftest import Server, answer
from tests.config.test_configuration import kill_session
from tests.real.mail import SECRET, USER, MailServer
from tests.running import PATIENCE, Wrapper, free_port, wait_until

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

    def __init__(self, folder, start_new_session=False, **environment):
        self.site = Site()
        self.rules = folder / "site.yml"
        if not self.rules.exists():
            self.rules.write_text("groups: []\n")
        self.alertmanager = folder / "alertmanager.yml"
        self.main = folder / "prometheus.yml"
        command = ["prometheus", f"--config.file={self.main}", f"--storage.tsdb.path={folder / 'data'}",
                   "--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle", "--rules.alert.resend-delay=1s"]
        self.main.write_text(CONFIGURATION % {"listen": 1, "rules": self.rules})
        self.wrapper = Wrapper(
            "--ready-path", "/-/ready", "--capture-output", "--sidecar", "wrapper.presets.prometheus", command=command,
            wait=False, start_new_session=start_new_session, environment={
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

    def amtool(self, *words):
        """What it says of Alertmanager, through the exposed port."""
        url = f"http://127.0.0.1:{self.wrapper.port}/alertmanager"
        return subprocess.run(["amtool", f"--alertmanager.url={url}", *words], capture_output=True, text=True,
                              timeout=PATIENCE, check=True).stdout

    def silences(self):
        return {tuple(sorted((one["name"], one["value"]) for one in silence["matchers"])): silence["createdBy"]
                for silence in self.get("/alertmanager/api/v2/silences") if silence["status"]["state"] == "active"}


@contextlib.contextmanager
def monitored(folder, **differences):
    """Both systems from here on; ended with the context, where the test has not done it."""
    missing = [name for name in ("prometheus", "promtool", "amtool", "prometheus-alertmanager")
               if shutil.which(name) is None]
    assert not missing, "cannot run: apt-get install prometheus prometheus-alertmanager"
    made = Monitoring(folder, **differences)
    with made.wrapper as wrapper:
        if "start_new_session" not in differences:
            wrapper.wait_state("running")
            # Until the sidecar is loaded and its helper runs, Alertmanager's paths are Prometheus' own: 404.
            wait_until(lambda: helper_state(made) == "running")
        yield made
    made.site.server.close()


@pytest.fixture
def monitoring(tmp_path):
    with monitored(tmp_path, SITE_EXTERNAL_URL="https://example.org/metrics/") as made:
        yield made


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
    """Where Alertmanager sends what it has to say: `received` has the heads and documents."""

    def __init__(self):
        self.received = []
        self.server = Server(self._take)
        self.url = self.server.url

    def _take(self, connection, head):
        head, _, body = head.partition("\r\n\r\n")
        body = body.encode()
        while len(body) < int(re.search(r"content-length: (\d+)", head, re.IGNORECASE)[1]):
            body += connection.recv(65536)
        self.received.append((head, json.loads(body)))
        connection.sendall(answer("thank you"))


@pytest.fixture
def hooks():
    made = Hooks()
    yield made
    made.server.close()


@pytest.fixture
def mail():
    server = MailServer()
    yield server
    server.close()


BAD = {"type": "pigeon"}
AT_ONCE = {"route": {"group_wait": "0s", "group_interval": "1s", "group_by": ["..."]}}


def rule(name, **labels):
    return {"alert": name, "expr": "vector(1)", "labels": labels}


def by_hand(monitoring, name):
    """A silence of a person's."""
    silence = {"matchers": [{"name": "alertname", "value": name, "isRegex": False}], "createdBy": "a person",
               "startsAt": "2026-01-01T00:00:00Z", "endsAt": "2050-01-01T00:00:00Z", "comment": "by hand"}
    request = urllib.request.Request(f"http://127.0.0.1:{monitoring.wrapper.port}/alertmanager/api/v2/silences",
                                     json.dumps(silence).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        assert response.status == 200


def test_an_alert_reaches_a_webhook_and_a_mailbox(monitoring, hooks, mail):
    """From the rule through the exposed port to the receivers, with Alertmanager's own keys on the way."""
    monitoring.site.document = {
        "rules": [{"name": "site", "rules": [rule("Down", level="critical", owner="search")]}], "alertmanager": AT_ONCE,
        "smtp": {"host": mail.address, "from": "prometheus@example.org", "hello": "tests.example.org",
                 "username": USER, "secret": SECRET, "tls": False},
        "notifiers": [
            {"type": "webhook", "level": "critical", "owners": ["web", "search"], "url": hooks.url,
             "http_config": {"authorization": {"credentials": "t0ken"}}},
            {"type": "email", "level": "critical", "to": "on-call@example.org",
             "text": "It is {{ .CommonLabels.owner }}'s",
             "headers": {"subject": "[{{ .CommonLabels.level | toUpper }}] {{ .CommonLabels.alertname }}"}},
            {"type": "webhook", "owners": ["other"], "url": "http://127.0.0.1:1/"}]}
    wait_until(lambda: hooks.received and mail.messages)
    head, document = hooks.received[0]
    assert "Authorization: Bearer t0ken" in head
    assert (document["status"], document["commonLabels"]["alertname"]) == ("firing", "Down")
    assert document["externalURL"] == "https://example.org/metrics/alertmanager"
    hello, recipient, message = mail.messages[0]
    assert (hello, recipient) == ("tests.example.org", "TO:<on-call@example.org>")
    assert message["Subject"] == "[CRITICAL] Down"
    assert "It is search's" in str(message)
    assert not monitoring.problems()
    assert monitoring.get("/prom-wrapper/config-subscriber") == {"problems": []}


def test_amtool_shows_the_receivers_and_routes_of_the_document(monitoring):
    """By level, by owner and by both; every notifier that an alert concerns gets it."""
    monitoring.site.document = {
        "alertmanager": {"global": {"resolve_timeout": "7m"}, "route": {"repeat_interval": "2h"}},
        "notifiers": [
            {"type": "opsgenie", "level": "critical", "key": "k", "api_url": "https://opsgenie.example.org/",
             "responders": [{"type": "team", "name": "a"}]},
            {"type": "pagerduty", "severity": "page", "owners": ["a.b"], "key": "k", "config": {"severity": "error"}},
            {"type": "slack", "owners": ["a.b", "c"], "url": "https://slack.example.org/x", "channel": "#alerts",
             "send_resolved": False, "route": {"matchers": ['team!="x"'], "group_wait": "3s"}},
            {"type": "discord", "webhook_url": "https://discord.example.org/x"}]}
    wait_until(lambda: "0-opsgenie" in monitoring.amtool("config", "show"))
    shown = monitoring.amtool("config", "show")
    for text in ("resolve_timeout: 7m", "repeat_interval: 2h", "severity: error", "channel: '#alerts'", "type: team",
                 "group_wait: 3s", "send_resolved: false"):
        assert text in shown
    assert "k\n" not in re.findall("key: (.*)", shown), "amtool shows no secret"

    def receivers(*labels):
        return monitoring.amtool("config", "routes", "test", *labels).strip().split(",")

    assert receivers("level=critical") == ["0-opsgenie", "3-discord"]
    assert receivers("severity=page", "owner=a.b") == ["1-pagerduty", "2-slack", "3-discord"]
    assert receivers("owner=axb") == receivers("owner=c", "team=x") == ["3-discord"]


def test_a_rejected_receiver_beside_a_good_one(monitoring, hooks):
    """What amtool rejects, what only Alertmanager does, and what is no notifier at all are three problems."""
    good = {"type": "webhook", "url": hooks.url}
    monitoring.site.document = {"rules": [{"name": "site", "rules": [ALWAYS]}], "alertmanager": AT_ONCE, "notifiers": [
        BAD, {**good, "http_config": {"tls_config": {"ca_file": "/no/such/file"}}}, {}, good,
        {"type": "email", "to": "x@example.org"}]}
    wait_until(lambda: len(monitoring.problems()) == 4)
    wait_until(lambda: hooks.received)
    said = {problem["message"].partition(":")[0]: problem["details"].get("output") for problem in monitoring.problems()}
    assert "pigeon_configs not found" in str(said["notifier 0-pigeon is left out"])
    assert "no such file" in str(said["notifier 1-webhook is left out"])
    assert "no global SMTP smarthost set" in str(said["notifier 4-email is left out"])
    assert "notifier 2 is malformed" in said
    told = monitoring.get("/prom-wrapper/config-subscriber")["problems"]
    assert sorted(one["description"].partition(":")[0] for one in told) == sorted(said)
    assert "3-webhook" in monitoring.amtool("config", "show")
    monitoring.site.document = {"notifiers": [good]}
    wait_until(lambda: not monitoring.problems())
    assert "3-webhook" not in monitoring.amtool("config", "show")


def test_silences_come_and_go_and_those_by_hand_stay(monitoring):
    wait_until(lambda: helper_state(monitoring) == "running")
    rules = [rule("Down", level="critical", service_name="a"), rule("Slow", level="critical", service_name="b"),
             rule("Slow.*", severity="warning"), rule("Late", level="warning")]
    by_hand(monitoring, "Late")
    hand = {(("alertname", "Late"),): "a person"}

    def status():
        counted = monitoring.get("/prom-wrapper/alerts-status")
        return [counted[name] for name in ("critical", "warning", "silenced", "servicesCritical")]

    document = {"rules": [{"name": "site", "rules": rules}]}
    for silences, ours, counts in (
            ([], {}, [2, 1, 1, 2]),
            (["Slow.*"], {(("alertname", "Slow.*"),): "wrapper"}, [2, 0, 2, 2]),
            ([{"alertname=~": "Slow.*", "level!=": "x"}],
             {(("alertname", "Slow.*"), ("level", "x")): "wrapper"}, [1, 0, 3, 1]),
            (["Down", {"alertname=~": "("}, {"service_name": "b"}],
             {(("alertname", "Down"),): "wrapper", (("service_name", "b"),): "wrapper"}, [0, 1, 3, 0])):
        monitoring.site.document = {**document, "silences": silences}
        wait_until(lambda ours=ours: monitoring.silences() == {**hand, **ours})
        wait_until(lambda counts=counts: status() == counts, what=f"{counts} for {silences}")
    assert "400 to a silence" in str(monitoring.problems()), "an expression that is none holds back no other"
    assert "Down" in monitoring.amtool("silence", "query", "alertname=Down")
    monitoring.site.document = document
    wait_until(lambda: monitoring.silences() == hand)
    wait_until(lambda: not monitoring.problems())


def test_alertmanager_goes_on_where_the_configuration_is_switched_off(tmp_path):
    """With its route, its status, its silences by hand; and with its peers, where it has some."""
    peers = free_port()
    with monitored(tmp_path, SITE_CONFIGURATION="off", ALERTMANAGER_CLUSTER=f"127.0.0.1:{peers}") as monitoring:
        by_hand(monitoring, "Hand")
        assert monitoring.silences() == {(("alertname", "Hand"),): "a person"}
        assert monitoring.get("/prom-wrapper/alerts-status")["critical"] == 0
        assert monitoring.wrapper.request("GET", "/prom-wrapper/config-subscriber")[0] == 503
        assert monitoring.get("/alertmanager/api/v2/status")["cluster"]["status"] in ("settling", "ready")
        assert monitoring.get("/sidecar/api/config") == []
        assert not monitoring.problems()
        assert not monitoring.site.server.heads


def test_without_a_cluster_alertmanager_has_no_peers(monitoring):
    wait_until(lambda: helper_state(monitoring) == "running")
    assert monitoring.get("/alertmanager/api/v2/status")["cluster"]["status"] == "disabled"


def versions(hooks, mail):
    """Two documents that have nothing in common but the mail server."""
    smtp = {"host": mail.address, "from": "prometheus@example.org", "username": USER, "secret": SECRET, "tls": False}
    for name in ("First", "Second"):
        yield {"rules": [{"name": name, "rules": [rule(name, level="critical")]}], "silences": [f"{name}.quiet"],
               "alertmanager": AT_ONCE, "smtp": smtp,
               "notifiers": [{"type": "webhook", "url": f"{hooks.url}/{name}"}, BAD,
                             {"type": "email", "to": f"{name}@example.org"}]}


def test_after_a_crash_of_the_wrapper_all_is_as_the_document_says(tmp_path, hooks, mail):
    """SIGKILL at random moments while the document changes; a container's PID 1 takes all processes with it."""
    chance, documents = random.Random(7), list(versions(hooks, mail))
    for crash in range(8):
        with monitored(tmp_path, start_new_session=True) as monitoring:
            monitoring.site.document = documents[crash % 2]
            time.sleep(chance.uniform(0.3, 2.5))  # the random moment itself
            monitoring.wrapper.process.kill()
            monitoring.wrapper.process.wait()
            kill_session(monitoring.wrapper.process.pid)
        for file in tmp_path.glob("*.yml"):  # Alertmanager's comes with the first start that lives long enough
            assert not ("First" in file.read_text() and "Second" in file.read_text()), "wholly one version"
    hooks.received.clear()
    mail.messages.clear()
    with monitored(tmp_path) as monitoring:
        monitoring.site.document = documents[0]
        wait_until(lambda: monitoring.rule_names() == {"First"})
        wait_until(lambda: "2-email" in monitoring.amtool("config", "show"))
        assert "Second" not in monitoring.amtool("config", "show")
        wait_until(lambda: monitoring.silences() == {(("alertname", "First.quiet"),): "wrapper"})
        wait_until(lambda: [one for _, one in hooks.received if one["commonLabels"]["alertname"] == "First"])
        wait_until(lambda: "TO:<First@example.org>" in [recipient for _, recipient, _ in mail.messages])
        problem, = wait_until(monitoring.problems)
        assert problem["message"].startswith("notifier 1-pigeon is left out")


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
