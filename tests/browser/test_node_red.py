"""Node-RED's editor in a real browser: its WebSocket comes back by itself after a restart.

Node-RED is installed by npm into ~/.cache/wrapper-node-red, or where NODE_RED_FOLDER says it is.
"""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

from tests.running import Wrapper, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.real]

VERSION = "4"


@pytest.fixture(scope="module")
def node_red():
    """The program's path; installed once, and kept."""
    folder = pathlib.Path(os.environ.get("NODE_RED_FOLDER") or pathlib.Path.home() / ".cache" / "wrapper-node-red")
    program = folder / "node_modules" / "node-red" / "red.js"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", f"node-red@{VERSION}"], cwd=folder, check=True,
                       timeout=600)
    return str(program)


@pytest.fixture
def page(browser):
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("mode", ["replace", "overlap"])
def test_the_editor_comes_back_by_itself(node_red, page, tmp_path, mode):
    closed, opened = [], []

    def on_socket(socket):
        opened.append(socket.url)
        socket.on("close", lambda *_: closed.append(socket.url))

    page.on("websocket", on_socket)
    page.add_init_script("""
        const Own = WebSocket; window.codes = [];
        window.WebSocket = class extends Own {
            constructor(...words) { super(...words); this.addEventListener("close", event => codes.push(event.code)); }
        };
    """)
    settings = tmp_path / "settings.js"
    settings.write_text("module.exports = {telemetry: {enabled: false}, uiHost: '127.0.0.1', "
                        "editorTheme: {tours: false}}")
    with Wrapper("--ready-path", "/settings", "--restart-mode", mode, "--hold", "60s", wait=False,
                 command=["node", node_red, "-p", "{port}", "-u", str(tmp_path), "-s", str(settings)]) as wrapper:
        wrapper.wait_state("running", 60)
        page.goto(f"http://127.0.0.1:{wrapper.port}/", timeout=60_000)
        page.wait_for_selector("#red-ui-editor", timeout=60_000)
        page.wait_for_function("() => RED && RED.comms", timeout=60_000)
        until(page, lambda: opened)
        before = len(opened)
        status, answer = wrapper.command("POST", "/sidecar/api/restart?wait=1")
        assert status == 200, answer
        until(page, lambda: closed and len(opened) > before)
        assert page.evaluate("codes")[0] == 1012
        # It is alive: the new run answers the editor, in the same page that was never loaded again.
        assert page.evaluate("fetch('/settings').then(answer => answer.status)") == 200
        until(page, lambda: len(closed) < len(opened))
        assert wrapper.status()["generation"] == 2


def until(page, condition):
    """Playwright hears events only while it is asked for something."""
    wait_until(lambda: (page.evaluate("1"), condition())[1], 60)
