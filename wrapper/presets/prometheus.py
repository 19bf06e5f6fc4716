"""A sidecar for Prometheus, with Alertmanager beside it: rules, receivers and silences from one site configuration.

    FROM prom/prometheus
    ...
    ENV SITE_CONFIGURATION=http://frontend/.internal/configuration
    python3 -m wrapper --sidecar wrapper.presets.prometheus --ready-path /-/ready -- \\
        prometheus --config.file=/etc/prometheus/prometheus.yml --web.listen-address=:{port} --web.enable-lifecycle

The document is JSON; every part may be missing:

    {"rules": [{"name": "group", "rules": [{"alert": "Down", "expr": "up == 0", "labels": {"level": "critical"}}]}],
     "notifiers": [
         {"type": "email", "level": "critical", "to": "on-call@example.org"},
         {"type": "slack", "owners": ["search", "web"], "url": "https://...", "channel": "#search"},
         {"type": "pagerduty", "key": "...", "config": {"severity": "error"}, "route": {"group_wait": "1s"}}],
     "smtp": {"host": "mail:587", "from": "prometheus@example.org", "hello": "example.org", "username": "...",
              "password": "...", "tls": true},                for CRAM-MD5 a `secret` in place of the password
     "alertmanager": {"route": {"group_by": ["alertname", "owner"]}, "templates": ["/etc/alertmanager/*.tmpl"]},
     "silences": ["Down", {"alertname=~": "Slow.*", "job": "api"}]}

A notifier gets the alerts whose labels `level` (or `severity`) and `owner` it names. `type` is that of Alertmanager's
`TYPE_configs`, and what else stands in a notifier is a key of these; one that is called like ours stands in `config`.
`route` holds keys of its route, and `alertmanager` those of the whole file. A silence is the name of an alert, or
labels with their values, where `=~`, `!=` and `!~` behind a label mean what they mean in PromQL. Silences of others are
left alone.

prometheus.yml names the rule file, and Alertmanager at the exposed port with `path_prefix: /alertmanager`. Open to all
clients are `/prom-wrapper/config-subscriber`, what is wrong with the configuration, and `/prom-wrapper/alerts-status`,
how many alerts fire.

| variable | default | meaning |
|---|---|---|
| SITE_CONFIGURATION, SITE_TOKEN_FILE, SITE_INTERVAL | | see `wrapper.presets` |
| SITE_EXTERNAL_URL | none | where people reach the exposed port; links in messages lead there |
| PROMETHEUS_RULES | /etc/prometheus/rules/site.yml | the rule file that this sidecar alone writes |
| ALERTMANAGER_CONFIG | /etc/alertmanager/alertmanager.yml | the same for Alertmanager |
| ALERTMANAGER_COMMAND | alertmanager | its program and further options; empty: no Alertmanager |
| ALERTMANAGER_CLUSTER | none | the address at which it listens to its peers, such as `0.0.0.0:9094` |
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from wrapper import Problem, ServiceHandle, Sidecar
from wrapper.presets import OFF, Watch, api_problem, watcher

OWNER = "wrapper"  # the author of our silences; all others are left alone
ROUTE = "/alertmanager"
STATUS = "/prom-wrapper"
SILENCE_DAYS = 3650  # Alertmanager knows no silence without an end; ours end when the site says so
RECONCILE_INTERVAL = 60.0  # seconds between two looks whether our silences are still there
UNROUTED = "nobody"  # the receiver of alerts that no notifier asks for
LEVELS = ("level", "severity")  # labels that say how bad an alert is
OURS = {"type", "owners", "route", "config", *LEVELS}  # keys of a notifier that are not Alertmanager's
SHORT = {("slack", "url"): "api_url", ("pagerduty", "key"): "routing_key", ("opsgenie", "key"): "api_key"}
MAIL = {"host": "smarthost", "username": "auth_username", "password": "auth_password", "secret": "auth_secret",
        "identity": "auth_identity", "tls": "require_tls"}
OPERATORS = {"=~": (True, True), "!~": (True, False), "!=": (False, False)}  # isRegex, isEqual
CONFIGURATION = ("config:prometheus", "source:prometheus", "sidecar:prometheus", "alertmanager")  # sources of problems

Part = tuple[dict[str, Any], dict[str, Any]]  # a receiver and its route
Matchers = frozenset[tuple[str, str, bool, bool]]  # name, value, isRegex, isEqual


# Files

def yaml(document: Any) -> str:
    """JSON is YAML but for characters beyond U+FFFF: its two escapes for one of them (RFC 8259 section 7) are none."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def alertmanager_file(base: Mapping[str, Any], parts: Sequence[Part]) -> str:
    """Alertmanager's file: the site's own keys, and in them receivers and routes in their order."""
    route = {"group_by": ["alertname"], **base.get("route", {}),
             "receiver": UNROUTED, "routes": [route for _, route in parts]}
    return yaml({**base, "route": route, "receivers": [{"name": UNROUTED}, *(receiver for receiver, _ in parts)]})


