"""Secrets in arguments, environment and configuration are found in nothing that the wrapper shows or writes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading

import pytest

from tests.running import ROOT, Wrapper, free_port, run, service, wait_until

PATHS = ("", "/", "/healthz", "/readyz", "/metrics", "/api/status", "/api/problems", "/api/config",
         "/api/traffic", "/api/nothing")
SECRETS = {
    "argument": "argument-7f3a", "environment": "environment-51c2", "token": "token-e0b9", "bearer": "bearer-c4d8",
    "source": "password-9a61", "content": "content-2be7", "template": "template-66d0", "wrong": "attempt-d1f5",
}


@pytest.fixture
def wrapper(tmp_path):
    """A wrapper with a secret in every place that can hold one, and with as much going wrong as can be."""
    for name, text in (("token", SECRETS["token"]), ("bearer", SECRETS["bearer"]),
                       ("template", f"key: {SECRETS['template']} $missing"),
                       ("source.json", json.dumps({"password": SECRETS["content"]}))):
        (tmp_path / name).write_text(text)
    environment = {"DATABASE_URL": f"postgres://x:{SECRETS['environment']}@db/x", "PYTHONPATH": str(ROOT)}
    options = ["--token-file", str(tmp_path / "token"), "--restart", "on-failure", "--backoff", "10s..10s",
               "--access-log", "--log-level", "debug", "--stop-timeout", "1s",
               "--config-source", f"http://admin:{SECRETS['source']}@127.0.0.1:{free_port()}/c?key={SECRETS['source']}",
               "--config-file", str(tmp_path / "destination"), "--config-interval", "50ms", "--config-wait", "0s",
               "--config-token-file", str(tmp_path / "bearer")]
    command = [*service("plain"), "0", f"--password={SECRETS['argument']}"]
    with Wrapper(*options, command=command, environment=environment) as wrapper:
        yield wrapper


def everything(wrapper):
    """All that can be read of a wrapper from outside, by where it stands."""
    shown = {}
    for path in PATHS:
        _, headers, body = wrapper.request("GET", f"/sidecar{path}")
        shown[path] = f"{headers} {body.decode()}"
    for name in ("start", "signal?name=NONSENSE", "logs"):
        answer = wrapper.request("POST" if name != "logs" else "GET", f"/sidecar/api/{name}",
                                 headers={"Authorization": f"Bearer {SECRETS['wrong']}"})
        shown[name] = str(answer)
    for words in (("status",), ("problems",), ("config",), ("events",), ("--json", "events"), ("logs",)):
        done = run("ctl", "--control", wrapper.control, *words)
        shown[f"ctl {words}"] = done.stdout + done.stderr
    shown["log"] = wrapper.stderr
    return shown


def found(shown):
    return [(place, name) for place, text in shown.items() for name, secret in SECRETS.items() if secret in text]


def test_nothing_shows_a_secret_while_all_is_well_or_nothing(wrapper):
    wait_until(lambda: wrapper.status()["problems"], what="a source that does not answer is a problem")
    wait_until(lambda: json.loads(wrapper.get("/sidecar/api/config")), what="it is looked at before it is shown")
    shown = everything(wrapper)
    assert found(shown) == []
    told = ("/api/config", "ctl ('problems',)", "ctl ('config',)", "log")
    assert all("127.0.0.1" in shown[place] for place in told), \
        "the source is named, but not its password"
    wrapper.command("POST", "/sidecar/api/restart?wait=1")
    os.kill(wrapper.status()["pid"], signal.SIGKILL)
    wrapper.wait_state("backoff")
    assert found(everything(wrapper)) == []


def test_a_template_that_fails_shows_neither_itself_nor_what_it_was_given(tmp_path):
    (tmp_path / "template").write_text(f"key: {SECRETS['template']} $missing")
    (tmp_path / "source.json").write_text(json.dumps({"password": SECRETS["content"]}))
    options = ["--config-source", str(tmp_path / "source.json"), "--config-file", str(tmp_path / "destination"),
               "--config-template", str(tmp_path / "template"), "--config-interval", "50ms", "--log-level", "debug"]
    with Wrapper(*options, command=service("plain")) as wrapper:
        wait_until(lambda: wrapper.status()["problems"])
        assert found(everything(wrapper)) == []


@pytest.mark.parametrize("rest", [[], ["--hold", "nonsense"], ["--config-source", " "]])
def test_check_shows_a_source_without_its_credentials(tmp_path, rest):
    url = f"http://admin:{SECRETS['source']}@config.internal/c?key={SECRETS['source']}{' ' if rest else ''}"
    done = run("check", "--config-source", url, "--config-file", str(tmp_path / "x"), *rest, "--", "x", "{port}")
    assert found({"stderr": done.stderr, "stdout": done.stdout}) == []
    assert "http://***@config.internal/c?***" in done.stdout + done.stderr


def test_a_command_that_cannot_run_is_named_without_its_arguments(tmp_path):
    done = run("--upstream", f"127.0.0.1:{free_port()}", "--listen", f"127.0.0.1:{free_port()}", "--control",
               str(tmp_path / "c.sock"), "--", "/no/such/program", f"--password={SECRETS['argument']}")
    assert done.returncode == 127
    assert found({"stderr": done.stderr, "stdout": done.stdout}) == []


def test_a_bad_setting_does_not_print_the_token():
    done = run("--token", SECRETS["token"], "--hold", "soon", "--", "true", "{port}")
    assert done.returncode == 2
    assert found({"stderr": done.stderr}) == []
    assert found({"check": run("check", "--token", SECRETS["token"], "--", "true", "{port}").stdout}) == []


def test_the_stream_of_events_shows_no_secret(wrapper):
    """All that was kept and what comes, as the page hears it."""
    connection = http.client.HTTPConnection("127.0.0.1", wrapper.port, timeout=20)
    connection.request("GET", "/sidecar/api/events")
    answer = connection.getresponse()
    threading.Thread(target=lambda: wrapper.command("POST", "/sidecar/api/restart?wait=1"), daemon=True).start()
    text = ""
    while '"state": "running", "before": "starting"' not in text.partition("draining")[2]:
        text += answer.readline().decode()
    assert found({"events": text}) == []
    connection.close()
