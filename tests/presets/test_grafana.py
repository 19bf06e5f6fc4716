"""presets/grafana.py against a little Grafana: data sources, dashboards, settings."""

from __future__ import annotations

import json

import pytest

from wrapper.presets import grafana as preset
from wrapper.sidecar.handle import Answer
from wrapper.testing import FakeService, running


class Grafana:
    """As much of Grafana's API as the preset asks."""

    def __init__(self):
        self.datasources = {"Hand": {"name": "Hand", "uid": "h"}}
        self.dashboards = {"old": {"uid": "old", "tags": [preset.TAG]}, "hand": {"uid": "hand", "tags": []}}

    def answer(self, asked):
        path, body = asked.path, json.loads(asked.body) if asked.body else None
        if path == "/":
            return "ready"
        assert asked.headers["Authorization"] == "Basic YWRtaW46YWRtaW4="
        if path.startswith("/api/datasources/name/"):
            return self.datasources.get(path.rpartition("/")[2]) or (404, "none")
        if path.startswith("/api/datasources"):
            self.datasources[body["name"]] = {"uid": "new", **body}
        elif path == "/api/dashboards/db":
            self.dashboards[body["dashboard"]["uid"]] = body["dashboard"]
        elif asked.method == "DELETE":
            del self.dashboards[path.rpartition("/")[2]]
        elif path.startswith("/api/search"):
            return [one for one in self.dashboards.values() if preset.TAG in one["tags"]]
        return {}


def results(wrapper):
    return {one["last_result"] for one in wrapper.get("/sidecar/api/config").json()}


def test_the_site_is_brought_into_grafana(tmp_path):
    grafana, site = Grafana(), tmp_path / "site.json"
    pristine, settings = tmp_path / "grafana.ini", tmp_path / "site.ini"
    pristine.write_text("app_mode = production\n[smtp]\nenabled = false\n")
    site.write_text(json.dumps({"datasources": [{"name": "P", "type": "prometheus", "url": "http://p"}],
                                "dashboards": [{"uid": "new", "title": "New", "tags": ["mine"]}],
                                "settings": {"smtp": {"enabled": True, "host": "mail:587"}}}))
    sidecar = preset.build({"SITE_CONFIGURATION": str(site), "SITE_INTERVAL": "50ms", "GRAFANA_PRISTINE": str(pristine),
                            "GRAFANA_SETTINGS": str(settings)})
    service = FakeService(grafana.answer)
    with running(sidecar, service=service) as wrapper:
        wrapper.wait_until(lambda: set(grafana.dashboards) == {"new", "hand"} and "P" in grafana.datasources)
        assert set(grafana.datasources) == {"Hand", "P"}
        assert grafana.dashboards["new"]["tags"] == ["mine", preset.TAG]
        wrapper.wait_until(lambda: service.starts == 2)
        wrapper.wait_until(lambda: results(wrapper) == {"applied"})
        assert wrapper.problems() == []
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


class Refusing:
    """A Grafana that answers everything with one status."""

    def __init__(self, status):
        self.status = status

    def request(self, method, path, **_):
        return Answer(self.status, {}, b"[]")


def test_only_a_data_source_need_not_be_there():
    """An API that is served from elsewhere answers 404 to everything: that is no success."""
    api = preset.Api(Refusing(404), {})
    with pytest.raises(preset.Refused, match="404 to POST /api/datasources"):
        preset.put_datasources(api, [{"name": "P"}])
    with pytest.raises(preset.Refused, match="404 to GET /api/search"):
        preset.put_dashboards(api, [])


def test_a_dashboard_without_a_uid_is_named():
    with pytest.raises(ValueError, match="dashboard Overview: 'uid' is missing"):
        preset.put_dashboards(preset.Api(Refusing(200), {}), [{"title": "Overview"}])


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
