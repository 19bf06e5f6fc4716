"""A sidecar for Prometheus, with Alertmanager beside it: rules, receivers and silences from one site configuration.

    FROM prom/prometheus
    ...
    ENV SITE_CONFIGURATION=http://frontend/.internal/configuration
    python3 -m wrapper --sidecar wrapper.presets.prometheus --ready-path /-/ready -- \\
        prometheus --config.file=/etc/prometheus/prometheus.yml --web.listen-address=:{port} --web.enable-lifecycle

The document is JSON; every part may be missing:

    {"rules":     [{"name": "group", "rules": [{"alert": "Down", "expr": "up == 0", "labels": {"severity": "page"}}]}],
     "notifiers": [{"severity": "page", "type": "email", "to": "on-call@example.org"},
                   {"type": "webhook", "url": "http://..."}],                also slack (url), pagerduty (key)
     "smtp":      {"host": "mail:587", "from": "prometheus@example.org", "username": "...", "password": "..."},
     "silences":  ["Down", {"alertname": "Slow", "job": "api"}]}

prometheus.yml names the rule file, and Alertmanager at the exposed port with `path_prefix: /alertmanager`.

| variable | default | meaning |
|---|---|---|
| SITE_CONFIGURATION | required | URL or path of the document |
| SITE_TOKEN_FILE | none | a file with the bearer token for it |
| SITE_INTERVAL | 5s | between two looks |
| PROMETHEUS_RULES | /etc/prometheus/rules/site.yml | the rule file that this sidecar alone writes |
| ALERTMANAGER_CONFIG | /etc/alertmanager/alertmanager.yml | the same for Alertmanager |
| ALERTMANAGER_COMMAND | alertmanager | its program and further options; empty: no Alertmanager |
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from wrapper import Problem, ServiceHandle, Sidecar

OWNER = "wrapper"  # the author of our silences; all others are left alone
ROUTE = "/alertmanager"
SILENCE_DAYS = 3650  # Alertmanager knows no silence without an end; ours end when the site says so
RECONCILE_INTERVAL = 60.0  # seconds between two looks whether our silences are still there
UNROUTED = "nobody"  # the receiver of alerts that no notifier asks for

Matchers = frozenset[tuple[str, str]]


def rule_file(rules: list[Any]) -> str:
    """The site's groups as a rule file."""
    return yaml({"groups": rules})


def yaml(document: Any) -> str:
    """JSON is YAML but for characters beyond U+FFFF: its two escapes for one of them (RFC 8259 section 7) are none."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def alertmanager_file(site: Mapping[str, Any]) -> str:
    """Receivers and routes for the site's notifiers, in their order. Raises: ValueError."""
    receivers, routes = [{"name": UNROUTED}], []
    for number, notifier in enumerate(site.get("notifiers") or []):
        name = f"{number}-{notifier.get('type')}"
        receivers.append({"name": name, **receiver(notifier, site.get("smtp") or {})})
        severity = notifier.get("severity")
        routes.append({"receiver": name, "continue": True,
                       **({"matchers": [f"severity={json.dumps(severity, ensure_ascii=False)}"]} if severity else {})})
    route = {"receiver": UNROUTED, "group_by": ["alertname"], "routes": routes}
    return yaml({"route": route, "receivers": receivers})


def receiver(notifier: Mapping[str, Any], smtp: Mapping[str, Any]) -> dict[str, Any]:
    """One notifier in Alertmanager's words. Raises: ValueError that names what is missing."""
    kind = notifier.get("type")
    if kind == "email":
        mail = {"to": needed(notifier, "to", "notifier"), "from": needed(smtp, "from", "smtp"),
                "smarthost": needed(smtp, "host", "smtp"), "auth_username": smtp.get("username"),
                "auth_password": smtp.get("password"), "require_tls": smtp.get("tls")}
        return {"email_configs": [{name: value for name, value in mail.items() if value is not None}]}
    if kind == "webhook":
        return {"webhook_configs": [{"url": needed(notifier, "url", "notifier")}]}
    if kind == "slack":
        return {"slack_configs": [{"api_url": needed(notifier, "url", "notifier")}]}
    if kind == "pagerduty":
        return {"pagerduty_configs": [{"routing_key": needed(notifier, "key", "notifier")}]}
    raise ValueError(f"no such type of notifier: {kind!r}; there are email, webhook, slack and pagerduty")


def needed(part: Mapping[str, Any], name: str, where: str) -> Any:
    if not part.get(name):
        raise ValueError(f"{where}: {name!r} is missing")
    return part[name]


def matchers(wanted: str | Mapping[str, str]) -> Matchers:
    """A silence by the labels it matches; a name alone is the name of an alert. Raises: ValueError."""
    if not isinstance(wanted, (str, dict)):
        raise ValueError("a silence is the name of an alert, or an object of labels")  # noqa: TRY004  as `needed`
    labels = {"alertname": wanted} if isinstance(wanted, str) else wanted
    return frozenset((str(name), str(value)) for name, value in labels.items())


