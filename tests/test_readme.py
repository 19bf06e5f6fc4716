"""The README's tables are made from the code: `python3 -m tests.test_readme` writes them anew, this test compares."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from tests.running import Wrapper, wait_until
from wrapper import ServiceHandle, Sidecar, presets
from wrapper.ctl import ctl
from wrapper.image import bundle, dockerfile
from wrapper.presets import grafana, prometheus
from wrapper.settings import settings

README = pathlib.Path(__file__).parent.parent / "README.md"
fences = re.compile(r"(?:^((?:[^\n]+\n)+)\n)?^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Who may ask, and what is answered; which paths there are comes from the router.
ANSWERS = {
    "GET /": "the dashboard, a page for people",
    "GET /healthz": "200 while the wrapper serves",
    "GET /readyz": "200 when requests are being served, or held for a planned restart; else 503 and the reason",
    "GET /metrics": "Prometheus text exposition 0.0.4, names `wrapper_*`",
    "GET /api/status": "JSON: state, since, pid, generation, restarts, last exit, in flight, held and more",
    "GET /api/problems": "JSON: what is wrong now, `[]` when all is well; without the token only where and since when",
    "GET /api/config": "JSON: each subscription, its source, hashes and last result",
    "GET /api/events": "server-sent events: states, exits, restarts, problems, configuration",
    "GET /api/logs": "the last output lines, `?lines=N`, `?service=NAME`, `?follow=1` (with `--capture-output`)",
    "GET /api/config/history": "JSON: the versions that were in force, the newest first",
    "GET /api/config/diff": "JSON: what changed since `?version=N`; of the environment only names",
    "POST /api/config/rollback": "bring `?version=N` into force again; what the sources hold now is skipped",
    "POST /api/config": "look at the sources now",
    "POST /api/signal": "pass on `?name=HUP`",
    "POST /api/pause": "hold every relayed request, `?for=30s` at most, `?reason=TEXT`; the service is not touched",
    "POST /api/resume": "let them through again",
    "POST /api/start": "202 with the status; `?wait=1` answers when it is done; 409 when busy",
    "POST /api/stop": "the same",
    "POST /api/restart": "the same",
    "POST /api/reload": "the same",
}
OF_THE_PAGE = {"/api/traffic"}  # what it plots: in the shape that this version's page draws, and no contract


def settings_table() -> str:
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for row in settings.table():
        default = "" if row.default in (None, "", "false") else f"`{row.default}`"
        unit = f" {row.unit}" if row.unit else ""
        lines.append(f"| `{row.flag}{unit}` | {default} | {row.meaning} |")
    return "\n".join(lines)


def routes():
    """The wrapper's own routes, as a wrapper that never starts has them: (method, path, is_guarded)."""
    from wrapper.events import Feed
    from wrapper.problems import Board
    from wrapper.service.process import Spawner
    from wrapper.service.service import Service, Surroundings
    from wrapper.sidecar.site import Site

    chosen = settings.read(["--", "x", "{port}"], {})
    feed = Feed()
    around = Surroundings(chosen, {}, Spawner(), feed, Board(feed), lambda address: None)
    site = Site(around, [Service("service", chosen.command, None, around, lambda *over: None)])
    found = {(route.method, route.pattern.removeprefix("/sidecar") or "/", route.is_guarded)
             for methods in site.router._paths.values() for route in methods.values()}
    return sorted(found - {("GET", "/api/traffic", False)})  # the page's own: no promise to others


def paths_table() -> str:
    lines = ["| path | who | answer |", "|---|---|---|"]
    for method, path, is_guarded in routes():
        if path in OF_THE_PAGE:
            continue
        who = "token" if is_guarded else "all"
        lines.append(f"| `{method} /sidecar{path}` | {who} | {ANSWERS[f'{method} {path}']} |")
    return "\n".join(lines)


def signature(name, member) -> str:
    """As a caller writes it, without types."""
    if isinstance(member, property):
        return name
    parameters = [parameter.replace(annotation=inspect.Parameter.empty)
                  for parameter in list(inspect.signature(member).parameters.values())[1:]]
    return name + str(inspect.Signature(parameters)).replace("'", '"')


