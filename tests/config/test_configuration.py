"""The whole of it: real wrappers with --config-* options, a service that reads a file, and a source that changes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.config.conftest import answer
from tests.config.test_source import kubernetes
from tests.running import ROOT, Wrapper, free_port, service, wait_until
from wrapper.config import journal
from wrapper.errors import BadSettings
from wrapper.settings import settings


class Place:
    """A source, a file of the service, and wrappers that bring the one into the other."""

    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        self.source = folder / "source"
        self.file = folder / "service.conf"
        self.folder = folder
        self.file.write_text("old")  # as the source's first answer it is no change, which a start would be judged by

    def wrapper(self, *options, source=None, **named):
        return Wrapper("--config-source", str(source or self.source), "--config-file", str(self.file),
                       "--config-interval", "50ms", "--config-min-interval", "0s", "--drain-timeout", "100ms",
                       "--stop-timeout", "1s", "--token", "t", *options,
                       command=service("configured", str(self.file)), **named)

    def change(self, content):
        """As an author's editor does, so that no half of it is ever seen."""
        new = self.folder / "source.new"
        new.write_text(content)
        os.replace(new, self.source)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def said(wrapper):
    return wrapper.get("/").decode().split(" ", 2)[2]


def problems(wrapper):
    return wrapper.command("GET", "/sidecar/api/problems")[1]


def record(wrapper):
    return wait_until(lambda: json.loads(wrapper.get("/sidecar/api/config")))[0]


def wait_said(wrapper, text):
    wait_until(lambda: said(wrapper) == text, what=text)


def test_the_first_configuration_is_there_before_the_service_starts(place):
    place.change("first")
    with place.wrapper() as wrapper:
        assert said(wrapper) == "first"
        assert wrapper.get("/").startswith(b"1 ")
        wait_until(lambda: record(wrapper)["last_result"] == "applied")
        assert wrapper.status()["generation"] == 1