def reconcile(alertmanager: ServiceHandle, silences: Any) -> list[Problem]:
    """Make our silences those of the site: create what is missing, expire what is not wanted any more."""
    if not isinstance(silences, list):
        return [Problem("silences: there must be a list of them")]
    try:
        wanted = {matchers(one) for one in silences}
    except ValueError as error:
        return [Problem(str(error))]
    try:
        listed = alertmanager.request("GET", f"{ROUTE}/api/v2/silences")
        if not listed.ok:
            return [Problem(f"Alertmanager answers {listed.status} to who asks for its silences", retry=True)]
        present = our_silences(listed.json())
        answers = [alertmanager.request("POST", f"{ROUTE}/api/v2/silences", json=silence(one))
                   for one in sorted(wanted - present.keys(), key=sorted)]
        answers += [alertmanager.request("DELETE", f"{ROUTE}/api/v2/silence/{identity}")
                    for one, identities in present.items()
                    for identity in (identities if one not in wanted else identities[1:])]
    except (OSError, ValueError) as error:
        return [Problem(f"cannot ask Alertmanager for its silences: {type(error).__name__}", retry=True)]
    return [problem(answer) for answer in answers if not answer.ok]


def problem(answer: Any) -> Problem:
    """What Alertmanager says of a silence that it cannot read stays true; what it has trouble with may pass."""
    trouble: dict[str, Any] = {"retry": True} if answer.status >= 500 else {}
    return Problem(f"Alertmanager answers {answer.status} to a silence: {answer.text[:200]}", **trouble)


def our_silences(silences: list[Any]) -> dict[Matchers, list[str]]:
    """The ids of those that are ours and in force, by what they match."""
    found: dict[Matchers, list[str]] = {}
    for one in silences:
        if one["createdBy"] == OWNER and one["status"]["state"] != "expired":
            labels = frozenset((matcher["name"], matcher["value"]) for matcher in one["matchers"])
            found.setdefault(labels, []).append(one["id"])
    return found


def silence(labels: Matchers) -> dict[str, Any]:
    now = datetime.now(timezone.utc)
    return {"matchers": [{"name": name, "value": value, "isRegex": False, "isEqual": True}
                         for name, value in sorted(labels)],
            "startsAt": now.isoformat(), "endsAt": (now + timedelta(days=SILENCE_DAYS)).isoformat(),
            "createdBy": OWNER, "comment": "from the site configuration; removed there, it ends here"}


def build(environment: Mapping[str, str]) -> Sidecar:
    """The sidecar for the variables above."""
    sidecar = Sidecar("prometheus")
    source = environment.get("SITE_CONFIGURATION")
    if not source:
        sidecar.problem("SITE_CONFIGURATION is missing: the URL or path of the site configuration")
        return sidecar
    options: dict[str, Any] = {"every": environment.get("SITE_INTERVAL", "5s"),
                               "token_file": environment.get("SITE_TOKEN_FILE")}
    add_rules(sidecar, source, environment.get("PROMETHEUS_RULES", "/etc/prometheus/rules/site.yml"), options)
    command = environment.get("ALERTMANAGER_COMMAND", "alertmanager")
    if command:
        file = environment.get("ALERTMANAGER_CONFIG", "/etc/alertmanager/alertmanager.yml")
        add_alertmanager(sidecar, source, shlex.split(command), file, options)
    return sidecar


def add_rules(sidecar: Sidecar, source: str, file: str, options: dict[str, Any]) -> None:
    @sidecar.watch(source, name="rules", select=lambda site: site.get("rules") or [], **options)
    def on_rules(rules: list[Any], service: ServiceHandle) -> list[Problem]:
        return service.apply({file: rule_file(rules)}, check=["promtool", "check", "rules", "{file}"],
                             action="POST /-/reload")


def put_first_file(file: str) -> None:
    """Alertmanager does not start without one. Raises: OSError."""
    os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
    try:
        first = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)  # it will hold the password of the mail
    except FileExistsError:
        return
    with open(first, "w", encoding="utf-8") as content:
        content.write(alertmanager_file({}))


def add_alertmanager(sidecar: Sidecar, source: str, command: list[str], file: str, options: dict[str, Any]) -> None:
    try:
        put_first_file(file)
    except OSError as error:
        sidecar.problem(f"Alertmanager is not started: cannot write {file}: {error.strerror}", "alertmanager")
        return
    alertmanager = sidecar.service(
        "alertmanager", [*command, f"--config.file={file}", "--web.listen-address=127.0.0.1:{port}",
                         f"--web.route-prefix={ROUTE}", "--cluster.listen-address="],
        route=ROUTE, ready_path=f"{ROUTE}/-/ready")

    @sidecar.watch(source, name="notifiers", select=lambda site: {"notifiers": site.get("notifiers") or [],
                                                                  "smtp": site.get("smtp") or {}}, **options)
    def on_notifiers(site: dict[str, Any]) -> list[Problem]:
        try:
            content = alertmanager_file(site)
        except ValueError as error:
            return [Problem(str(error))]
        return alertmanager.apply({file: content}, check=["amtool", "check-config", "{file}"],
                                  action=f"POST {ROUTE}/-/reload")

    wanted: list[list[Any]] = []  # the latest, once there is one

    @sidecar.watch(source, name="silences", select=lambda site: site.get("silences") or [], **options)
    def on_silences(silences: list[Any]) -> list[Problem]:
        wanted[:] = [silences]
        if not alertmanager.wait_ready(30):
            return [Problem("Alertmanager is not ready", retry=True)]
        return reconcile(alertmanager, silences)

    @sidecar.task
    def keep_silences(_: ServiceHandle, stopping: Any) -> None:
        """Alertmanager forgets them where its data folder is lost, and people remove them by hand."""
        while not stopping.wait(RECONCILE_INTERVAL):
            if alertmanager.is_ready and wanted:
                reconcile(alertmanager, wanted[0])


sidecar = build(os.environ)
