"""Everything at once, again and again, at the real wrapper: nothing hangs, nothing is left behind."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time

import pytest

from tests.restarts.load import Load, Noted, counting
from tests.restarts.raw import Raw, get
from tests.restarts.vitals import vitals
from tests.running import Wrapper, service, wait_until

MODES = pytest.mark.parametrize("mode", ["replace", "overlap"])
SIDECAR = """
from wrapper import Sidecar
sidecar = Sidecar()

@sidecar.route("POST", "/sidecar/api/again")
def again(request):
    sidecar_service.restart("from a route", wait=request.query.get("wait") == "1")
    return "restarted"

@sidecar.on_start
def started(service):
    global sidecar_service
    sidecar_service = service
"""


def at_once(rounds, *doings):
    """Each of `doings` `rounds` times, in a thread of its own; fails when one hangs or raises."""
    faults = []

    def go(doing):
        try:
            for number in range(rounds):
                doing(number)
        except Exception as error:
            faults.append(error)
            raise

    threads = [threading.Thread(target=go, args=(doing,), daemon=True) for doing in doings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive(), "it hangs"
    assert not faults


def storm(folder, rounds, *options):
    """Restarts from a route, over the control socket, by a change of configuration, beside signals, all at a time."""
    sidecar, source, target = folder / "sidecar.py", folder / "source", folder / "target"
    sidecar.write_text(SIDECAR)
    source.write_text("0")
    statuses = set()

    def change(number):
        fresh = folder / "fresh"
        fresh.write_text(str(number))
        fresh.replace(source)
        statuses.add(wrapper.command("POST", "/sidecar/api/config")[0])

    def route(number):
        wait = int(number % 10 == 0)
        statuses.add(wrapper.request("POST", f"/sidecar/api/again?wait={wait}")[0])

    def control(number):
        statuses.add(wrapper.command("POST", f"/sidecar/api/restart?wait={int(number % 7 == 0)}")[0])

    def send(number):
        wrapper.process.send_signal((signal.SIGWINCH, signal.SIGURG)[number % 2])
        assert wrapper.request("GET", "/sidecar/healthz")[0] == 200

    def ask(number):
        assert wrapper.request("GET", "/")[0] == 200

    with Wrapper(*options, "--drain-timeout", "2s", "--sidecar", str(sidecar), "--config-source", str(source),
                 "--config-file", str(target), "--config-interval", "1s", "--config-min-interval", "10ms",
                 command=service("plain")) as wrapper:
        wait_until(lambda: wrapper.request("POST", "/sidecar/api/again?wait=1")[0] == 200)
        before = wrapper.status()["generation"]
        at_once(rounds, change, route, control, send, ask)
        after = wrapper.wait_state("running")["generation"]
        assert wrapper.command("POST", "/sidecar/api/restart?wait=1")[0] == 200
        assert wrapper.end(signal.SIGTERM) == 0
    assert statuses <= {200, 202}, statuses
    return after - before


@MODES
def test_restarts_from_everywhere_at_once(tmp_path, mode):
    assert storm(tmp_path, 20, "--restart-mode", mode) > 3


@pytest.mark.soak
@MODES
def test_five_hundred_rounds_of_restarts_from_everywhere_at_once(tmp_path, mode):
    print(storm(tmp_path, 500, "--restart-mode", mode, "--capture-output"), "restarts", mode)


CAPTURES = pytest.mark.parametrize("capture", [(), ("--capture-output",)], ids=["inherited", "captured"])


@CAPTURES
def test_twenty_deaths_in_a_row_leave_nothing_behind(tmp_path, capture):
    """The service lives until it is killed, has clients each time, and comes back after each pause."""
    die_twenty_times(tmp_path, capture, 4)  # a few threads more or less: spare ones stay for 10 s


@pytest.mark.soak
@CAPTURES
def test_twenty_deaths_in_a_row_leave_nothing_at_all_behind(tmp_path, capture):
    die_twenty_times(tmp_path, capture, 0)


def die_twenty_times(tmp_path, capture, tolerance):
    with Wrapper("--restart", "always", "--backoff", "10ms..20ms", *capture,
                 command=counting(tmp_path / "log")) as wrapper:
        def die():
            before = wrapper.status()
            with Raw(wrapper.port, get()) as client, Raw(wrapper.port, get("/events")) as reader:
                assert client.read_response()[0] == 200
                reader.read_until(b"data: 1\n")
                os.kill(before["pid"], signal.SIGKILL)
                with pytest.raises((AssertionError, ConnectionResetError)):
                    reader.read_until(b"never")
                client.send(get())
                assert client.read_response()[0] in (200, 502)
            wait_until(lambda: wrapper.status()["generation"] > before["generation"])
            wrapper.wait_state("running")

        def come_to_rest():
            wrapper.get("/")  # from here on one connection to the service is kept

        for _ in range(3):
            die()
        come_to_rest()
        before = vitals(wrapper.process.pid)
        for _ in range(20):
            die()
        come_to_rest()
        wait_until(lambda: all(now <= then + tolerance for now, then in zip(vitals(wrapper.process.pid), before)),
                   what=f"{before}, then {vitals(wrapper.process.pid)}")
        assert vitals(wrapper.process.pid).children == 1
        assert wrapper.status()["restarts"] == 23


def test_a_service_that_never_gets_up_backs_off_and_its_clients_wait(tmp_path):
    with Wrapper("--restart", "always", "--backoff", "100ms..400ms", "--hold", "1s", wait=False,
                 command=[sys.executable, "-S", "-c", "raise SystemExit(3)", "{port}"]) as wrapper:
        status = wrapper.wait_state("backoff")
        assert "next start in" in status["reason"]
        assert status["last_exit"]["status"] == 3
        assert status["last_exit"]["planned"] is False
        assert wrapper.request("GET", "/sidecar/readyz")[0] == 503
        code, fields, body = wrapper.request("GET", "/")
        assert code == 504, body
        assert float(fields["wrapper-held"]) >= 1
        begins = []
        wait_until(lambda: wrapper.status()["restarts"] >= 5)
        begins = [line for line in wrapper.stderr.splitlines() if "next start in" in line]
        pauses = [float(line.rsplit("next start in ", 1)[1].split(" s")[0]) for line in begins]
        assert pauses[:4] == pytest.approx([0.1, 0.2, 0.4, 0.4], abs=0.05)
        assert wrapper.command("POST", "/sidecar/api/stop?wait=1")[0] == 200
        assert wrapper.status()["state"] == "stopped"
        code, fields, _ = wrapper.request("GET", "/")
        assert (code, "retry-after" in fields) == (503, True)


def test_clients_held_in_backoff_are_answered_by_the_next_run(tmp_path):
    os.mkfifo(tmp_path / "go")
    with Wrapper("--restart", "always", "--backoff", "500ms..500ms", wait=False,
                 command=counting(tmp_path / "log", tmp_path / "go")) as wrapper:
        (tmp_path / "go").write_text("")  # blocks until the service reads
        os.kill(wrapper.wait_state("running")["pid"], signal.SIGKILL)
        wrapper.wait_line("running -> backoff")
        with Raw(wrapper.port, get()) as client:
            wait_until(lambda: wrapper.status()["held"] == 1)
            (tmp_path / "go").write_text("")
            status, fields, _ = client.read_response()
        assert (status, "wrapper-held" in fields) == (200, True)


def kill(pid):
    """1 where it was there to be killed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (TypeError, ProcessLookupError):
        return 0
    return 1