def test_relative_paths_are_those_of_the_start_wherever_a_sidecar_goes(place, tmp_path):
    """A sidecar's os.chdir is for all threads: new configuration went into the folder that the author went to."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine.py").write_text("import os\nfrom wrapper import Sidecar\nsidecar = Sidecar()\n"
                                      "os.chdir('elsewhere')\n")
    (tmp_path / "template").write_text("it is $value")
    place.change('"one"')
    with Wrapper("--config-source", "source", "--config-file", "service.conf", "--config-template", "template",
                 "--config-interval", "50ms", "--config-min-interval", "0s", "--sidecar", "mine.py",
                 command=service("configured", str(place.file)), cwd=tmp_path,
                 environment={"PYTHONPATH": str(ROOT)}) as wrapper:
        wrapper.wait_line("sidecar loaded")
        place.change('"two"')
        wait_said(wrapper, "it is two")
        assert problems(wrapper) == []


def test_a_change_a_rejected_one_and_the_way_back(place):
    place.change("old")
    with place.wrapper("--config-check", "grep -qv bad {file}", "--capture-output") as wrapper:
        place.change("two")
        wait_said(wrapper, "two")
        place.change("bad")
        wait_until(lambda: problems(wrapper))
        assert "grep rejects the new file with status 1" in problems(wrapper)[0]["message"]
        assert said(wrapper) == "two"
        place.change("broken")
        wait_until(lambda: "undone" in str(problems(wrapper)))
        details = problems(wrapper)[0]["details"]
        assert details["output"][-1] == "this configuration is broken"
        assert said(wrapper) == "two"
        assert place.file.read_text() == "two"
        place.change("two")
        wait_until(lambda: not problems(wrapper))
        place.change("three")
        wait_said(wrapper, "three")
        wait_until(lambda: wrapper.status()["state"] == "running")  # the gate opens a moment before that can be seen


def test_no_request_is_lost_while_configurations_come_and_go(place):
    place.change("old")
    with place.wrapper() as wrapper:
        statuses, stop = [], threading.Event()

        def load():
            while not stop.is_set():
                statuses.append(wrapper.request("GET", "/")[0])

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for content in ("two", "broken", "three"):
            place.change(content)
            wait_until(lambda text=content: record(wrapper)["last_result"].startswith("rejected")
                       or said(wrapper) == text)
            wait_until(lambda: not record(wrapper)["pending"])
        wait_said(wrapper, "three")
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        assert len(statuses) > 20


def test_a_first_configuration_the_service_cannot_start_with_is_undone(place):
    place.change("broken")
    with place.wrapper() as wrapper:
        assert said(wrapper) == "old"
        wait_until(lambda: problems(wrapper))
        assert "undone" in problems(wrapper)[0]["message"]


def test_a_source_that_is_late_does_not_hold_the_service_up(place, serve):
    port = free_port()
    with place.wrapper("--config-wait", "300ms", source=f"http://127.0.0.1:{port}/") as wrapper:
        wrapper.wait_line("the service starts without the configuration of its source")
        assert said(wrapper) == "old"
        wait_until(lambda: problems(wrapper))
        assert "Connection refused" in problems(wrapper)[0]["message"]
        assert record(wrapper)["stale_since"] is not None


def test_a_template_a_selection_and_a_call(place, serve):
    (place.folder / "template").write_text("host=$host\nrules=${rules}\n")
    place.file.write_text("host=a\nrules=[1]\n")
    documents = {"now": {"site": {"smtp": {"host": "a", "rules": [1]}, "other": 1}}}
    server = serve(lambda connection, head: connection.sendall(answer(json.dumps(documents["now"]))))
    with place.wrapper("--config-template", str(place.folder / "template"), "--config-select", "site.smtp",
                       "--reload", "POST /-/reload", source=server.url) as wrapper:
        wait_said(wrapper, "host=a\nrules=[1]\n")
        pid = wrapper.status()["pid"]
        documents["now"]["site"]["smtp"]["host"] = "b"
        wait_said(wrapper, "host=b\nrules=[1]\n")
        assert wrapper.status()["pid"] == pid, "a call is enough"
        reads = wrapper.get("/").split()[0]
        documents["now"]["site"]["other"] = 2
        looked = len(server.heads)
        wait_until(lambda: len(server.heads) > looked + 3)
        assert wrapper.get("/").split()[0] == reads, "only the selected part counts"
        del documents["now"]["site"]["smtp"]["host"]
        wait_until(lambda: problems(wrapper))
        assert "'host'" in problems(wrapper)[0]["message"]


def test_two_hundred_quick_changes_the_kubernetes_way(place):
    """The last one wins, with no more restarts than --config-min-interval allows."""
    folder = place.folder / "mounted"
    folder.mkdir()
    kubernetes(folder, "old")
    with place.wrapper("--config-select", "rules.yml", "--config-min-interval", "500ms", source=folder) as wrapper:
        begin = time.monotonic()
        for number in range(1, 201):
            kubernetes(folder, str(number))
        wait_said(wrapper, "200")
        took = time.monotonic() - begin
        assert wrapper.status()["generation"] <= 2 + took / 0.5


def test_look_now(place):
    place.change("old")
    with place.wrapper("--config-interval", "1h") as wrapper:
        wait_until(lambda: record(wrapper)["last_result"] == "applied")
        place.change("two")
        status, _, _ = wrapper.request("POST", "/sidecar/api/config", None, {"Authorization": "Bearer t"})
        assert status == 202
        wait_said(wrapper, "two")


def test_options_that_make_no_sense_stop_the_start(place):
    for options in (["--reload", "dance"], ["--config-action", "reload"], ["--config-source", "gopher://x/"],
                    ["--config-check", "'"]):
        with place.wrapper(*options, wait=False) as wrapper:
            assert wrapper.end() == 2
            assert options[0] in wrapper.stderr


# All that it needs is read before: interpreter and tests may be closed to other users.
DROPS_ROOT = """
import os, signal, socket, sys
code = open(sys.argv[1]).read()
os.setgroups([])
os.setgid(1000)
os.setuid(1000)
del sys.argv[0]
exec(code)
"""


@pytest.mark.parametrize(("options", "mode"), [([], 0o644), (["--config-mode", "0604"], 0o604)])
def test_a_service_that_has_dropped_root_reads_its_first_configuration(options, mode):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        os.chmod(folder, 0o755)
        place = Place(Path(folder))
        place.file.unlink()
        place.change("first")
        reads_as_another_user(place, options, mode)


def reads_as_another_user(place, options, mode):
    with Wrapper("--config-source", str(place.source), "--config-file", str(place.file), *options,
                 command=[sys.executable, "-c", DROPS_ROOT, *service("configured", str(place.file))[2:]]) as wrapper:
        assert said(wrapper) == "first"
        assert place.file.stat().st_mode & 0o777 == mode


def test_a_link_that_the_service_put_in_place_of_its_configuration_leads_to_no_file_of_roots():
    """The wrapper is root, the service is not, and the folder of its configuration is the service's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        place, secret = Place(Path(folder) / "theirs"), Path(folder) / "secret"
        secret.write_text("root's")
        os.chown(place.folder, 1000, 1000)
        place.file.unlink()
        place.file.symlink_to(secret)
        os.chown(place.file, 1000, 1000, follow_symlinks=False)
        place.change("new")
        with place.wrapper("--config-action", "none") as wrapper:
            wait_until(lambda: problems(wrapper))
            assert "Permission denied for uid 1000" in problems(wrapper)[0]["message"]
            assert wrapper.status()["state"] == "running"
        assert secret.read_text() == "root's"


