"""The whole of it for --config-env, the past and drift: real wrappers around a service that shows its environment."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading

import pytest

from tests.config.test_configuration import kill_session, problems, record
from tests.ctl.test_ctl import ctl
from tests.running import Wrapper, run, service, wait_until
from wrapper.errors import BadSettings
from wrapper.settings import settings

SECRET = "hidden-value"


class Place:
    """A source whose object becomes the environment, and a file too where a wrapper is told so."""

    def __init__(self, folder):
        self.source, self.file = folder / "source.json", folder / "service.conf"
        self.folder, self.history = folder, folder / "history"
        self.change(A="1")

    def change(self, **variables):
        new = self.folder / "source.new"
        new.write_text(json.dumps(variables))
        os.replace(new, self.source)

    def wrapper(self, *options, **named):
        return Wrapper("--config-source", str(self.source), "--config-env", "--config-interval", "50ms",
                       "--config-min-interval", "0s", "--drain-timeout", "1s", "--stop-timeout", "1s",
                       "--config-history", str(self.history), "--token", "t", *options,
                       command=service("variables", "A", "B", "HOME", "BREAKS"), **named)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def shown(wrapper):
    lines = wrapper.get("/").decode().splitlines()[1:]
    return dict(line.split("=", 1) for line in lines if not line.startswith("HOME"))


def versions(wrapper):
    return [(one["version"], one["environment"]) for one in wrapper.command("GET", "/sidecar/api/config/history")[1]]


def test_files_and_variables_change_together(place):
    """The members of the object are variables of the next run; null takes one away that the service would inherit."""
    place.change(A="text", B=1.5, HOME=None)
    with place.wrapper("--config-file", str(place.file), "--config-action", "none") as wrapper:
        assert shown(wrapper) == {"A": "text", "B": "1.5"}
        assert b"HOME" not in wrapper.get("/")
        wait_until(lambda: record(wrapper)["last_result"] == "applied")
        assert wrapper.status()["generation"] == 1
        place.change(A=True)
        wait_until(lambda: shown(wrapper) == {"A": "true"})
        assert b"HOME" in wrapper.get("/")
        assert json.loads(place.file.read_text()) == {"A": True}
        place.change(A="3", BREAKS="3")
        wait_until(lambda: record(wrapper)["last_result"].startswith("rejected"))
        wait_until(lambda: problems(wrapper))  # which comes right after that was noted
        assert "permissions" not in problems(wrapper)[0]["message"], "the file that is new is none of the service's"
        assert shown(wrapper) == {"A": "true"}
        assert json.loads(place.file.read_text()) == {"A": True}
        assert [number for number, _ in versions(wrapper)] == [2, 1]


@pytest.mark.parametrize("mode", ["replace", "overlap"])
def test_a_variable_that_ends_the_service_comes_back_and_none_of_64_clients_notices(place, mode):
    # The last of 64 to be answered may wait for seconds on a busy machine.
    with place.wrapper("--restart-mode", mode, "--capture-output", "--drain-timeout", "20s") as wrapper:
        with crowd(wrapper, 64) as statuses:
            wait_until(lambda: len(statuses) > 64)
            place.change(A="2", BREAKS="3")
            wait_until(lambda: record(wrapper)["last_result"].startswith("rejected"))
            known = len(statuses)
            wait_until(lambda: len(statuses) > known + 200)
        assert set(statuses) == {200}
        assert shown(wrapper) == {"A": "1"}
        assert "undone" in problems(wrapper)[0]["message"]


class crowd:  # noqa: N801  used as a context
    """Clients that ask without a pause, each over a connection of its own; yields the statuses as they come."""

    def __init__(self, wrapper, count):
        self.statuses, self._stop, self._port = [], threading.Event(), wrapper.port
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self.statuses

    def _ask(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._stop.is_set():
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                self.statuses.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                self.statuses.append(repr(error))
                connection.close()
        connection.close()

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_values_are_shown_nowhere(place):
    """Neither one in force nor one that is rejected, and what keeps them is for the wrapper's own user."""
    place.change(A=SECRET)
    with place.wrapper("--capture-output", "--log-level", "debug") as wrapper:
        for change in ({"A": SECRET + "2"}, {"A": SECRET + "3", "BREAKS": "3"}, {"A": [SECRET]}, {"A": SECRET + "\0"}):
            seen = record(wrapper)["hash_seen"]
            place.change(**change)
            wait_until(lambda seen=seen: record(wrapper)["hash_seen"] != seen and not record(wrapper)["pending"]
                       and record(wrapper)["last_result"] != "changed, not in force yet")
        for path in ("api/status", "api/problems", "api/config", "metrics", "", "api/config/history",
                     "api/config/diff?version=1", "api/logs"):
            _, _, body = wrapper.request("GET", f"/sidecar/{path}", None, {"Authorization": "Bearer t"})
            assert SECRET.encode() not in body, path
        assert SECRET not in wrapper.stderr
        found = [os.path.join(folder, name) for folder, _, names in os.walk(place.history) for name in names]
        assert found
        assert {os.stat(path).st_mode & 0o077 for path in (*found, os.path.dirname(found[0]))} == {0}