def killed_under_load(folder, mode, seconds):
    """A service that is killed at random moments, beside planned restarts: who fails was under way at a death."""
    dice = random.Random(4)
    deaths = 0
    log = folder / "log"
    with Wrapper("--restart", "always", "--backoff", "20ms..100ms", "--capture-output", "--restart-mode", mode,
                 command=counting(log, 0.05)) as wrapper, Load(wrapper.port, 16) as load:
        load.wait(200)
        end = time.monotonic() + seconds
        for number in itertools.count():
            if time.monotonic() > end:
                break
            if number % 3 == 0:
                assert wrapper.command("POST", "/sidecar/api/restart")[0] in (202, 409)
            time.sleep(dice.uniform(0, 0.15))  # the moment of the death is what is tried
            deaths += kill(wrapper.status()["pid"])
            load.wait(50)
        wrapper.wait_state("running")
        load.wait(500)
    assert {what.split("\\r")[0].split(" ", 1)[-1][:3] for *_, what in load.failed} <= {"502", "503"}, load.failed
    assert len(load.failed) <= 2 * 16 * deaths  # and who came before the kernel said that it is dead
    assert deaths
    return load, Noted(log), deaths


@MODES
def test_deaths_at_random_moments_under_load(tmp_path, mode):
    """What may be repeated travels once more when its run has died before the answer began; never a third time."""
    _, noted, _ = killed_under_load(tmp_path, mode, 3)
    assert noted.most <= 2


@pytest.mark.soak
@MODES
def test_deaths_at_random_moments_under_load_for_long(tmp_path, mode):
    load, noted, deaths = killed_under_load(tmp_path, mode, 40)
    print(f"{deaths} deaths, {len(load.answered)} answered, {len(load.failed)} failed, {noted.repeated} repeated")