@pytest.mark.parametrize("text", ["640x", "0o640", "1777", "9", "", "00644"])
def test_a_mode_is_octal(text):
    with pytest.raises(BadSettings):
        settings.read(["--upstream", "127.0.0.1:1", f"--config-mode={text}", "--", "x"], {})


def test_a_folder_as_source_needs_a_folder_as_its_place(place):
    """Else all of it would become one JSON document, and the check's fault would be the only hint."""
    place.source.mkdir()
    (place.source / "a.conf").write_text("a")
    for file in (place.folder / "there-is-none", place.file):
        for source in (place.source, f"file://{place.source}"):
            with place.wrapper("--config-file", str(file), source=source, wait=False) as wrapper:
                assert wrapper.end() == 2
                assert f"--config-file={file}: --config-source is a folder" in wrapper.stderr
    with place.wrapper("--config-select", "a.conf", source=place.source) as wrapper:
        assert said(wrapper) == "a"


def misbehaving(state, held):
    """A configuration server that does what `state["how"]` says."""
    bodies = {"fine": answer('{"part": "one"}'), "500": answer("oh", "500 Internal Server Error"),
              "garbage": os.urandom(100000), "half": answer('{"part": "tw'), "nothing": b"",
              "loop": answer("", "302 Found", "Location: /configuration")}

    def serve(connection, head):
        if state["how"] == "hangs":
            held.wait(20)
        elif state["how"] == "200 MB":
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            for _ in range(200):
                connection.sendall(b"x" * 1024 * 1024)
        else:
            connection.sendall(bodies[state["how"]])

    return serve


def test_whatever_the_source_does_the_service_never_notices(place, serve):
    """The problem says what and since when, memory stays bounded, and all is well once the source is."""
    state, held = {"how": "fine"}, threading.Event()
    server = serve(misbehaving(state, held))
    with place.wrapper("--config-select", "part", "--config-timeout", "300ms", source=server.url) as wrapper:
        assert said(wrapper) == "one"
        for how in ("hangs", "500", "garbage", "half", "200 MB", "nothing", "loop"):
            state["how"] = how
            wait_until(lambda: [found for found in problems(wrapper) if "stale since" in found["message"]], what=how)
            entry = problems(wrapper)[0]
            assert entry["source"] == "source:service.conf"
            assert record(wrapper)["stale_since"] == entry["details"]["stale_since"]
            assert said(wrapper) == "one"
            state["how"] = "fine"
            wait_until(lambda: is_well_again(wrapper), what=f"well again after {how}")
        server.close()
        wait_until(lambda: problems(wrapper))
        assert said(wrapper) == "one"
        assert wrapper.status()["generation"] == 1
        assert peak_memory(wrapper.process.pid) < 120 * 1024, "16 MiB of a document at most, and the wrapper itself"
    held.set()


