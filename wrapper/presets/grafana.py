"""A sidecar for Grafana: data sources, dashboards and alerting through its API, settings through its INI file.

    FROM grafana/grafana
    ...
    ENV SITE_CONFIGURATION=http://frontend/.internal/configuration
    RUN cp /etc/grafana/grafana.ini /etc/grafana/site.ini          # what the very first start finds
    python3 -m wrapper --sidecar wrapper.presets.grafana --upstream 127.0.0.1:3000 --ready-path /api/health -- \\
        /run.sh --config=/etc/grafana/site.ini

The document is JSON; every part may be missing:

    {"datasources": [{"name": "Prometheus", "type": "prometheus", "url": "http://prometheus:9090", "access": "proxy"}],
     "dashboards": [{"uid": "overview", "title": "Overview", "panels": []}],
     "overview": "Prometheus",                 a board of the alerts that fire, from the data source of this name
     "contact_points": [{"uid": "mail", "name": "On call", "type": "email", "settings": {"addresses": "a@b.example"}}],
     "policies": [{"receiver": "On call", "object_matchers": [["level", "=", "critical"]], "continue": true}],
     "smtp": {"host": "mail:587", "from": "grafana@example.org", "username": "...", "password": "...", "tls": true},
     "settings": {"security": {"cookie_secure": true}}}

What people made by hand is left alone: data sources of other names, dashboards without our tag, contact points whose
uid does not begin with `site-`, and notification policies that lead to these. Policies of the site stand before them.
The mail server becomes variables of Grafana's next run, so that its password is in no file. The API is that of Grafana
11, contact points and policies by its alerting provisioning.

| variable | default | meaning |
|---|---|---|
| SITE_CONFIGURATION, SITE_TOKEN_FILE, SITE_INTERVAL | | see `wrapper.presets` |
| GRAFANA_PRISTINE | /etc/grafana/grafana.ini | the settings that come with the image; only read |
| GRAFANA_SETTINGS | /etc/grafana/site.ini | those plus the site's; this sidecar alone writes it |
| GRAFANA_USER, GRAFANA_PASSWORD_FILE | admin, none | who asks the API; without a file the password is `admin` |
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from wrapper import Problem, ServiceHandle, Sidecar
from wrapper.presets import Watch, api_problem, watcher

TAG = "site-configuration"  # on our dashboards; those without it are left alone
OWN = "site-"  # how the uids of our contact points begin
POINTS, POLICIES = "/api/v1/provisioning/contact-points", "/api/v1/provisioning/policies"
MAIL = {"from": "from_address", "username": "user", "hello": "ehlo_identity", "tls": "starttls_policy"}
READY_TIMEOUT = 60.0  # seconds a change waits for Grafana to be ready


class GrafanaApi:
    """Grafana's HTTP API, asked as one user."""

    def __init__(self, service: ServiceHandle, environment: Mapping[str, str]) -> None:
        self._service = service
        self._environment = environment

    def ask(self, method: str, path: str, json: Any = None) -> Any:
        """The response as JSON; None where its body is empty. Raises: GrafanaRefused."""
        # Without provenance people can go on changing the one tree of policies, in which theirs stand too.
        headers = {"Authorization": self._authorization(), "X-Disable-Provenance": "true"}
        answer = self._service.request(method, path, json=json, headers=headers)
        if not answer.ok:
            raise GrafanaRefused(f"Grafana answers {answer.status} to {method} {path}: {answer.text[:200]}",
                                 answer.status)
        return answer.json() if answer.body else None

    def find(self, path: str) -> Any:
        """What GET answers, as JSON; None where that is a 404. Raises: GrafanaRefused."""
        try:
            return self.ask("GET", path)
        except GrafanaRefused as error:
            if error.status == 404:
                return None
            raise

    def _authorization(self) -> str:
        password, file = "admin", self._environment.get("GRAFANA_PASSWORD_FILE")
        if file:
            with open(file, encoding="utf-8") as content:
                password = content.read().strip()
        pair = f"{self._environment.get('GRAFANA_USER') or 'admin'}:{password}"
        return "Basic " + base64.b64encode(pair.encode()).decode()


