"""presets/prometheus.py: what it writes. Debian's own Prometheus and Alertmanager take it in tests/real."""

from __future__ import annotations

import json
import stat

import pytest

from wrapper.presets import prometheus as preset
from wrapper.sidecar import handle
from wrapper.testing import FakeService, running

SMTP = {"host": "mail:587", "from": "a@b", "password": "p"}


def test_notifiers_become_receivers_and_routes_in_their_order():
    written = json.loads(preset.alertmanager_file({"smtp": SMTP, "notifiers": [
        {"severity": "page", "type": "email", "to": "x@y"}, {"type": "webhook", "url": "http://z"}]}))
    assert [one["name"] for one in written["receivers"]] == ["nobody", "0-email", "1-webhook"]
    assert written["receivers"][1]["email_configs"] == [
        {"to": "x@y", "from": "a@b", "smarthost": "mail:587", "auth_password": "p"}]
    assert written["route"]["routes"] == [
        {"receiver": "0-email", "continue": True, "matchers": ['severity="page"']},
        {"receiver": "1-webhook", "continue": True}]


def test_a_severity_cannot_break_out_of_its_matcher():
    written = json.loads(preset.alertmanager_file({"notifiers": [
        {"severity": 'a"} or {b', "type": "slack", "url": "http://z"}]}))
    assert written["route"]["routes"][0]["matchers"] == ['severity="a\\"} or {b"']


@pytest.mark.parametrize(("notifier", "reason"), [
    ({"type": "pigeon"}, "no such type of notifier: 'pigeon'"), ({}, "no such type of notifier: None"),
    ({"type": "webhook"}, "notifier: 'url' is missing"), ({"type": "email", "to": "x"}, "smtp: 'from' is missing"),
])
def test_what_is_missing_is_named(notifier, reason):
    with pytest.raises(ValueError, match=reason):
        preset.alertmanager_file({"notifiers": [notifier]})


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
    assert "on fire 🔥" in preset.rule_file([{"name": "on fire 🔥"}])
    assert "kritisch-ä" in preset.alertmanager_file({"notifiers": [
        {"type": "slack", "url": "http://z/🔥", "severity": "kritisch-ä"}]})


def test_the_first_file_is_not_for_all_and_its_folder_is_made(tmp_path):
    """A password of the mail server comes into it, with the rights that it has."""
    file = tmp_path / "etc" / "alertmanager.yml"
    preset.put_first_file(str(file))
    assert stat.S_IMODE(file.stat().st_mode) & 0o007 == 0
    file.write_text("mine")
    preset.put_first_file(str(file))
    assert file.read_text() == "mine"


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


def test_what_is_no_silence_is_named():
    problem, = preset.reconcile(Trouble(200), [None])
    assert "the name of an alert, or an object of labels" in problem.message


def silence(identity, owner, state, **labels):
    return {"id": identity, "createdBy": owner, "status": {"state": state},
            "matchers": [{"name": name, "value": value} for name, value in labels.items()]}


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
        assert wrapper.problems() == []
