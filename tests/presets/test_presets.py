"""presets/__init__.py: where the site configuration is, and that it can be switched off."""

from __future__ import annotations

import os

import pytest

from wrapper import Sidecar
from wrapper.presets import grafana, prometheus, watcher
from wrapper.testing import running


@pytest.mark.parametrize(("source", "problem"), [("off", ""), ("", "SITE_CONFIGURATION is missing")])
def test_without_a_document_nothing_is_watched(source, problem):
    """`off` is meant so; a variable that is missing may have been forgotten."""
    sidecar = Sidecar("mine")
    found = watcher(sidecar, {"SITE_CONFIGURATION": source})("part", lambda site: site["part"])(print)
    assert found is print
    with running(sidecar) as wrapper:
        assert wrapper.get("/sidecar/api/config").json() == []
        assert problem in str(wrapper.problems())
        assert bool(wrapper.problems()) == bool(problem)


def test_a_variable_that_is_empty_is_none(tmp_path, monkeypatch):
    """As of WRAPPER_*: Compose's `SITE_INTERVAL: ${SITE_INTERVAL:-}` kept the whole sidecar from being loaded."""
    site, files = tmp_path / "site.json", []
    site.write_text('{"part": 7}')
    os.utime(site, (1, 1))
    monkeypatch.setattr(prometheus, "put_first_file", files.append)
    empty = dict.fromkeys(("SITE_INTERVAL", "SITE_TOKEN_FILE", "ALERTMANAGER_CONFIG", "PROMETHEUS_RULES",
                           "GRAFANA_USER", "GRAFANA_PRISTINE", "GRAFANA_SETTINGS"), "")
    environment = {**empty, "SITE_CONFIGURATION": str(site)}
    prometheus.build(environment)
    grafana.build(environment)
    assert files == ["/etc/alertmanager/alertmanager.yml"]
    sidecar, seen = Sidecar("mine"), []
    watcher(sidecar, environment)("part", lambda document: document["part"])(seen.append)
    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: seen == [7])


def test_a_part_is_watched_at_its_own_pace(tmp_path):
    site, token = tmp_path / "site.json", tmp_path / "token"
    site.write_text('{"part": 7}')
    token.write_text("sesame")
    sidecar, seen = Sidecar("mine"), []
    watch = watcher(sidecar, {"SITE_CONFIGURATION": str(site), "SITE_INTERVAL": "20ms", "SITE_TOKEN_FILE": str(token)})
    watch("part", lambda document: document["part"], min_interval="0s")(seen.append)
    with running(sidecar) as wrapper:
        wrapper.wait_until(lambda: seen == [7])
        site.write_text('{"part": 8}')
        wrapper.wait_until(lambda: seen == [7, 8])