def part(name: str, notifier: Mapping[str, Any], smtp: Mapping[str, Any]) -> Part:
    """One notifier in Alertmanager's words; what is wrong with those Alertmanager says itself."""
    kind, route = notifier["type"], notifier.get("route", {})
    mail = {MAIL.get(key, key): value for key, value in smtp.items()} if kind == "email" else {}
    keys = {SHORT.get((kind, key), key): value for key, value in notifier.items() if key not in OURS}
    matchers = [f"{label}={quoted(notifier[label])}" for label in LEVELS if notifier.get(label)]
    if owners := notifier.get("owners"):
        owners = [owners] if isinstance(owners, str) else owners  # not the letters of it
        matchers.append(f"owner=~{quoted('|'.join(map(re.escape, owners)))}")
    return ({"name": name, f"{kind}_configs": [{**mail, **keys, **notifier.get("config", {})}]},
            {"continue": True, **route, "receiver": name, "matchers": [*matchers, *route.get("matchers", [])]})


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def put_notifiers(alertmanager: ServiceHandle, file: str, site: Mapping[str, Any]) -> list[Problem]:
    """Make the site's notifiers Alertmanager's receivers: all of them, or else those that it takes one by one."""
    parts, problems = [], []
    for number, notifier in enumerate(site["notifiers"]):
        try:
            parts.append(part(f"{number}-{notifier['type']}", notifier, site["smtp"]))
        except (AttributeError, KeyError, TypeError) as error:
            problems.append(Problem(f"notifier {number} is malformed: {error!r}"))

    def refusal(wanted: Sequence[Part]) -> list[Problem]:
        return alertmanager.apply({file: alertmanager_file(site["alertmanager"], wanted)},
                                  check=["amtool", "check-config", "{file}"], action=f"POST {ROUTE}/-/reload")

    refused = refusal(parts)
    if not refused or refused[0].details.get("retry") or not parts:
        return problems + refused
    taken: list[Part] = []
    for one in parts:
        refused = refusal([*taken, one])
        taken += [] if refused else [one]
        problems += [Problem(f"notifier {one[0]['name']} is left out: {why.message}", **why.details) for why in refused]
    return problems