def members_table(kind: type, owner: str, without: tuple[str, ...]) -> str:
    """Every public method and property of a class, with the first sentence of what it says of itself."""
    lines = ["| call | what it does |", "|---|---|"]
    for name, member in vars(kind).items():
        if not name.startswith("_") and name not in without:
            told = inspect.getdoc(member)
            first = " ".join(re.match(r"(.*?[^.])(\.(\s|$)|\n\n|$)", told, re.DOTALL)[1].split())
            lines.append(f"| `{owner}.{signature(name, member)}` | {first} |")
    return "\n".join(lines)


def sidecar_table() -> str:
    return members_table(Sidecar, "sidecar", ("go_live", "retire"))


def handle_table() -> str:
    return members_table(ServiceHandle, "service", ("bind", "service"))


def ctl_table() -> str:
    """Every verb with the options of its own."""
    lines = ["| verb | what it does |", "|---|---|"]
    verbs = next(action for action in ctl._parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, parser in verbs.choices.items():
        words = [name]
        for action in parser._actions:
            if not action.option_strings:
                words.append(action.metavar or action.dest.upper())
            elif not {"--help", "--control", "--json", "--service"} & set(action.option_strings):
                value = "" if action.nargs == 0 else f" {action.metavar}"
                words.append(f"[{', '.join(sorted(action.option_strings, key=len))}{value}]")
        lines.append(f"| `ctl {' '.join(words)}` | {parser.description.rstrip('.').replace('|', '/')} |")
    return "\n".join(lines)


def presets_table() -> str:
    """The variables that the presets' files name, those of both first."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for module in (presets, prometheus, grafana):
        rows = re.findall(r"^\| ([A-Z_, ]+) \| (.+) \| (.+) \|$", module.__doc__, re.MULTILINE)
        lines += [f"| `{name.replace(', ', '`, `')}` | {default} | {meaning} |" for name, default, meaning in rows]
    return "\n".join(lines)


TABLES = {"settings": settings_table, "paths": paths_table, "sidecar": sidecar_table, "handle": handle_table,
          "ctl": ctl_table, "presets": presets_table}


def part(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)


@pytest.mark.parametrize("name", TABLES)
def test_the_table_is_what_the_code_says(name):
    assert part(name).search(README.read_text())[0].split("-->\n", 1)[1].rsplit("<!--", 1)[0].strip() == TABLES[name]()


def test_the_reference_is_apart_and_what_stands_before_it_is_short():
    before, _, after = README.read_text().partition("\n## Reference\n")
    assert after and len(before.splitlines()) <= 200


def test_every_heading_is_in_the_list_of_contents():
    text = README.read_text()
    names = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    links = dict(re.findall(r"\[([^\]]+)\]\(#([\w-]+)\)", text.partition("\n## ")[0]))
    anchors = {re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in names}
    assert set(links.values()) <= anchors
    assert anchors - set(links.values()) == {"reference", "a-body-a-token-a-test-an-image"}


def test_the_figures_of_a_restart_are_those_that_were_measured():
    first = README.read_text().partition("**A restart costs")[2].partition("\n- ")[0]
    figures = re.findall(r"\d+[,.]\d+", first)
    measured = part("restarts").search(README.read_text())[0]
    assert len(figures) == 4
    assert [figure for figure in figures if figure not in measured] == []


def test_every_fence_is_done_by_ci_or_left_to_a_part_that_does_it():
    """`.ci/readme.py walk` does the shell's; a file is saved where the text says so, else it is for an image."""
    for before, language, content in fences.findall(README.read_text()):
        assert language in ("sh", "dockerfile", "yaml") or "ave this as `" in before, content


def test_the_copied_entrypoint_is_the_one_of_a_bundle():
    for line in re.findall(r"^(?:ENTRYPOINT|HEALTHCHECK CMD) (\[.*\])$", README.read_text(), re.MULTILINE):
        assert json.loads(line)[:len(bundle.command())] == bundle.command()


def test_every_exit_status_is_named():
    text = README.read_text()
    for status in ("126", "127", "2", "1", "128+n"):
        assert f"\n| {status} |" in text


def shell_commands() -> list[list[str]]:
    """Every command of the shell blocks, continued lines joined, in words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True) for line in "\n".join(blocks).replace("\\\n", " ").splitlines() if line]


def test_every_wrapper_command_has_good_settings():
    found = 0
    for words in shell_commands():
        while "=" in words[0]:
            del words[0]  # a variable before the command
        if words[:3] == ["python3", "-m", "wrapper"] and words[3] not in ("bundle", "dockerfile", "ctl"):
            settings.read(words[3:], {})
            found += 1
    assert found >= 4


def test_the_image_of_the_recipe_needs_no_words():
    """What `dockerfile` writes for the image that the README wraps is enough to start it."""
    recipe = [words for words in shell_commands() if words[0] == "docker"]
    image = next(words[2] for words in recipe if words[1] == "pull")
    assert recipe[-1][-1] == "grafana-wrapped", "docker run with no further word"
    lines = "\n".join(dockerfile.lines(image, {"Entrypoint": ["/run.sh"]}))
    entrypoint = json.loads(re.search("^ENTRYPOINT (.*)", lines, re.MULTILINE)[1])
    variables = dict(re.findall(r"(WRAPPER_\w+)=(\S+)", lines))
    chosen = settings.read(entrypoint[len(bundle.command()):], variables)
    port = recipe[-1][recipe[-1].index("-p") + 1].partition(":")[2]
    assert (chosen.listen.port, chosen.command) == (int(port), ("/run.sh",))


def test_every_setting_of_the_manifests_exists():
    blocks = re.findall(r"^```yaml\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    found = re.findall(r'(?:name: )?(WRAPPER_\w+)(?:, value)?: (?:"(.*?)"|([^",}]*))[,}]', "".join(blocks))
    pairs = [(name, quoted or plain) for name, quoted, plain in found]
    assert len(pairs) == "".join(blocks).count("WRAPPER_") > 0
    chosen = settings.read(["--upstream", "127.0.0.1:1", "serve"], dict(pairs))
    assert not list(settings.strangers(dict(pairs)))
    assert chosen.config_check == ("promtool", "check", "config", "{file}")


def test_every_metric_of_the_dashboard_and_of_the_alerts_exists():
    code = "".join(path.read_text() for path in (README.parent / "wrapper/sidecar").glob("*.py"))
    blocks = re.findall(r"^```yaml\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    for text in (*blocks, (README.parent / "wrapper/presets/dashboard.json").read_text()):
        for name in re.findall(r"wrapper_[a-z_]+", text):
            assert f'"{name.removesuffix("_bucket")}"' in code


def test_the_ten_line_sidecar_works_as_pasted(tmp_path):
    code = re.search(r"Save this as `hello.py`:\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) <= 10
    (tmp_path / "hello.py").write_text(code)
    words = next(words for words in shell_commands() if "--sidecar" in words)
    command = words[words.index("--") + 1:]
    with Wrapper(*words[3:words.index("--")], command=[sys.executable, *command[1:]], cwd=tmp_path,
                 environment={"PYTHONPATH": str(README.parent)}) as wrapper:
        wait_until(lambda: wrapper.request("GET", "/sidecar/api/hello")[0] == 200)
        assert json.loads(wrapper.get("/sidecar/api/hello?name=you")) == {"hello": "you", "service": "running"}
        assert b"hello.py" in wrapper.get("/")


def python_block(before: str) -> str:
    return re.search(before + r"\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)[1]


def test_the_second_sidecar_and_its_test_work_as_pasted(tmp_path):
    (tmp_path / "jobs.py").write_text(python_block("Save this as `jobs.py`:"))
    (tmp_path / "test_jobs.py").write_text(python_block("Save this as `test_jobs.py`:"))
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "test_jobs.py"], cwd=tmp_path, capture_output=True,
                          text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(README.parent)})
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_second_sidecar_answers_as_its_curl_line_asks(tmp_path):
    (tmp_path / "jobs.py").write_text(python_block("Save this as `jobs.py`:"))
    asked = next(words for words in shell_commands() if words[0] == "curl" and "-d" in words)
    words = next(words for words in shell_commands() if "jobs.py" in words)
    variable, command = words[0].split("="), words[words.index("--") + 1:]
    with Wrapper(*words[4:words.index("--")], command=[sys.executable, *command[1:]], cwd=tmp_path,
                 environment={"PYTHONPATH": str(README.parent), variable[0]: variable[1]}) as wrapper:
        path = asked[-1].partition(":8080")[2]
        header = dict([asked[asked.index("-H") + 1].split(": ")])
        body = asked[asked.index("-d") + 1]
        wait_until(lambda: wrapper.request("POST", path, body, header)[0] == 202)
        assert wrapper.request("POST", path, body)[0] == 401


def write() -> None:
    text = README.read_text()
    for name, table in TABLES.items():
        text = part(name).sub(lambda match, table=table: match[1] + table() + "\n" + match[2], text)
    README.write_text(text)


if __name__ == "__main__":
    write()
