"""nginx and Node-RED, laid out as in their images: at the same port behind the wrapper, and the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.containers.engine import ROOT, wait_network, wait_until
from tests.containers.stand_ins import node_modules

pytestmark = pytest.mark.container


def test_nginx_answers_and_ends_as_it_did(stand_in, run, podman):
    """Its port is in a file, which the generator's Dockerfile changes; it is stopped by QUIT."""
    pages, statuses = [], []
    for image in stand_in("nginx"):
        container = run(image, port=80)
        pages.append(wait_until(lambda container=container: container.get("/")))
        podman("stop", container.name)
        statuses.append(container.exit_status())
    assert pages[1] == pages[0] == "<h1>Welcome to nginx!</h1>\n" * 1000
    assert statuses == [0, 0]


def test_nginx_is_restarted_and_reloaded_behind_its_port(stand_in, run):
    container = run(stand_in("nginx")[1], port=80, options=("--env", "WRAPPER_RELOAD=signal:HUP"))
    first = container.wait_running()
    for verb in ("reload", "restart"):
        done = container.wrapper("ctl", verb)
        assert done.returncode == 0, done.stderr
        assert container.get("/").startswith("<h1>Welcome")
    assert container.wait_running()["generation"] == first["generation"] + 1


def test_the_script_for_real_images_does_with_ours_what_it_does_with_those(stand_in, podman):
    """Where a registry is reached, .ci/images pulls them by their digests and compares each with itself, wrapped."""
    done = subprocess.run([sys.executable, ".ci/images", "podman", stand_in("nginx")[0]], cwd=ROOT,
                          env=podman.environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "first answer" in done.stdout


def test_node_reds_editor_comes_back_by_itself(stand_in, run, browser):
    """In a real Chromium: the WebSocket of its editor is told 1012, and the same page goes on with the new run."""
    modules = f"{node_modules()}:/usr/src/node-red/node_modules:ro"
    container = run(stand_in("node-red")[1], port=1880, options=("--volume", modules))
    container.wait_running()
    wait_network()
    page = browser.new_page()
    opened, closed = [], []

    def on_socket(socket):
        opened.append(socket.url)
        socket.on("close", lambda *_: closed.append(socket.url))

    page.on("websocket", on_socket)
    page.goto(f"http://{container.address}/", timeout=60_000)
    page.wait_for_selector("#red-ui-editor", timeout=60_000)
    wait_until(lambda: (page.evaluate("1"), opened)[1], 60)
    done = container.wrapper("ctl", "restart")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: (page.evaluate("1"), len(opened) > 1 and len(closed) < len(opened))[1], 60)
    assert page.evaluate("fetch('/settings').then(answer => answer.status)") == 200
    assert container.status()["generation"] == 2
    page.close()