def test_the_environment_in_force_outlives_a_wrapper_that_is_killed(place):
    """Also while the source cannot be had; without the option it is none of the service's."""
    with place.wrapper(start_new_session=True) as wrapper:
        place.change(A="2", B="b")
        wait_until(lambda: shown(wrapper) == {"A": "2", "B": "b"})
        wait_until(lambda: record(wrapper)["last_result"] == "applied")
        wrapper.end(signal.SIGKILL)
        kill_session(wrapper.process.pid)
    place.source.unlink()
    with place.wrapper("--config-wait", "0s") as wrapper:
        assert shown(wrapper) == {"A": "2", "B": "b"}
        assert wrapper.status()["generation"] == 1
    with Wrapper("--config-history", str(place.history), command=service("variables", "A")) as wrapper:
        assert shown(wrapper) == {}


def test_going_back_is_a_transaction_and_the_source_is_skipped_until_it_changes(place):
    with place.wrapper("--config-file", str(place.file)) as wrapper:
        wait_until(lambda: record(wrapper)["last_result"] == "applied")
        place.change(A="2", B="b")
        wait_until(lambda: shown(wrapper) == {"A": "2", "B": "b"})
        wait_until(lambda: record(wrapper)["last_result"] == "applied")
        history = ctl(wrapper, "config", "history").stdout
        assert [line.split()[0] for line in history.splitlines()] == ["2", "1"]
        difference = ctl(wrapper, "config", "diff", "1").stdout
        assert f"{place.file}\n" in difference
        assert '+  "A": "2",' in difference.splitlines()
        assert difference.splitlines()[-2:] == ["environment: B added", "environment: A changed"]
        back = run("ctl", "config", "rollback", "1", env={**os.environ, "WRAPPER_CONTROL": wrapper.control})
        assert back.stderr == f"wrapper ctl: to the wrapper with pid {wrapper.process.pid} at {wrapper.control}\n"
        assert (back.returncode, back.stdout) == (0, "version 1 is in force again\n")
        assert shown(wrapper) == {"A": "1"}
        assert json.loads(place.file.read_text()) == {"A": "1"}
        looked = record(wrapper)["last_fetch"]
        wait_until(lambda: record(wrapper)["last_fetch"] > looked)
        assert record(wrapper)["last_result"].startswith("skipped")
    with place.wrapper("--config-file", str(place.file)) as wrapper:
        wait_until(lambda: record(wrapper)["last_result"].startswith("skipped"))
        assert shown(wrapper) == {"A": "1"}, "the skip outlives the wrapper"
        assert wrapper.status()["generation"] == 1
        place.change(A="3")
        wait_until(lambda: shown(wrapper) == {"A": "3"})
        place.change(A="2", B="b")
        wait_until(lambda: shown(wrapper) == {"A": "2", "B": "b"})
        wait_until(lambda: record(wrapper)["last_result"] == "applied")
        a_version_the_service_does_not_live_with_any_more_is_undone(place, wrapper)


def a_version_the_service_does_not_live_with_any_more_is_undone(place, wrapper):
    version = place.history / "service" / "1.json"
    facts = json.loads(version.read_text())
    facts["environment"]["BREAKS"] = "3"
    version.write_text(json.dumps(facts))

    def roll_back():
        """What comes of it; None while the change before it, which is in force, still ends."""
        found = wrapper.command("POST", "/sidecar/api/config/rollback?version=1")
        return None if found[0] == 409 else found

    status, answer = wait_until(roll_back)
    assert status == 500
    assert "undone" in answer["error"]
    assert shown(wrapper) == {"A": "2", "B": "b"}
    assert record(wrapper)["last_result"] == "applied"


def test_what_is_no_version_is_told(place):
    with place.wrapper() as wrapper:
        missing = ctl(wrapper, "config", "rollback", "9")
        assert (missing.returncode, missing.stderr.strip()) == (1, "wrapper ctl: no version 9; there are 1")
        assert "which version?" in ctl(wrapper, "config", "diff").stderr
        assert wrapper.command("GET", "/sidecar/api/config/diff?version=x")[0] == 400
        for method, path in (("GET", "history"), ("GET", "diff?version=1"), ("POST", "rollback?version=1")):
            assert wrapper.request(method, f"/sidecar/api/config/{path}")[0] == 401


def test_a_file_that_something_else_changes_is_a_problem_with_the_difference(place):
    with place.wrapper("--config-file", str(place.file)) as wrapper:
        wait_until(lambda: record(wrapper)["last_result"] == "applied")
        good = place.file.read_text()
        place.file.write_text("by hand\n")
        # In between the file is empty.
        wait_until(lambda: "+by hand" in [line for one in problems(wrapper) for line in one["details"]["difference"]])
        assert str(place.file) in problems(wrapper)[0]["message"]
        assert b"by hand" not in wrapper.get("/sidecar/api/problems"), "it is content, and not for all"
        place.file.write_text(good)
        wait_until(lambda: not problems(wrapper))


@pytest.mark.parametrize(("options", "fault"), [
    (["--config-env"], "--config-env: needs --config-source too"),
    (["--config-source", "/x"], "--config-source: needs --config-file or --config-env too"),
    (["--config-source", "/x", "--config-env", "--config-file", "/y/"], "cannot be variables too"),
    (["--config-source", "/x", "--config-env", "--config-file", "/y/", "--config-template", "/t"],
     "makes one file, and --config-file=/y/ is a folder"),
    (["--config-source", "/x", "--config-env", "--config-template", "/t"], "--config-template: is for a --config-file"),
    (["--config-source", "/x", "--config-env", "--config-check", "true {file}"], "there is no {file}"),
])
def test_check_finds_what_does_not_go_together(options, fault):
    with pytest.raises(BadSettings) as caught:
        settings.read(["--upstream", "127.0.0.1:1", *options, "--", "x"], {})
    assert len(caught.value.faults) == 1
    assert fault in caught.value.faults[0]