def put_first_file(file: str) -> None:
    """Alertmanager does not start without one; an empty one is none. Raises: OSError."""
    if os.path.exists(file) and os.path.getsize(file):
        return
    os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
    # It will hold the password of the mail. A crash in between leaves no half of it at its place.
    new = os.open(f"{file}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640)
    with open(new, "w", encoding="utf-8") as content:
        content.write(alertmanager_file({}, []))
    os.replace(f"{file}.new", file)


# Silences

def matchers(wanted: str | Mapping[str, str]) -> Matchers:
    """A silence by what it matches; a name alone is the name of an alert. Raises: ValueError."""
    if not isinstance(wanted, (str, dict)):
        raise ValueError("a silence is the name of an alert, or an object of labels")  # noqa: TRY004  as of its value
    labels = {"alertname": wanted} if isinstance(wanted, str) else wanted
    return frozenset((name[:-2], str(value), *OPERATORS[name[-2:]]) if name[-2:] in OPERATORS
                     else (name, str(value), False, True) for name, value in labels.items())


def reconcile(alertmanager: ServiceHandle, silences: Any) -> list[Problem]:
    """Make our silences those of the site: create what is missing, expire what is not wanted any more."""
    if not isinstance(silences, list):
        return [Problem("silences: there must be a list of them")]
    wanted, problems = set(), []
    for one in silences:
        try:
            wanted.add(matchers(one))
        except ValueError as error:
            problems.append(Problem(str(error)))
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
    return problems + [
        api_problem(f"Alertmanager answers {answer.status} to a silence: {answer.text[:200]}", answer.status)
        for answer in answers if not answer.ok]


def our_silences(silences: list[Any]) -> dict[Matchers, list[str]]:
    """The ids of those that are ours and in force, by what they match."""
    found: dict[Matchers, list[str]] = {}
    for one in silences:
        if one["createdBy"] == OWNER and one["status"]["state"] != "expired":
            labels = frozenset((matcher["name"], matcher["value"], matcher["isRegex"], matcher.get("isEqual", True))
                               for matcher in one["matchers"])  # isEqual is there since Alertmanager 0.22
            found.setdefault(labels, []).append(one["id"])
    return found


def silence(labels: Matchers) -> dict[str, Any]:
    now = datetime.now(timezone.utc)
    return {"matchers": [dict(zip(("name", "value", "isRegex", "isEqual"), matcher)) for matcher in sorted(labels)],
            "startsAt": now.isoformat(), "endsAt": (now + timedelta(days=SILENCE_DAYS)).isoformat(),
            "createdBy": OWNER, "comment": "from the site configuration; removed there, it ends here"}


# What clients ask

def alerts_status(alerts: list[Any]) -> dict[str, int]:
    """Alertmanager's alerts in numbers; a silenced one counts as that alone."""
    loud = [one["labels"] for one in alerts if not one["status"]["silencedBy"]]
    levels = [next((labels[name] for name in LEVELS if name in labels), "") for labels in loud]
    critical = [labels for labels, level in zip(loud, levels) if level == "critical"]
    services = len({labels.get("service_name", labels.get("job")) for labels in critical})
    return {"critical": len(critical), "warning": levels.count("warning"), "silenced": len(alerts) - len(loud),
            "servicesCritical": services, "services_critical": services}  # clients know either name


def add_status(sidecar: Sidecar, alertmanager: ServiceHandle | None, is_off: bool) -> None:
    @sidecar.route("GET", f"{STATUS}/config-subscriber")
    def config_status() -> Any:
        if is_off:
            return 503, {"error": "the site configuration is switched off"}
        said = [one.message for one in sidecar.problems() if one.source.startswith(CONFIGURATION)]
        if alertmanager is not None and not alertmanager.is_ready:
            said.append("Alertmanager is not ready")
        return {"problems": [{"kind": "SiteConfig", "description": text} for text in said]}

    @sidecar.route("GET", f"{STATUS}/alerts-status")
    def status() -> Any:
        if alertmanager is None:
            return 503, {"error": "Alertmanager does not run here"}
        try:
            answer = alertmanager.request("GET", f"{ROUTE}/api/v2/alerts?active=true&inhibited=false")
            return alerts_status(answer.json()) if answer.ok else (502, {"error": answer.text[:200]})
        except (OSError, ValueError) as error:
            return 502, {"error": f"cannot ask Alertmanager: {type(error).__name__}"}


# The sidecar

def build(environment: Mapping[str, str]) -> Sidecar:
    """The sidecar for the variables above."""
    sidecar = Sidecar("prometheus")
    watch = watcher(sidecar, environment)
    rules = environment.get("PROMETHEUS_RULES") or "/etc/prometheus/rules/site.yml"

    @watch("rules", lambda site: site.get("rules") or [])
    def on_rules(groups: list[Any], service: ServiceHandle) -> list[Problem]:
        return service.apply({rules: yaml({"groups": groups})}, check=["promtool", "check", "rules", "{file}"],
                             action="POST /-/reload")

    alertmanager = add_alertmanager(sidecar, watch, environment)
    add_status(sidecar, alertmanager, environment.get("SITE_CONFIGURATION") == OFF)
    return sidecar


def command(environment: Mapping[str, str], file: str) -> list[str]:
    """Alertmanager's program and options; none where it is switched off."""
    words = shlex.split(environment.get("ALERTMANAGER_COMMAND", "alertmanager"))
    if not words:
        return []
    words += [f"--config.file={file}", "--web.listen-address=127.0.0.1:{port}", f"--web.route-prefix={ROUTE}",
              f"--cluster.listen-address={environment.get('ALERTMANAGER_CLUSTER', '')}"]
    url = environment.get("SITE_EXTERNAL_URL", "").rstrip("/")
    return [*words, f"--web.external-url={url}{ROUTE}"] if url else words


def add_alertmanager(sidecar: Sidecar, watch: Watch, environment: Mapping[str, str]) -> ServiceHandle | None:
    file = environment.get("ALERTMANAGER_CONFIG") or "/etc/alertmanager/alertmanager.yml"
    words = command(environment, file)
    if not words:
        return None
    try:
        put_first_file(file)
    except OSError as error:
        sidecar.problem(f"Alertmanager is not started: cannot write {file}: {error.strerror}", "alertmanager")
        return None
    alertmanager = sidecar.service("alertmanager", words, route=ROUTE, ready_path=f"{ROUTE}/-/ready")

    @watch("notifiers", lambda site: {"notifiers": site.get("notifiers") or [], "smtp": site.get("smtp") or {},
                                      "alertmanager": site.get("alertmanager") or {}})
    def on_notifiers(site: dict[str, Any]) -> list[Problem]:
        return put_notifiers(alertmanager, file, site)

    wanted: list[list[Any]] = []  # the latest, once there is one

    @watch("silences", lambda site: site.get("silences") or [])
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

    return alertmanager


sidecar = build(os.environ)
