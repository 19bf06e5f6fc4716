"""Debian's own Prometheus behind the wrapper, on one port."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = """
global: {scrape_interval: 1s}
scrape_configs:
  - job_name: itself
    static_configs: [{targets: ["127.0.0.1:%(listen)d"]}]
    metrics_path: /metrics
  - job_name: wrapper
    static_configs: [{targets: ["127.0.0.1:%(listen)d"]}]
    metrics_path: /sidecar/metrics
"""


def wait_until(happens, timeout=30.0):
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError):
            if answer := happens():
                return answer
        assert time.monotonic() < deadline, f"not within {timeout} s: {happens}"
        time.sleep(0.05)  # the pace of the poll


class Wrapped:
    """Prometheus behind the wrapper, with a configuration and a data folder of its own."""

    def __init__(self, folder, *options):
        self.listen = free_port()
        self.control = str(folder / "control.sock")
        self.configuration = folder / "prometheus.yml"
        self.configuration.write_text(CONFIGURATION % {"listen": self.listen})
        command = [sys.executable, "-m", "wrapper", "--listen", f"127.0.0.1:{self.listen}", "--control", self.control,
                   "--ready-path", "/-/ready", *options, "--",
                   "prometheus", f"--config.file={self.configuration}", f"--storage.tsdb.path={folder / 'data'}",
                   "--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle", "--web.enable-admin-api"]
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)

    def get(self, path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.listen}{path}", method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read().decode()

    def status(self):
        return json.loads(self.get("/sidecar/api/status"))

    def query(self, expression):
        return json.loads(self.get(f"/api/v1/query?query={expression}"))["data"]["result"]

    def wait_running(self):
        return wait_until(lambda: (status := self.status())["state"] == "running" and status)

    def ctl(self, *words):
        return subprocess.run([sys.executable, "-m", "wrapper", "ctl", "--control", self.control, *words], cwd=ROOT,
                              capture_output=True, text=True, timeout=60, check=False)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def prometheus(tmp_path):
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    assert not missing, "cannot run Prometheus: apt-get install prometheus"
    wrapped = Wrapped(tmp_path)
    try:
        wrapped.wait_running()
        yield wrapped
    finally:
        if wrapped.process.poll() is None:
            wrapped.process.terminate()
            try:
                wrapped.process.wait(20)
            except subprocess.TimeoutExpired:
                wrapped.process.kill()
                wrapped.process.wait()
        print(wrapped.output.read_text(errors="replace")[-4000:])


def test_its_pages_api_and_reload_answer_through_the_exposed_port(prometheus):
    assert "Prometheus" in prometheus.get("/graph")
    wait_until(lambda: prometheus.query("up"))
    prometheus.configuration.write_text(prometheus.configuration.read_text().replace("itself", "renamed"))
    prometheus.get("/-/reload", method="POST")
    wait_until(lambda: any(one["metric"]["job"] == "renamed" for one in prometheus.query("up")))


def test_it_is_healthy_and_the_status_says_running(prometheus):
    assert "Healthy" in prometheus.get("/-/healthy")
    assert "Ready" in prometheus.get("/-/ready")
    wait_until(lambda: len(prometheus.query("up")) == 2)  # both jobs have been scraped
    asked = subprocess.run(["promtool", "query", "instant", f"http://127.0.0.1:{prometheus.listen}", "up"],
                           capture_output=True, text=True, timeout=30, check=False)
    assert asked.returncode == 0, asked.stderr
    assert 'job="itself"' in asked.stdout
    status = prometheus.status()
    assert status["state"] == "running"
    assert status["ready"] is True
    assert Path(f"/proc/{status['pid']}/comm").read_text().strip() == "prometheus"


def test_it_scrapes_the_metrics_of_its_own_wrapper(prometheus):
    wait_until(lambda: [one for one in prometheus.query("up{job=%22wrapper%22}") if one["value"][1] == "1"])
    text = prometheus.get("/sidecar/metrics")
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30,
                             check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_restart_brings_a_new_process_on_the_same_data(prometheus):
    wait_until(lambda: prometheus.query("up"))
    before, then = prometheus.status(), time.time()
    assert prometheus.query(f"up&time={then}")
    done = prometheus.ctl("restart")
    assert done.returncode == 0, done.stderr
    after = prometheus.wait_running()
    assert after["pid"] != before["pid"]
    assert after["generation"] == before["generation"] + 1
    assert prometheus.query(f"up&time={then}"), "samples from before the restart must still be there"


def test_killing_it_ends_the_wrapper_with_137(prometheus):
    os.kill(prometheus.status()["pid"], signal.SIGKILL)
    assert prometheus.process.wait(10) == 128 + signal.SIGKILL


def test_term_to_the_wrapper_ends_both_in_time(prometheus):
    pid = prometheus.status()["pid"]
    begin = time.monotonic()
    prometheus.process.terminate()
    assert prometheus.process.wait(15) == 0, "Prometheus itself ends with 0 on TERM"
    assert time.monotonic() - begin < 9, "under docker stop's 10 s"
    assert not Path(f"/proc/{pid}").exists()
    assert "See you next time!" in prometheus.output.read_text()
