"""presets/prometheus.py: what it writes. Debian's own Prometheus and Alertmanager take it in tests/real."""

from __future__ import annotations

import json
import os
import stat

import pytest

from wrapper import Problem
from wrapper.presets import prometheus as preset
from wrapper.sidecar import handle
from wrapper.testing import FakeService, running

SMTP = {"host": "mail:587", "from": "a@b", "password": "p", "hello": "me"}


def written(*notifiers, smtp=SMTP, base=None):
    """Alertmanager's file for some notifiers."""
    parts = [preset.part(f"{number}-{one['type']}", one, smtp) for number, one in enumerate(notifiers)]
    return json.loads(preset.alertmanager_file(base or {}, parts))


def test_notifiers_become_receivers_and_routes_in_their_order():
    file = written({"severity": "page", "type": "email", "to": "x@y"}, {"type": "webhook", "url": "http://z"})
    assert [one["name"] for one in file["receivers"]] == ["nobody", "0-email", "1-webhook"]
    assert file["receivers"][1]["email_configs"] == [
        {"to": "x@y", "from": "a@b", "smarthost": "mail:587", "auth_password": "p", "hello": "me"}]
    assert file["receivers"][2]["webhook_configs"] == [{"url": "http://z"}]
    assert file["route"]["routes"] == [
        {"receiver": "0-email", "continue": True, "matchers": ['severity="page"']},
        {"receiver": "1-webhook", "continue": True, "matchers": []}]


def test_a_severity_and_an_owner_cannot_break_out_of_their_matchers():
    route, = written({"level": 'a"} or {b', "owners": ["a.b", 'c"|.*'], "type": "slack"})["route"]["routes"]
    assert route["matchers"] == ['level="a\\"} or {b"', 'owner=~"a\\\\.b|c\\"\\\\|\\\\.\\\\*"']


def test_one_owner_may_stand_without_a_list():
    """Its letters were owners otherwise, and its alerts went nowhere, without a problem."""
    route, = written({"owners": "web", "type": "slack"})["route"]["routes"]
    assert route["matchers"] == ['owner=~"web"']


def test_keys_of_alertmanagers_pass_through():
    """In a notifier, in its route and in the whole file; `config` has those that are called like ours."""
    file = written({"type": "pagerduty", "level": "critical", "key": "k", "links": [{"href": "http://x"}],
                    "config": {"severity": "error", "send_resolved": False},
                    "route": {"group_wait": "1s", "continue": False, "matchers": ['team="a"'], "receiver": "other"}},
                   base={"route": {"group_by": ["owner"]}, "templates": ["*.tmpl"], "receivers": ["theirs"]})
    assert file["receivers"][1] == {"name": "0-pagerduty", "pagerduty_configs": [
        {"routing_key": "k", "links": [{"href": "http://x"}], "severity": "error", "send_resolved": False}]}
    assert file["route"]["routes"] == [{"receiver": "0-pagerduty", "group_wait": "1s", "continue": False,
                                        "matchers": ['level="critical"', 'team="a"']}]
    assert (file["route"]["group_by"], file["templates"]) == (["owner"], ["*.tmpl"])


class Applying:
    """A handle whose Alertmanager refuses every file that holds one of some words."""

    def __init__(self, *words, **details):
        self.words = words
        self.details = details
        self.files = []

    def apply(self, files, check, action):
        content, = files.values()
        found = [Problem(f"no {word}", **self.details) for word in self.words if word in content]
        if not found:
            self.files.append([one["name"] for one in json.loads(content)["receivers"]])
        return found[:1]


def put(alertmanager, *notifiers):
    return preset.put_notifiers(alertmanager, "file", {"notifiers": notifiers, "smtp": {}, "alertmanager": {}})


def test_one_bad_notifier_does_not_hold_back_the_others():
    alertmanager = Applying("pigeon", "bad")
    problems = put(alertmanager, {"type": "pigeon"}, {"type": "email"}, "nonsense", {"type": "webhook", "url": "bad"},
                   {"type": "webhook", "owners": 7}, {"type": "webhook", "url": "good"})
    assert alertmanager.files[-1] == ["nobody", "1-email", "5-webhook"]
    assert [one.message.partition("(")[0] for one in problems] == [
        "notifier 2 is malformed: TypeError", "notifier 4 is malformed: TypeError",
        "notifier 0-pigeon is left out: no pigeon", "notifier 3-webhook is left out: no bad"]


def test_where_the_notifiers_are_not_to_blame_none_is_left_out():
    alertmanager = Applying("email", retry=True)
    problem, = put(alertmanager, {"type": "email"}, {"type": "webhook"})
    assert (problem.message, problem.details) == ("no email", {"retry": True})
    assert alertmanager.files == []


class Alertmanager:
    """A handle that remembers what was asked."""

    def __init__(self, silences):
        self.silences = silences
        self.asked = []

    def request(self, method, path, json=None):
        self.asked.append((method, path.rpartition("/")[2], json))
        return Answer(self.silences)


