"""presets/grafana.py against a little Grafana: data sources, dashboards, settings."""

from __future__ import annotations

import json
from json import dumps

import pytest

from tests.presets.grafana11 import Grafana, receivers
from tests.running import service
from wrapper.presets import grafana as preset
from wrapper.sidecar.handle import Answer
from wrapper.testing import Asked, FakeService, running

POINT = {"uid": "mail", "name": "On call", "type": "email", "settings": {"addresses": "a@b.example"}}


def results(wrapper):
    return {one["last_result"] for one in wrapper.get("/sidecar/api/config").json()}


def test_the_site_is_brought_into_grafana(tmp_path):
    grafana, site = Grafana(), tmp_path / "site.json"
    grafana.datasources["Hand"] = {"name": "Hand", "uid": "h"}
    grafana.dashboards = {"old": {"uid": "old", "title": "Old", "tags": [preset.TAG]},
                          "hand": {"uid": "hand", "title": "Hand", "tags": []}}
    pristine, settings = tmp_path / "grafana.ini", tmp_path / "site.ini"
    pristine.write_text("app_mode = production\n[smtp]\nenabled = false\n")
    site.write_text(json.dumps({"datasources": [{"name": "P", "type": "prometheus", "url": "http://p"}],
                                "dashboards": [{"uid": "new", "title": "New", "tags": ["mine"]}], "overview": "P",
                                "contact_points": [POINT], "policies": [{"receiver": "On call"}],
                                "settings": {"smtp": {"enabled": True, "host": "mail:587"}}}))
    sidecar = preset.build({"SITE_CONFIGURATION": str(site), "SITE_INTERVAL": "50ms", "GRAFANA_PRISTINE": str(pristine),
                            "GRAFANA_SETTINGS": str(settings)})
    service = FakeService(grafana.answer)
    with running(sidecar, service=service) as wrapper:
        wrapper.wait_until(lambda: set(grafana.dashboards) == {"new", "hand", "site-overview"})
        wrapper.wait_until(lambda: "P" in grafana.datasources and "On call" in receivers(grafana.tree))
        assert set(grafana.datasources) == {"Hand", "P"}
        assert grafana.dashboards["new"]["tags"] == ["mine", preset.TAG]
        wrapper.wait_until(lambda: service.starts == 2)
        wrapper.wait_until(lambda: results(wrapper) == {"applied"})
        wrapper.wait_until(lambda: wrapper.problems() == [])  # those of an earlier try go after that was noted
    assert settings.read_text() == pristine.read_text() + (
        "\n# From the site configuration.\n[smtp]\nenabled = true\nhost = mail:587\n")


def test_the_same_settings_twice_come_from_the_pristine_ones():
    """Lesson of the field: configuration was read, changed and written back, and other settings were destroyed."""
    assert preset.ini_file("a = 1\n", {}) == preset.ini_file("a = 1", {})


@pytest.mark.parametrize("settings", [{"s]\n[t": {}}, {"s": {"a\nb": 1}}, {"s": {"a": "1\nb = 2"}}])
def test_a_setting_cannot_become_two(settings):
    with pytest.raises(ValueError, match="one line"):
        preset.ini_file("", settings)


@pytest.mark.parametrize(("value", "written"), [
    ("plain", "plain"), ("abc#def;x", '"""abc#def;x"""'), ("it's", '"""it\'s"""'), (" spaced ", '""" spaced """'),
    (["a"], '"""["a"]"""'), (True, "true"),
])
def test_a_value_comes_whole_out_of_the_file(value, written):
    """`#` and `;` begin a comment for the reader of the file, and a password may hold either."""
    assert f"password = {written}\n" in preset.ini_file("", {"smtp": {"password": value}})


@pytest.mark.parametrize(("smtp", "variables"), [
    ({}, {}),
    ({"host": "mail:587", "from": "a@b", "username": "u", "password": "p#;", "hello": "me", "tls": True},
     {"HOST": "mail:587", "FROM_ADDRESS": "a@b", "USER": "u", "PASSWORD": "p#;", "EHLO_IDENTITY": "me",
      "STARTTLS_POLICY": "MandatoryStartTLS", "ENABLED": True}),
    ({"host": "h", "tls": False, "skip_verify": True},
     {"HOST": "h", "STARTTLS_POLICY": "NoStartTLS", "SKIP_VERIFY": True, "ENABLED": True})])
def test_the_mail_server_becomes_grafanas_variables(smtp, variables):
    """`GF_<SECTION>_<KEY>` stand over the files; the keys are those of [smtp] in Grafana 11's defaults.ini."""
    assert preset.smtp_variables(smtp) == {f"GF_SMTP_{name}": value for name, value in variables.items()}


def test_the_password_of_the_mail_server_is_in_the_environment_and_in_no_file(tmp_path):
    site, pristine, run = tmp_path / "site.json", tmp_path / "grafana.ini", tmp_path / "environment"
    site.write_text(json.dumps({"smtp": {"host": "mail:587", "password": "sesame"}}))
    pristine.write_text("")
    sidecar = preset.build({"SITE_CONFIGURATION": str(site), "SITE_INTERVAL": "50ms", "GRAFANA_PRISTINE": str(pristine),
                            "GRAFANA_SETTINGS": str(tmp_path / "site.ini")})
    command = ["sh", "-c", f'env > {run}; exec "$@"', "sh", *service("plain")]
    with running(sidecar, command=command) as wrapper:
        wanted = {"GF_SMTP_PASSWORD=sesame", "GF_SMTP_ENABLED=true"}
        wrapper.wait_until(lambda: wanted <= {*run.read_text().splitlines()})
        assert "sesame" not in (tmp_path / "site.ini").read_text()


