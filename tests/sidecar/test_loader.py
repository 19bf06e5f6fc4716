"""loader.py: --sidecar finds modules and files; what fails there is a problem, and the service goes on."""

from __future__ import annotations

import json
import sys
import threading

import pytest

from tests.running import ROOT, Wrapper, service, wait_until
from tests.sidecar.parts import make_request, make_site, serve
from wrapper.errors import Unavailable
from wrapper.service.state import State
from wrapper.sidecar.loader import Loader, sidecars, title

HELLO = """
from wrapper import Sidecar
sidecar = Sidecar()

@sidecar.route("GET", "/sidecar/{path}")
def hello(request):
    return {{"hello": "{path}"}}
"""


@pytest.fixture
def loader():
    site = make_site()
    loader = Loader(site)
    loader.site = site
    yield loader
    loader.stop()


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return str(path)


def problem(loader, text):
    return wait_until(lambda: next((one for one in loader.site.around.board.list() if text in one["message"]), None))


def routes(loader):
    return loader.site.router._paths


def test_a_file_is_loaded(loader, tmp_path):
    loader.load(write(tmp_path, "mine.py", HELLO.format(path="mine")))
    assert "/sidecar/mine" in routes(loader)


def test_a_file_is_found_from_the_folder_of_the_start_wherever_another_sidecar_went(tmp_path, monkeypatch):
    write(tmp_path, "mine.py", HELLO.format(path="mine"))
    monkeypatch.chdir(tmp_path)
    loader = Loader(make_site())
    monkeypatch.chdir("/")
    loader.load("mine.py")
    loader.stop()


def test_a_module_is_loaded(loader, tmp_path, monkeypatch):
    write(tmp_path, "a_module_of_mine.py", HELLO.format(path="module"))
    monkeypatch.syspath_prepend(str(tmp_path))
    loader.load("a_module_of_mine")
    assert "/sidecar/module" in routes(loader)