class Answer:
    ok = True

    def __init__(self, silences):
        self._silences = silences

    def json(self):
        return self._silences


def test_yaml_keeps_every_character():
    """A JSON escape in two halves is two characters to a YAML reader, and none to Prometheus."""
    assert "on fire 🔥" in preset.yaml({"groups": [{"name": "on fire 🔥"}]})
    assert "kritisch-ä 🔥" in preset.alertmanager_file({"route": {"matchers": ["kritisch-ä 🔥"]}}, [])
    assert preset.quoted("kritisch-ä 🔥") == '"kritisch-ä 🔥"'


def test_the_first_file_is_not_for_all_and_its_folder_is_made(tmp_path):
    """A password of the mail server comes into it, with the rights that it has."""
    file = tmp_path / "etc" / "alertmanager.yml"
    preset.put_first_file(str(file))
    assert stat.S_IMODE(file.stat().st_mode) & 0o007 == 0
    file.write_text("mine")
    preset.put_first_file(str(file))
    assert file.read_text() == "mine"
    file.write_text("")  # what a crash or a full disk has left
    preset.put_first_file(str(file))
    assert "nobody" in file.read_text()
    assert os.listdir(file.parent) == ["alertmanager.yml"]


def test_without_a_place_for_alertmanager_the_rules_go_on(tmp_path):
    (tmp_path / "file").write_text("")
    sidecar = preset.build({"SITE_CONFIGURATION": str(tmp_path / "site"),
                            "ALERTMANAGER_CONFIG": str(tmp_path / "file" / "alertmanager.yml")})
    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: "Alertmanager is not started" in str(wrapper.problems()))
        names = {one["name"] for one in wrapper.get("/sidecar/api/config").json()}
    assert names == {"prometheus.rules"}


class Trouble:
    """`well`: the method that is answered as it should be."""

    def __init__(self, reply, well="GET"):
        self.reply = reply
        self.well = well

    def request(self, method, path, json=None):
        if isinstance(self.reply, Exception):
            raise self.reply
        return Answer([]) if method == self.well else handle.Answer(self.reply, {}, b'"why"')


@pytest.mark.parametrize(("reply", "retry"), [
    (ConnectionResetError("dropped"), True), (ValueError("no HTTP"), True), (503, True), (400, None)])
def test_only_what_may_pass_is_tried_again(reply, retry):
    """A silence that the site has removed must not stay for ten years because of one connection."""
    problem, = preset.reconcile(Trouble(reply), ["A"])
    assert problem.details.get("retry") is retry


def test_a_list_of_silences_that_cannot_be_had_is_asked_for_again():
    problem, = preset.reconcile(Trouble(500, well=None), ["A"])
    assert problem.details["retry"]
    assert "answers 500" in problem.message


@pytest.mark.parametrize("odd", ["Down", {"alertname": "Down"}])
def test_what_is_no_list_of_silences_changes_none(odd):
    """Its letters, or its names of labels, are no alerts; and those that are in force would end."""
    alertmanager = Alertmanager([silence("keep", "wrapper", "active", alertname="Down")])
    problem, = preset.reconcile(alertmanager, odd)
    assert problem.message == "silences: there must be a list of them"
    assert alertmanager.asked == []


def test_what_is_no_silence_is_named_and_holds_back_no_other():
    alertmanager = Alertmanager([])
    problem, = preset.reconcile(alertmanager, [None, "Down"])
    assert "the name of an alert, or an object of labels" in problem.message
    assert [method for method, _, _ in alertmanager.asked] == ["GET", "POST"]


def silence(identity, owner, state, **labels):
    return {"id": identity, "createdBy": owner, "status": {"state": state},
            "matchers": [{"name": name, "value": value, "isRegex": False, "isEqual": True}
                         for name, value in labels.items()]}


def test_silences_are_created_and_expired_and_others_left_alone():
    alertmanager = Alertmanager([
        silence("keep", "wrapper", "active", alertname="A"), silence("twice", "wrapper", "active", alertname="A"),
        silence("old", "wrapper", "pending", alertname="B"), silence("gone", "wrapper", "expired", alertname="C"),
        silence("hand", "a person", "active", alertname="D")])
    assert preset.reconcile(alertmanager, ["A", {"alertname": "C", "job": "x"}]) == []
    (_, _, created), *deleted = alertmanager.asked[1:]
    assert {(one["name"], one["value"]) for one in created["matchers"]} == {("alertname", "C"), ("job", "x")}
    assert created["createdBy"] == "wrapper"
    assert sorted(deleted) == [("DELETE", "old", None), ("DELETE", "twice", None)]


