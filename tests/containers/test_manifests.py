"""The README's files for orchestrators are what these accept: their schemas, and promtool, say so."""

from __future__ import annotations

import importlib.resources
import json
import os
import pathlib
import re
import subprocess

import pytest

from tests.containers.engine import ROOT
from tests.containers.manifests import COMPOSE, KUBERNETES, OPERATOR, SWARM, documents
from wrapper.settings import settings

pytestmark = pytest.mark.container

OPERATORS = "6"  # of @kubernetes-models/prometheus-operator, which has the operator's schemas
CHECK = """
import * as models from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
for (const each of JSON.parse(process.argv[2])) new models[each.kind](each).validate();
"""
DASHBOARD = json.loads((ROOT / "wrapper/presets/dashboard.json").read_text())
PODS = '{job="p", instance="a"}', '{job="p", instance="b"}'
# What an alert is seen to follow, minute by minute: its series, and whether it fires after 20 of them.
SERIES = [
    ("ServiceNotReady", {'wrapper_service_ready{service="service"}': "1 0x30"}, True),
    ("ServiceNotReady", {'wrapper_service_ready{service="service"}': "1x19 0x10"}, False),
    ("ServiceCrashes", {'wrapper_service_restarts_total{service="service",reason="exit"}': "0x10 1+1x20"}, True),
    ("ServiceCrashes", {'wrapper_service_restarts_total{service="service",reason="planned"}': "0x10 1+1x20"}, False),
    ("ServiceErrors", {'wrapper_requests_total{job="p",to="service",code="2xx"}': "0+90x30",
                       'wrapper_requests_total{job="p",to="service",code="5xx"}': "0+10x30"}, True),
    ("ServiceErrors", {'wrapper_requests_total{job="p",to="service",code="2xx"}': "0+99x30",
                       'wrapper_requests_total{job="p",to="service",code="5xx"}': "0+1x30"}, False),
    ("RequestsHeld", {"wrapper_requests_held": "3x30"}, True),
    ("RequestsHeld", {"wrapper_requests_held": "3x19 0x10"}, False),
    ("ConfigStale", {"wrapper_config_stale": "0 1x30"}, True),
    ("ConfigFails", {"wrapper_config_failures_total": "0x10 1x20", "wrapper_config_stale": "0x30"}, True),
    ("ConfigFails", {"wrapper_config_failures_total": "0x10 1x20", "wrapper_config_stale": "1x30"}, False),
    ("ConfigDiffers", {f"wrapper_config_hash{pod}": f"{value}x30" for pod, value in zip(PODS, "12")}, True),
    ("ConfigDiffers", {f"wrapper_config_hash{pod}": f"{value}x30" for pod, value in zip(PODS, "22")}, False),
    ("Problems", {"wrapper_problems": "2x30"}, True),
]


@pytest.mark.parametrize("kind", re.findall(r"^kind: (\w+)$", KUBERNETES, re.MULTILINE))
def test_a_manifest_is_what_kubernetes_accepts(kind):
    """Strictly: a field that Kubernetes does not know would be dropped in silence."""
    import kubernetes_validate

    kubernetes_validate.validate(manifest(kind), kubernetes_validate.latest_version(), strict=True)


def manifest(kind):
    return next(each for each in documents(KUBERNETES) if each["kind"] == kind)


def test_the_pods_are_restricted_and_end_within_their_grace_period():
    """Kubernetes' Pod Security Standards, "restricted"; SIGKILL comes at the end of the grace period."""
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    variables = {each["name"]: each["value"] for each in container["env"]}
    chosen = settings.read(["--upstream", "127.0.0.1:1", "serve"], variables)
    stop = 6 if chosen.stop_timeout is None else chosen.stop_timeout
    assert chosen.shutdown_delay > 0
    assert chosen.shutdown_delay + chosen.drain_timeout + stop < pod["terminationGracePeriodSeconds"]


def test_the_operators_objects_are_what_it_accepts():
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "wrapper-operator"
    folder.mkdir(parents=True, exist_ok=True)
    package = f"@kubernetes-models/prometheus-operator@{OPERATORS}"
    if not (folder / "node_modules").exists():
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", package], cwd=folder, check=True, timeout=300)
    (folder / "check.mjs").write_text(CHECK)
    words = ["node", "check.mjs", json.dumps(documents(OPERATOR))]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", [COMPOSE, SWARM], ids=["Compose", "Swarm"])
def test_a_file_is_what_the_compose_specification_accepts(file):
    import jsonschema

    schema = json.loads((importlib.resources.files("compose") / "config/compose_spec.json").read_text())
    jsonschema.Draft201909Validator(schema).validate(documents(file)[0])


def promtool(tmp_path, verb, **files):
    for name, content in files.items():
        (tmp_path / f"{name}.yml").write_text(json.dumps(content))
    done = subprocess.run(["promtool", verb, "rules", next(iter(files)) + ".yml"], cwd=tmp_path, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_of_the_dashboard_is_one(tmp_path):
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    queries = [re.sub(r"\$(job|instance)", ".*", query).replace("$__rate_interval", "5m") for query in found]
    assert len(queries) > 10
    assert not re.search(r"\$", "".join(queries))
    records = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    promtool(tmp_path, "check", rules={"groups": [{"name": "queries", "rules": records}]})


def rules():
    return {rule["alert"]: rule for rule in documents(OPERATOR)[1]["spec"]["groups"][0]["rules"]}


def test_all_alerts_are_tried():
    assert {name for name, _, fires in SERIES if fires} == set(rules())


@pytest.mark.parametrize(("name", "series", "fires"), SERIES)
def test_an_alert_follows_what_it_is_about(name, series, fires, tmp_path):
    inputs = [{"series": key, "values": values} for key, values in series.items()]
    query = {"expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})', "eval_time": "20m",
             "exp_samples": [{"labels": "{}", "value": 1}] if fires else []}
    case = {"interval": "1m", "input_series": inputs, "promql_expr_test": [query]}
    promtool(tmp_path, "test", case={"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [case]},
             rules={"groups": [{"name": "rules", "rules": [rules()[name]]}]})