def is_well_again(wrapper):
    """Have it look now, and again: one look may be too late on a busy machine, and the next by itself is rare."""
    wrapper.request("POST", "/sidecar/api/config", None, {"Authorization": "Bearer t"})
    return not problems(wrapper)


def peak_memory(pid):
    """KiB, proc(5)."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def test_secrets_of_the_source_are_shown_nowhere(place, serve):
    server = serve(answer("no", "403 Forbidden"))
    (place.folder / "token").write_text("hidden-token")
    url = f"http://user:hidden-password@127.0.0.1:{server.port}/x?key=hidden-key"
    with place.wrapper("--config-wait", "0s", source=url) as wrapper:
        wait_until(lambda: problems(wrapper))
        for path in ("status", "problems", "config"):
            assert b"hidden" not in wrapper.get(f"/sidecar/api/{path}")
        assert "hidden" not in wrapper.stderr


def test_killed_at_random_moments_the_files_are_whole_and_the_service_runs(tmp_path):
    """The full fifty are among the real ones."""
    killed_in_the_middle(tmp_path, 3, 0.9)


def killed_in_the_middle(folder, kills, longest):
    """SIGKILL of the wrapper while two files change together all the time: the next start finds all old or all new."""
    source, target = folder / "mounted", folder / "files"
    source.mkdir()
    target.mkdir()
    files = [target / "a.conf", target / "b.conf"]
    for file in files:
        file.write_text("0" * 1000)
    mount(source, 0)
    chance, stop = random.Random(kills), threading.Event()
    changer = threading.Thread(target=change_always, args=(source, stop))
    changer.start()
    options = ("--config-source", str(source), "--config-file", f"{target}/", "--config-interval", "5ms",
               "--config-min-interval", "0s", "--config-action", "POST /-/reload", "--drain-timeout", "0s")
    seen, cut_short = set(), 0
    for _ in range(kills):
        with Wrapper(*options, command=service("configured", str(files[0])), wait=False,
                     start_new_session=True) as wrapper:
            time.sleep(chance.uniform(0.2, longest))  # the random moment itself
            wrapper.process.kill()
            wrapper.process.wait()
            kill_session(wrapper.process.pid)
        cut_short += bool(journal.repair([], journal.own_folder(journal.INDEX, make=False)))
        contents = {file.read_text() for file in files}
        assert len(contents) == 1, "both are old, or both are new"
        assert len(contents.copy().pop()) == 1000
        assert sorted(os.listdir(target)) == ["a.conf", "b.conf"]
        seen |= contents
    stop.set()
    changer.join()
    with Wrapper(*options, command=service("configured", str(files[0]))) as wrapper:
        assert len(said(wrapper)) == 1000
    return seen, cut_short


def mount(folder, number):
    """Two files that change together, as the kubelet does it."""
    version = folder / f"..{number}"
    version.mkdir()
    for name in ("a.conf", "b.conf"):
        (version / name).write_text(f"{number % 10}" * 1000)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data_tmp").symlink_to(version.name)
    os.replace(folder / "..data_tmp", folder / "..data")


def change_always(folder, stop):
    number = 0
    while not stop.wait(0.03):
        number += 1
        mount(folder, number)


def kill_session(session):
    """What the kernel does to a container whose PID 1 is killed: all in it is gone, also what was just forked."""
    while members := [pid for pid in os.listdir("/proc") if pid.isdigit() and session_of(pid) == session]:
        for pid in map(int, members):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def session_of(pid):
    """None for a process that is gone, or is a zombie: that holds nothing any more (proc(5))."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, _, _, session = file.read().rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return None if state in "ZX" else int(session)