class Direct:
    """A service handle without a network."""

    def __init__(self, grafana):
        self.grafana = grafana

    def request(self, method, path, json=None, headers=None):
        found = self.grafana.answer(Asked(method, path, headers, dumps(json) if json is not None else b""))
        status, body = found if isinstance(found, tuple) else (200, found)
        return Answer(status, {}, dumps(body).encode())


def put(grafana, points, policies):
    grafana.asked.clear()
    preset.put_alerting(preset.GrafanaApi(Direct(grafana), {}), points, policies)
    return [one for one in grafana.asked if not one.startswith("GET")]


def test_contact_points_and_policies_come_change_and_go_beside_those_by_hand():
    """Each step is one that Grafana allows: no policy without its point, no point gone that a policy leads to."""
    grafana = Grafana()
    grafana.points = {"hand": {**POINT, "uid": "hand", "name": "Hand"}}
    by_hand = {"receiver": "Hand", "object_matchers": [["a", "=", "b"]]}
    grafana.tree["routes"] = [by_hand]
    root = dict(grafana.tree)
    ours = {"receiver": "On call", "object_matchers": [["level", "=", "critical"]], "continue": True}

    put(grafana, [POINT], [ours])
    assert set(grafana.points) == {"hand", "site-mail"}
    assert grafana.tree == {**root, "routes": [ours, by_hand]}

    changed = {**POINT, "name": "Others", "settings": {"addresses": "c@b.example"}}
    put(grafana, [changed, {**POINT, "uid": "second"}], [{"receiver": "Others"}, ours])
    assert grafana.points["site-mail"] == {"disableResolveMessage": False, **changed, "uid": "site-mail"}
    assert grafana.tree["routes"] == [{"receiver": "Others"}, ours, by_hand]

    assert put(grafana, [], []) == ["PUT /api/v1/provisioning/policies", *sorted(
        f"DELETE /api/v1/provisioning/contact-points/site-{uid}" for uid in ("mail", "second"))]
    assert (set(grafana.points), grafana.tree) == ({"hand"}, root)
    assert put(grafana, [], []) == []


@pytest.mark.parametrize(("points", "policies", "reason"), [
    ([{"name": "A"}], [], "contact point A: 'uid' is missing"), ([], [{}], "policy : 'receiver' is missing"),
    ([POINT], [{"receiver": "Hand"}], "policy: 'Hand' is no contact point of the site configuration")])
def test_a_fault_in_the_alerting_changes_nothing(points, policies, reason):
    """A policy that led to a person's contact point could not be told from theirs afterwards."""
    grafana = Grafana()
    with pytest.raises(ValueError, match=reason):
        put(grafana, points, policies)
    assert grafana.asked == []


def test_a_contact_point_that_grafana_cannot_read_is_a_problem():
    with pytest.raises(preset.GrafanaRefused, match="400 to POST .*invalid object specification"):
        put(Grafana(), [{"uid": "a", "name": "A"}], [])


def test_a_grafana_without_its_own_alerting_is_not_asked_for_it():
    """Where it is switched off these paths are 404."""
    preset.put_alerting(preset.GrafanaApi(Refusing(404), {}), [], [])
    with pytest.raises(preset.GrafanaRefused, match="404 to GET"):
        preset.put_alerting(preset.GrafanaApi(Refusing(404), {}), [POINT], [])


def test_the_overview_asks_prometheus_for_what_fires():
    board = preset.overview("P")
    assert [panel["datasource"] for panel in board["panels"]] == ["P", "P"]
    assert [panel["targets"][0]["expr"] for panel in board["panels"]] == [
        f'sum by (service_name) (ALERTS{{alertstate="firing",level="{level}"}})' for level in ("critical", "warning")]


class Refusing:
    """A Grafana that answers everything with one status."""

    def __init__(self, status):
        self.status = status

    def request(self, method, path, **_):
        return Answer(self.status, {}, b"[]")


def test_only_a_data_source_need_not_be_there():
    """An API that is served from elsewhere answers 404 to everything: that is no success."""
    api = preset.GrafanaApi(Refusing(404), {})
    with pytest.raises(preset.GrafanaRefused, match="404 to POST /api/datasources"):
        preset.put_datasources(api, [{"name": "P"}])
    with pytest.raises(preset.GrafanaRefused, match="404 to GET /api/search"):
        preset.put_dashboards(api, [])


def test_a_dashboard_without_a_uid_is_named():
    with pytest.raises(ValueError, match="dashboard Overview: 'uid' is missing"):
        preset.put_dashboards(preset.GrafanaApi(Refusing(200), {}), [{"title": "Overview"}])


@pytest.mark.parametrize(("status", "counts"), [(503, True), (400, False)])
def test_only_what_may_pass_is_tried_again(tmp_path, status, counts):
    site = tmp_path / "site.json"
    site.write_text(json.dumps({"dashboards": [{"uid": "a", "title": "A"}]}))
    sidecar = preset.build({"SITE_CONFIGURATION": str(site), "SITE_INTERVAL": "20ms",
                            "GRAFANA_PRISTINE": str(site), "GRAFANA_SETTINGS": str(tmp_path / "site.ini")})
    asked = []

    def answer(one):
        if one.path == "/api/dashboards/db":
            asked.append(one)
        return (status, "no") if one.path.startswith("/api") else "ready"

    with running(sidecar, service=FakeService(answer)) as wrapper:
        wrapper.wait_until(lambda: f"Grafana answers {status}" in str(wrapper.problems()))
        if counts:
            wrapper.wait_until(lambda: len(asked) > 1)
        else:
            assert "retry" not in str(wrapper.problems())