def test_what_lies_beside_a_file_can_be_imported(loader, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    write(tmp_path, "its_neighbour.py", "PATH = '/sidecar/near'")
    loader.load(write(tmp_path, "near.py", "from its_neighbour import PATH\nfrom wrapper import Sidecar\n"
                      "s = Sidecar()\ns.route('GET', PATH)(lambda: 'x')\n"))
    assert "/sidecar/near" in routes(loader)
    assert str(tmp_path) != sys.path[0]


def test_a_module_may_hold_several_sidecars_and_one_under_two_names(tmp_path):
    from wrapper import Sidecar
    module = type(sys)("module")
    module.one = module.again = Sidecar()
    module.two = Sidecar()
    assert [name for name, _ in sidecars(module)] == ["one", "two"]


def test_two_of_one_name_are_told_apart(loader, tmp_path):
    """Else one would take the problems of the other off the board."""
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        loader.load(write(tmp_path / folder, "same.py", f"from wrapper import Sidecar\nsidecar = Sidecar()\n"
                          f"sidecar.problem('from {folder}')\n"))
    assert [(one["source"], one["message"]) for one in loader.site.around.board.list()] == [
        ("sidecar:same", "from one"), ("sidecar:same-2", "from other")]


def test_a_sidecar_is_called_after_its_module():
    assert [title(word) for word in ("a.b.c", "/x/y.py", "mine")] == ["c", "y", "mine"]


@pytest.mark.parametrize(("text", "message"), [
    ("import no_such_module", "No module named 'no_such_module'"),
    ("x = (", "was never closed|unexpected EOF"),
    ("raise ValueError('s3cret')", "ValueError at broken.py:1"),
    ("import sys; sys.exit(3)", "SystemExit at broken.py:1"),
    ("x = 1", "holds no Sidecar"),
])
def test_an_import_that_fails_is_a_problem(loader, tmp_path, text, message):
    path = write(tmp_path, "broken.py", text)
    loader.start([path])
    found = problem(loader, "the import failed")
    assert any(part in found["message"] for part in message.split("|"))
    assert found["source"] == f"sidecar:{path}"
    assert "s3cret" not in found["message"]


def test_a_file_or_module_that_is_not_there_is_a_problem(loader):
    loader.start(["/does/not/exist.py", "does_not.exist"])
    problem(loader, "No such file")
    problem(loader, "No module named 'does_not'")


def test_an_import_that_hangs_is_a_problem_until_it_ends(loader, tmp_path, monkeypatch):
    monkeypatch.setattr("wrapper.sidecar.loader.LOAD_TIMEOUT", 0.05)
    go_on = threading.Event()
    monkeypatch.setattr(threading, "test_go_on", go_on, raising=False)
    waits = "import threading; threading.test_go_on.wait()\n"
    loader.start([write(tmp_path, "slow.py", waits + HELLO.format(path="slow"))])
    problem(loader, "has not ended")
    go_on.set()
    wait_until(lambda: not loader.site.around.board.list())
    assert "/sidecar/slow" in routes(loader)


def test_an_import_for_which_there_is_no_thread_is_a_problem_and_no_outage(loader, refuse_threads):
    refuse_threads("load no.such.module")
    loader.start(["no.such.module"])
    problem(loader, "cannot import no.such.module: can't start new thread")
    assert loader.site.sidecars()["failed"] == ["no.such.module"]


# While it loads


def asked(token="sesame", target="/admin/rotate", **options):
    return make_request("POST", target, headers=[("Authorization", f"Bearer {token}")], **options)


def readiness(site):
    if site.services[0].life.state is not State.RUNNING:
        serve(site.services[0])
    return json.loads(site.answer(make_request("GET", "/sidecar/readyz")).whole())["sidecars"]


@pytest.fixture
def slow(tmp_path):
    """A site with a sidecar whose import ends when the file `go-on` says how."""
    text = ("import pathlib, time\n"
            f"go_on = pathlib.Path({str(tmp_path / 'go-on')!r})\n"
            "while not go_on.exists(): time.sleep(.01)\n"
            "exec(go_on.read_text())\n")
    word = write(tmp_path, "slow.py", text)
    site = make_site("--sidecar", word, "--token", "sesame")
    loader = Loader(site)
    yield site, loader, word, tmp_path / "go-on"
    (tmp_path / "go-on").write_text("pass")
    loader.stop()


def put(file, text):
    """Whole or not at all: the import reads it as soon as it is there."""
    whole = file.with_suffix(".part")
    whole.write_text(text)
    whole.replace(file)


def test_a_token_is_not_relayed_while_the_path_it_is_for_may_still_come(slow):
    """The service would get the token of the operator."""
    site, loader, word, go_on = slow
    assert "/admin/rotate".startswith(site.prefixes)
    with pytest.raises(Unavailable) as refusal:
        site.answer(asked())
    assert dict(refusal.value.headers)["Retry-After"]
    assert site.answer(asked("of the service's own")) is None
    assert site.answer(make_request("POST", "/admin/rotate")) is None
    loader.start([word])
    assert readiness(site) == {"loading": [word], "failed": []}
    put(go_on, "from wrapper import Sidecar\nsidecar = Sidecar()\n"
               "sidecar.route('POST', '/admin/rotate', guarded=True)(lambda: 'done')\n")
    wait_until(lambda: readiness(site) == {"loading": [], "failed": []})
    assert site.prefixes == ("/sidecar", "/admin/rotate")
    assert site.answer(asked()).whole() == b"done"
    assert site.answer(asked(target="/other")) is None


def test_the_service_is_served_as_ever_where_the_import_failed(slow):
    """Sidecar code can never take the service down."""
    site, loader, word, go_on = slow
    loader.start([word])
    put(go_on, "raise ValueError")
    wait_until(lambda: readiness(site) == {"loading": [], "failed": [word]})
    assert site.prefixes == ("/sidecar",)
    assert site.answer(asked()) is None


def test_an_import_that_hangs_counts_as_failed_until_it_ends(slow, monkeypatch):
    site, loader, word, go_on = slow
    monkeypatch.setattr("wrapper.sidecar.loader.LOAD_TIMEOUT", 0.05)
    loader.start([word])
    wait_until(lambda: readiness(site) == {"loading": [], "failed": [word]})
    put(go_on, "from wrapper import Sidecar\nsidecar = Sidecar()\n")
    wait_until(lambda: readiness(site) == {"loading": [], "failed": []})


def test_no_sidecar_says_what_to_write(loader, tmp_path):
    with pytest.raises(ImportError, match=r"sidecar = Sidecar\(\)"):
        loader.load(write(tmp_path, "empty.py", ""))


def test_a_sidecar_that_was_given_twice_runs_once(loader, tmp_path, monkeypatch):
    write(tmp_path, "given_twice.py", HELLO.format(path="twice"))
    monkeypatch.syspath_prepend(str(tmp_path))
    loader.load("given_twice")
    with pytest.raises(ValueError, match="twice"):
        loader.load("given_twice")


def test_the_whole_road_with_a_good_and_a_bad_sidecar(tmp_path):
    good = write(tmp_path, "good.py", HELLO.format(path="good"))
    hangs = write(tmp_path, "hangs.py", "import threading\nthreading.Event().wait()\n")
    with Wrapper("--sidecar", good, "--sidecar", hangs, "--sidecar", "no.such.module",
                 command=service("plain")) as wrapper:
        wrapper.wait_line("sidecar loaded")
        assert wrapper.get("/sidecar/good") == b'{"hello": "good"}\n'
        wait_until(lambda: "no.such.module" in str(wrapper.command("GET", "/sidecar/api/problems")))
        assert wrapper.status()["state"] == "running"
        assert wrapper.end(15) == 0  # its own status


# Its service ends when the task has.
WAITING = """
import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, lambda *_: None)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while not os.path.exists("cleaned-up"):
    time.sleep(.01)  # the pace of its looks
"""
TASK = """
import sys
from wrapper import Sidecar
sidecar = Sidecar()

@sidecar.task
def work(service, stopping):
    sys.stderr.write("begun\\n")
    stopping.wait()
    sys.stderr.write(f"told while the service is {service.state}\\n")
    service.wait_ready(0)
    sys.stderr.write("cleaned up\\n")
    open("cleaned-up", "w").close()

@sidecar.task
def heeds_nothing():
    import threading
    threading.Event().wait()
"""


def test_a_task_has_as_long_to_end_as_the_service(tmp_path):
    with Wrapper("--sidecar", write(tmp_path, "ends.py", TASK), command=[sys.executable, "-c", WAITING, "{port}"],
                 cwd=tmp_path, environment={"PYTHONPATH": str(ROOT)}) as wrapper:
        wrapper.wait_line("sidecar loaded")
        wrapper.wait_line("begun")
        wrapper.end(15)  # one that heeds nothing is not waited for
        assert "cleaned up" in wrapper.stderr
