"""Kills, hangs and the end in the middle of a crowd; `tests/bench/restarts.py` measures the same beside others."""

from __future__ import annotations

import os
import signal
import sys
import threading

from tests.restarts.load import NUMBERS, Load, Noted, counting
from tests.restarts.raw import Raw, get, post
from tests.running import Wrapper, wait_until

POISON = """
import http.server, os, signal, sys
open(sys.argv[2], "a").write("a run\\n")
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_kill_costs_no_request_that_may_be_repeated(tmp_path):
    log = tmp_path / "log"
    with Wrapper("--restart", "on-failure", "--backoff", "20ms..20ms", command=counting(log, 0.05)) as wrapper, \
            Load(wrapper.port, 16) as load:
        for _ in range(5):
            load.wait(200)
            os.kill(wrapper.wait_state("running")["pid"], signal.SIGKILL)
        load.wait(200)
    assert load.failed == []
    assert Noted(log).most <= 2


def test_a_kill_costs_the_posts_that_were_under_way_and_none_is_sent_again(tmp_path):
    log = tmp_path / "log"
    with Wrapper("--restart", "on-failure", "--backoff", "20ms..20ms", command=counting(log)) as wrapper:
        clients = [Raw(wrapper.port, post(f"/kept?{next(NUMBERS)}", b"body")) for _ in range(8)]
        wait_until(lambda: len(Noted(log).of("began")) == 8)
        os.kill(wrapper.status()["pid"], signal.SIGKILL)
        wrapper.wait_line("the service ended")  # what comes in between may have reached it too
        late = [Raw(wrapper.port, post(f"/?{next(NUMBERS)}", b"body")) for _ in range(8)]
        assert [client.read_response()[0] for client in clients] == [502] * 8
        assert [client.read_response()[0] for client in late] == [200] * 8
        for client in clients + late:
            client.close()
    began = [number for number, *_ in Noted(log).of("began")]
    assert len(began) == len(set(began)) == 16


def test_a_request_that_ends_the_service_ends_no_more_than_two_runs(tmp_path):
    runs = tmp_path / "runs"
    with Wrapper("--restart", "on-failure", "--backoff", "1ms..1ms",
                 command=[sys.executable, "-c", POISON, "{port}", str(runs)]) as wrapper:
        for tried in range(1, 6):
            assert wrapper.request("GET", "/die")[0] == 502
            assert wrapper.request("GET", "/")[0] == 200  # held until the next run is there
            assert runs.read_text().count("a run") == 1 + 2 * tried
        assert "GET /die" in str(wrapper.command("GET", "/sidecar/api/problems")[1])


def test_a_hang_costs_no_request(tmp_path):
    with Wrapper("--live-path", "/", "--live-interval", "50ms", "--live-failures", "2",
                 command=counting(tmp_path / "log")) as wrapper, Load(wrapper.port, 16) as load:
        load.wait(200)
        os.kill(wrapper.status()["pid"], signal.SIGSTOP)
        wait_until(lambda: wrapper.status()["generation"] >= 2)
        load.wait(200)
    assert load.failed == []


def test_no_connection_is_refused_while_the_end_is_delayed(tmp_path):
    statuses = []

    def ask():
        for _ in range(50):
            with Raw(wrapper.port, get(f"/?{next(NUMBERS)}")) as client:
                statuses.append(client.read_response()[0])

    with Wrapper("--shutdown-delay", "600s", command=counting(tmp_path / "log")) as wrapper:
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads[:4]:
            thread.start()
        wrapper.process.terminate()
        wait_until(lambda: wrapper.request("GET", "/sidecar/readyz")[0] == 503)
        for thread in threads[4:]:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 400
        assert wrapper.end(signal.SIGTERM) == 0