class GrafanaRefused(Exception):
    """Grafana does not do what it was asked to; `status` says whose fault that is."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def put_datasources(api: GrafanaApi, datasources: list[dict[str, Any]]) -> None:
    """Create those that are missing, and bring those of the same name to what is wanted."""
    for wanted in datasources:
        present = api.find(f"/api/datasources/name/{quote(needed(wanted, 'name', 'data source'), safe='')}")
        if present is None:
            api.ask("POST", "/api/datasources", wanted)
        elif any(present.get(key) != value for key, value in wanted.items()):
            api.ask("PUT", f"/api/datasources/uid/{present['uid']}", {**present, **wanted})


def put_dashboards(api: GrafanaApi, dashboards: list[dict[str, Any]]) -> None:
    """Make our dashboards those of the site. Raises: ValueError for one without a uid, by which we know it again."""
    wanted = {needed(one, "uid", "dashboard") for one in dashboards}
    for one in dashboards:
        tagged = {**one, "id": None, "tags": sorted({*one.get("tags", []), TAG})}
        api.ask("POST", "/api/dashboards/db", {"dashboard": tagged, "overwrite": True, "message": "site configuration"})
    for found in api.ask("GET", f"/api/search?type=dash-db&tag={TAG}"):
        if found["uid"] not in wanted:
            api.ask("DELETE", f"/api/dashboards/uid/{found['uid']}")


def overview(datasource: str) -> dict[str, Any]:
    """The board of the alerts that fire, by level and service."""
    panels = [{"id": number, "title": f"{level.capitalize()} alerts by service", "type": "timeseries",
               "datasource": datasource, "gridPos": {"x": 12 * number, "y": 0, "w": 12, "h": 9},
               "targets": [{"refId": "A", "legendFormat": "{{service_name}}", "expr": (
                   f'sum by (service_name) (ALERTS{{alertstate="firing",level="{level}"}})')}]}
              for number, level in enumerate(("critical", "warning"))]
    return {"uid": f"{OWN}overview", "title": "Alerts", "schemaVersion": 16, "refresh": "30s", "panels": panels}


def put_alerting(api: GrafanaApi, points: list[dict[str, Any]], policies: list[dict[str, Any]]) -> None:
    """Make our contact points and notification policies those of the site.

    In this order: a policy leads to a point that is there, and a point goes that no policy leads to (else 4xx).
    Raises: ValueError for a point without a uid, and for a policy that leads to none of the site's.
    """
    wanted = {OWN + needed(one, "uid", "contact point"): one for one in points}
    names = {needed(one, "name", "contact point") for one in points}
    for policy in policies:
        if needed(policy, "receiver", "policy") not in names:
            raise ValueError(f"policy: {policy['receiver']!r} is no contact point of the site configuration")
    listed = api.ask("GET", POINTS) if points else api.find(POINTS) or []
    present = {one["uid"]: one["name"] for one in listed if one["uid"].startswith(OWN)}
    for uid, one in wanted.items():
        if uid in present:
            api.ask("PUT", f"{POINTS}/{uid}", {**one, "uid": uid})
        else:
            api.ask("POST", POINTS, {**one, "uid": uid})
    if names or present:
        put_policies(api, policies, names.union(present.values()))
    for uid in sorted(present.keys() - wanted.keys()):
        api.ask("DELETE", f"{POINTS}/{uid}")


def put_policies(api: GrafanaApi, policies: list[dict[str, Any]], ours: set[str]) -> None:
    """Grafana has one tree of policies; ours are the branches that lead to our contact points."""
    tree = api.ask("GET", POLICIES)
    present = tree.get("routes", [])
    routes = [*policies, *(route for route in present if route.get("receiver") not in ours)]
    if routes != present:
        api.ask("PUT", POLICIES, {**tree, "routes": routes})


def needed(part: Mapping[str, Any], name: str, what: str) -> str:
    """Raises: ValueError that names what is missing."""
    if not part.get(name):
        raise ValueError(f"{what} {part.get('title') or part.get('name') or ''}: {name!r} is missing")
    return str(part[name])


def ini_file(pristine: str, settings: Mapping[str, Mapping[str, Any]]) -> str:
    """The image's settings, and behind them the site's: of two values Grafana takes the later one.

    Raises: ValueError for what would not be one line of it.
    """
    lines = [pristine.rstrip("\n"), "", "# From the site configuration."]
    for section, values in settings.items():
        lines.append(f"[{one_line(section)}]")
        lines += [f"{one_line(name)} = {one_line(ini_value(value))}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def ini_value(value: Any) -> str:
    """A value as Grafana's reader takes it whole: `#` and `;` begin a comment, quotes go (gopkg.in/ini.v1)."""
    text = value if isinstance(value, str) else json.dumps(value)
    is_plain = text == text.strip() and not set(text) & set("#;\"'`\\")
    return text if is_plain else f'"""{text}"""'  # it ends with the last three quotes, whatever stands before them