def test_an_expression_is_told_apart_from_a_name():
    """`a|b` may be the name of an alert; and a silence by hand of the same text is another one."""
    alertmanager = Alertmanager([silence("name", "wrapper", "active", alertname="a|b")])
    assert preset.reconcile(alertmanager, [{"alertname=~": "a|b", "job!=": "x", "host!~": "y"}]) == []
    (_, _, created), deleted = alertmanager.asked[1:]
    assert created["matchers"] == [
        {"name": "alertname", "value": "a|b", "isRegex": True, "isEqual": True},
        {"name": "host", "value": "y", "isRegex": True, "isEqual": False},
        {"name": "job", "value": "x", "isRegex": False, "isEqual": False}]
    assert deleted == ("DELETE", "name", None)
    again = {**created, "id": "expression", "status": {"state": "active"}}
    assert preset.our_silences([again]).keys() == {preset.matchers({"host!~": "y", "alertname=~": "a|b", "job!=": "x"})}


def alert(*silenced_by, **labels):
    return {"labels": labels, "status": {"state": "active", "silencedBy": silenced_by}}


def test_the_status_counts_alerts_by_level_and_services():
    counted = preset.alerts_status([
        alert(level="critical", service_name="a"), alert(level="critical", service_name="a"),
        alert(severity="critical", job="b"), alert(severity="warning"), alert(level="info", severity="critical"),
        alert("silence", level="critical", service_name="c")])
    assert counted == {"critical": 3, "warning": 1, "silenced": 1, "servicesCritical": 2, "services_critical": 2}


@pytest.mark.parametrize(("source", "command", "statuses"), [
    ("off", "", [503, 503]), ("off", "false", [503, 502]), ("/no/file", "", [200, 503])])
def test_what_is_switched_off_says_503(tmp_path, source, command, statuses):
    """Alertmanager and its status go on without the configuration; here it does not answer."""
    sidecar = preset.build({"SITE_CONFIGURATION": source, "ALERTMANAGER_COMMAND": command,
                            "ALERTMANAGER_CONFIG": str(tmp_path / "alertmanager.yml")})
    with running(sidecar) as wrapper:
        asked = [wrapper.get(f"/prom-wrapper/{name}").status for name in ("config-subscriber", "alerts-status")]
        assert asked == statuses
        assert len(wrapper.get("/sidecar/api/config").json()) == (source != "off")


def test_the_configurations_problems_are_told_to_all_and_no_others(tmp_path):
    sidecar = preset.build({"ALERTMANAGER_COMMAND": ""})
    with running(sidecar) as wrapper:
        wrapper.site.around.board.report("service", "another matter")
        answer = wrapper.get("/prom-wrapper/config-subscriber").json()
    assert answer == {"problems": [{"kind": "SiteConfig", "description": (
        "SITE_CONFIGURATION is missing: the URL or path of the site configuration, or `off`")}]}


def test_an_alertmanager_that_is_not_there_is_told_too(tmp_path):
    sidecar = preset.build({"SITE_CONFIGURATION": "/no/file", "ALERTMANAGER_COMMAND": "false",
                            "ALERTMANAGER_CONFIG": str(tmp_path / "alertmanager.yml")})
    with running(sidecar) as wrapper:
        told = wrapper.get("/prom-wrapper/config-subscriber").json()["problems"]
    assert {"kind": "SiteConfig", "description": "Alertmanager is not ready"} in told


def test_the_variables_become_alertmanagers_options():
    words = preset.command({"ALERTMANAGER_COMMAND": "am --cluster.peer=other:9094", "ALERTMANAGER_CLUSTER": ":9094",
                            "SITE_EXTERNAL_URL": "https://example.org/metrics/"}, "/file")
    assert words[:3] == ["am", "--cluster.peer=other:9094", "--config.file=/file"]
    assert words[-2:] == ["--cluster.listen-address=:9094", "--web.external-url=https://example.org/metrics/alertmanager"]
    assert preset.command({}, "/file")[-1] == "--cluster.listen-address="


def test_without_its_variable_it_says_so():
    with running(preset.build({})) as wrapper:
        wrapper.wait_until(lambda: "SITE_CONFIGURATION is missing" in str(wrapper.problems()))


def results(wrapper):
    return {one["last_result"] for one in wrapper.get("/sidecar/api/config").json()}


def test_rules_reach_the_service(tmp_path, monkeypatch):
    promtool = tmp_path / "promtool"
    promtool.write_text('#!/bin/sh\ngrep -q bad "$3" && exit 1 || exit 0\n')
    promtool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    site, rules = tmp_path / "site.json", tmp_path / "rules.yml"
    site.write_text('{"rules": [{"name": "one"}]}')
    sidecar = preset.build({"SITE_CONFIGURATION": str(site), "SITE_INTERVAL": "50ms", "PROMETHEUS_RULES": str(rules),
                            "ALERTMANAGER_COMMAND": ""})
    service = FakeService(lambda asked: "ok")
    with running(sidecar, service=service) as wrapper:
        wrapper.wait_until(lambda: rules.exists() and "one" in rules.read_text())
        wrapper.wait_until(lambda: [asked for asked in service.requests if asked.path == "/-/reload"])
        wrapper.wait_until(lambda: results(wrapper) == {"applied"})
        wrapper.wait_until(lambda: wrapper.problems() == [])  # those of an earlier try go after that was noted