def one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"a setting must be one line: {text[:20]!r}")
    return text


def smtp_variables(smtp: Mapping[str, Any]) -> dict[str, Any]:
    """The mail server in the variables that Grafana puts over its files, each key by the name it has there."""
    if not smtp:
        return {}
    named = {f"GF_SMTP_{MAIL.get(key, key)}".upper(): value for key, value in smtp.items()}
    if "tls" in smtp:
        named["GF_SMTP_STARTTLS_POLICY"] = "MandatoryStartTLS" if smtp["tls"] else "NoStartTLS"
    return {"GF_SMTP_ENABLED": True, **named}


def build(environment: Mapping[str, str]) -> Sidecar:
    """The sidecar for the variables above."""
    sidecar = Sidecar("grafana")
    watch = watcher(sidecar, environment)
    add_api(watch, environment)
    add_settings(watch, environment)
    return sidecar


def add_api(watch: Watch, environment: Mapping[str, str]) -> None:
    def reconcile(service: ServiceHandle, action: Any) -> list[Problem]:
        if not service.wait_ready(READY_TIMEOUT):
            return [Problem("Grafana is not ready", retry=True)]
        try:
            action(GrafanaApi(service, environment))
        except GrafanaRefused as error:
            return [api_problem(str(error), error.status)]
        except ValueError as error:
            return [Problem(str(error))]
        except OSError as error:
            return [Problem(f"cannot ask Grafana: {error}", retry=True)]
        return []

    @watch("datasources", lambda site: site.get("datasources") or [])
    def on_datasources(datasources: list[Any], service: ServiceHandle) -> list[Problem]:
        return reconcile(service, lambda api: put_datasources(api, datasources))

    @watch("dashboards", lambda site: [*(site.get("dashboards") or []),
                                       *([overview(site["overview"])] if site.get("overview") else [])])
    def on_dashboards(dashboards: list[Any], service: ServiceHandle) -> list[Problem]:
        return reconcile(service, lambda api: put_dashboards(api, dashboards))

    @watch("alerting", lambda site: [site.get("contact_points") or [], site.get("policies") or []])
    def on_alerting(parts: list[Any], service: ServiceHandle) -> list[Problem]:
        return reconcile(service, lambda api: put_alerting(api, *parts))


def add_settings(watch: Watch, environment: Mapping[str, str]) -> None:
    pristine = environment.get("GRAFANA_PRISTINE") or "/etc/grafana/grafana.ini"
    file = environment.get("GRAFANA_SETTINGS") or "/etc/grafana/site.ini"

    @watch("settings", lambda site: [site.get("settings") or {}, site.get("smtp") or {}], min_interval="10s")
    def on_settings(parts: list[dict[str, Any]], service: ServiceHandle) -> list[Problem]:
        settings, smtp = parts
        try:
            with open(pristine, encoding="utf-8") as image:
                text = ini_file(image.read(), settings)
        except OSError as error:
            return [Problem(f"cannot read {pristine}: {error.strerror}", retry=True)]
        except ValueError as error:
            return [Problem(str(error))]
        return service.apply({file: text}, action="restart", environment=smtp_variables(smtp))


sidecar = build(os.environ)
