"""history.py: files and environment are one version, whatever the order of changes and crashes."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
from hypothesis import given, strategies as st

from tests.config.test_transaction import ACL, FOR_33, Crash, attributes, crash_at, drop_locks, listing
from wrapper.config import history, journal
from wrapper.config.change import Change, apply, check_drift, roll_back
from wrapper.config.history import HISTORY_BYTES, VERSIONS_MAX, difference
from wrapper.config.transaction import Kept, Rights
from wrapper.deadline import Deadline
from wrapper.errors import NotFound
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.service.process import Spawner
from wrapper.service.service import Service, Surroundings
from wrapper.settings import settings


class Bench:
    """Files, and a stopped service whose configuration they are: it reads them when it is started."""

    def __init__(self, folder):
        self.files = [folder / "x" / "a.yml", folder / "y" / "b.yml"]
        self.history = folder / "history"
        for file in self.files:
            file.parent.mkdir()
        self.files[0].write_text("of the image")
        os.chown(self.files[0], 12, 34)
        os.chmod(self.files[0], 0o640)
        os.setxattr(self.files[0], ACL, FOR_33)
        self.service = None
        self.start()

    def start(self, *options, keeps_history=True):
        """As a wrapper does it, whose earlier process is gone."""
        if self.service is not None:
            drop_locks()
            if history.of(self.service)._file >= 0:
                os.close(history.of(self.service)._file)
            journal.repair([str(self.history), *map(str, self.files)], None)
        chosen = settings.read(["--config-source", "/x", "--config-env", "--config-history", str(self.history),
                                *options, "--", "x", "{port}"], {})
        feed = Feed()
        around = Surroundings(chosen, dict(os.environ), Spawner(), feed, Board(feed), lambda address: None,
                              keeps_history=keeps_history)
        self.service = Service("service", chosen.command, None, around, lambda *over: None)
        history.recall(self.service)

    @property
    def past(self):
        return history.of(self.service)

    def apply(self, contents=(), environment=None, **how):
        """`contents`: for each file in order; "" leaves it alone."""
        files = {str(file): content for file, content in zip(self.files, contents) if content != ""}
        return apply(self.service, files, environment=environment, **how)

    def stand(self):
        """The whole truth of each file."""
        return {str(file): whole(file) for file in self.files}

    @property
    def environment(self):
        return dict(self.service.variables)


def whole(file):
    if not file.exists():
        return None
    status = os.stat(file)
    return (file.read_bytes(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, attributes(file))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PLACES", (str(tmp_path),))
    return Bench(tmp_path)


CONTENT = st.sampled_from(["one", "two", "", None])
VARIABLES = st.none() | st.dictionaries(st.sampled_from("AB"), st.sampled_from(["1", "2", None]), max_size=2)
STEP = st.tuples(
    st.one_of(st.tuples(st.just("apply"), st.tuples(CONTENT, CONTENT), VARIABLES),
              st.tuples(st.just("reject"), st.tuples(CONTENT, CONTENT), VARIABLES),
              st.tuples(st.just("back"), st.integers(0, 5)), st.tuples(st.just("repair")),
              st.tuples(st.just("drift"), st.integers(0, 1), st.sampled_from(["by hand", None]))),
    st.none() | st.integers(1, 110))


class Model:
    """What must be there: versions by number, and the files as they were before they were the configuration's."""

    def __init__(self, bench):
        self.bench = bench
        self.managed, self.first, self.versions = {}, {}, {0: ({}, {})}

    def after(self, step):
        """The files and the environment once the step was done."""
        stand, environment = self.bench.stand(), self.bench.environment
        if step[0] == "apply":
            files = {str(file): content for file, content in zip(self.bench.files, step[1]) if content != ""}
            for path, content in files.items():
                rights = (stand[path] or (b"", 0o644, 0, 0, {}))[1:]
                stand[path] = None if content is None else (content.encode(), *rights)
            return stand, environment if step[2] is None else step[2]
        if step[0] == "back" and step[1] in self.versions:
            managed, environment = self.versions[step[1]]
            return {**stand, **{path: self.first[path] for path in self.managed}, **managed}, environment
        return ({**stand, **self.managed} if step[0] == "repair" else stand), environment

    def learn(self, step, before):
        """It is done: a new version, where one was made."""
        number = (self.bench.past.numbers() or [0])[-1]
        if number not in self.versions:
            named = [path for path, _ in self.bench.past.newest().files.items()]
            for path in named:
                self.first.setdefault(path, before[path])
            changed = named if step[0] == "back" else [
                str(file) for file, content in zip(self.bench.files, step[1]) if content != ""]
            self.managed = {**self.managed, **{path: self.bench.stand()[path] for path in changed}}
            self.versions[number] = (self.managed, self.bench.environment)


def do(bench, step):
    kind, *how = step
    if kind == "apply":
        bench.apply(*how)
    elif kind == "reject":
        bench.apply(*how, check=lambda files: "it says no")
    elif kind == "back":
        roll_back(bench.service, how[0], [])
    elif kind == "repair":
        check_drift(bench.service)


def drift(bench, which, content):
    """In place, so that owner, mode and ACL stay."""
    if content is None:
        bench.files[which].unlink(missing_ok=True)
    elif bench.files[which].exists():
        bench.files[which].write_text(content)


@given(st.lists(STEP, max_size=7))
@hypothesis.settings(max_examples=60, deadline=None)
def test_whatever_the_order_of_changes_crashes_and_ways_back_all_is_one_version(steps):
    """Byte for byte, with mode, owner and ACL; a crash leaves what was there before or what was to come."""
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "PLACES", (place,))
        patch.setattr(history, "REPAIR_INTERVAL", 0.0)
        os.chmod(place, 0o755)
        bench = Bench(Path(place))
        bench.start("--config-drift", "repair")
        model = Model(bench)
        for step, crash in steps:
            if step[0] == "drift":
                drift(bench, *step[1:])
                continue
            before, then = (bench.stand(), bench.environment), model.after(step)
            with pytest.MonkeyPatch.context() as crashing:
                crash_at(crashing, crash or 10**9)
                with contextlib.suppress(NotFound, *([Exception] if crash else [])):  # no such version; the crash
                    do(bench, step)
            if crash is not None:
                bench.start("--config-drift", "repair")
            now = (bench.stand(), bench.environment)
            assert now in ((before, then) if crash is not None else (then,))
            assert not [name for file in bench.files for name in listing(file.parent) if name.startswith(".")]
            assert all(name.endswith(".json") for _, _, names in os.walk(bench.history) for name in names)
            newest = bench.past.newest()
            assert (newest.environment if newest else {}) == bench.environment
            model.learn(step, before[0])


def test_a_crash_at_any_step_of_a_first_change_leaves_files_and_environment_of_one_version(tmp_path, monkeypatch):
    step, outcomes = 0, []
    while True:
        step += 1
        folder = tmp_path / str(step)
        folder.mkdir()
        monkeypatch.setattr(journal, "PLACES", (str(folder),))
        bench = Bench(folder)
        with monkeypatch.context() as patch:
            count = crash_at(patch, step)
            with contextlib.suppress(Crash):
                bench.apply(("new a", "new b"), {"A": "new"})
        bench.start()
        contents = [file.read_text() if file.exists() else None for file in bench.files]
        outcomes.append((contents, bench.environment, bench.past.numbers()))
        if count[0] < step:
            break
    assert step > 30
    old, new = (["of the image", None], {}, []), (["new a", "new b"], {"A": "new"}, [1])
    assert all(outcome in (old, new) for outcome in outcomes)
    assert old in outcomes
    assert new in outcomes[:-1]


def test_whatever_files_hold_and_are_called_comes_back(bench, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff \xc3\xa9.yml")
    every = bytes(range(256))
    assert apply(bench.service, {odd: every}, environment={"bytes": "\u00e9", "\x01": None}) == []
    assert apply(bench.service, {odd: b"\xff"}, environment={}) == []
    bench.start()
    assert roll_back(bench.service, 1, []) == []
    assert Path(odd).read_bytes() == every
    assert bench.environment == {"bytes": "\u00e9", "\x01": None}


def test_the_last_20_versions_are_kept_and_the_newest_whatever_its_size(bench, monkeypatch):
    for number in range(25):
        assert bench.apply((str(number),)) == []
    assert bench.past.numbers() == list(range(6, 26))
    assert len(bench.past.numbers()) == VERSIONS_MAX
    with pytest.raises(NotFound, match="no version 5; there are 6, 7"):
        roll_back(bench.service, 5, [])
    monkeypatch.setattr(history, "HISTORY_BYTES", 100)
    bench.apply(("x" * 1000,))
    assert bench.past.numbers() == [26]
    assert HISTORY_BYTES > 16 * 1024 * 1024, "a version of the largest source fits in"


def test_a_small_disk_is_not_filled_with_the_past(bench, monkeypatch):
    """As a tmpfs at /run may be: without room no later change can be made. Some file systems say no size."""
    for content in "12345":
        assert bench.apply((content * 4096,)) == []
    size = os.stat(bench.history / "service" / "5.json").st_size
    for disk, left in ((0, [1, 2, 3, 4, 5, 6]), (2 * size * 4, [6, 7])):
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", lambda path, disk=disk: SimpleNamespace(f_blocks=disk, f_frsize=1))
            assert bench.apply((str(left[-1]) * 4096,)) == []
        assert bench.past.numbers() == left


@pytest.mark.parametrize("how", [{"check": lambda files: "no"}, {"environment": {"A": []}}])
def test_what_was_never_in_force_is_no_version(bench, how):
    assert bench.apply(("new",), **how)
    assert bench.past.numbers() == []
    assert bench.environment == {}


def test_what_changes_nothing_is_no_version(bench):
    for _ in range(2):
        assert bench.apply(("new",), {"A": "1"}) == []
    assert bench.past.numbers() == [1]


def test_a_version_holds_all_files_though_a_change_names_only_some(bench):
    bench.apply(("a1", "b1"))
    bench.apply(("", "b2"))
    bench.apply(("a3", "b3"))
    assert roll_back(bench.service, 2, []) == []
    assert [file.read_text() for file in bench.files] == ["a1", "b2"]


@pytest.mark.parametrize("files", [("half done",), ()])
def test_a_version_whose_change_was_not_ended_is_none(bench, files):
    """Its way back failed, and the next change mends what it left."""
    contents = {str(file): content for file, content in zip(bench.files, files)}
    Change(bench.service, contents, "restart", None, environment={"A": "half"}).prepare(None, Deadline(None))
    drop_locks()
    assert bench.apply(("new",), {"A": "1"}) == []
    assert listing(bench.history / "service") == ["2.json"]
    assert bench.past.version(2).before[str(bench.files[0])].content == b"of the image"


def test_the_check_sees_the_environment_of_the_next_run(bench, tmp_path):
    seen = tmp_path / "seen"
    check = ["sh", "-c", f'echo "$A ${{HOME-gone}}" > {seen}']
    assert bench.apply((), {"A": "new", "HOME": None}, check=check) == []
    assert seen.read_text() == "new gone\n"


def test_a_folder_that_others_can_read_is_not_used(bench):
    (bench.history / "service").mkdir(parents=True, mode=0o755)
    bench.start()
    assert bench.apply(("new",), {"A": "1"}) == []
    assert listing(bench.history / "service") == []
    assert bench.past.numbers() == [1]
    assert "it must be ours alone" in bench.service.around.board.list()[0]["message"]
    assert bench.apply(("newer",), {"A": "2"}) == []
    assert roll_back(bench.service, 1, []) == []
    assert (bench.files[0].read_text(), bench.environment) == ("new", {"A": "1"}), "in memory"


def test_two_wrappers_do_not_write_into_one_folder(bench):
    bench.apply(("new",))
    first = bench.service
    bench.service = None
    bench.start()
    bench.apply(("other",))
    assert bench.past.numbers() == [1]
    assert "another wrapper has it" in bench.service.around.board.list()[0]["message"]
    assert listing(bench.history / "service") == ["1.json"]
    os.close(history.of(first)._file)


def test_a_folder_that_something_has_removed_is_made_anew(bench):
    """What tidies /tmp up knows nothing of us; the past is lost with it, and no change to come."""
    assert bench.apply(("new",), {"A": "1"}) == []
    shutil.rmtree(bench.history)
    assert (bench.past.numbers(), bench.past.newest(), bench.past.drifted()) == ([], None, {})
    assert bench.apply(("newer",), {"A": "2"}) == []
    assert bench.files[0].read_text() == "newer"
    assert listing(bench.history / "service") == ["1.json"]
    assert roll_back(bench.service, 0, []) == []
    assert (bench.files[0].read_text(), bench.environment) == ("new", {})


def test_without_a_folder_of_its_own_it_is_the_first_place_that_can_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PLACES", ("/proc/none", str(tmp_path)))
    chosen = settings.read(["--upstream", "127.0.0.1:1", "--", "x"], {})
    assert history.folder_of(chosen) is None
    place = history.folder_of(chosen, make=True)
    assert Path(place).parent == tmp_path / f"wrapper-history-{os.geteuid()}"
    other = settings.read(["--upstream", "127.0.0.1:1", "--", "y"], {})
    assert history.folder_of(other) != place, "another command's environment is none of ours"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 5}', "5"])
def test_a_version_that_cannot_be_read_is_none(bench, content):
    bench.apply(("new",), {"A": "1"})
    (bench.history / "service" / "1.json").write_text(content)
    bench.start()
    assert bench.environment == {}
    with pytest.raises(LookupError, match="cannot be read"):
        bench.past.version(1)
    assert bench.apply(("newer",), {"A": "2"}) == []
    assert bench.past.newest().environment == {"A": "2"}
    assert [version["version"] for version in bench.past.outline()] == [2]


def file_of(content):
    return None if content is None else Kept(content, Rights(0o644, 0, 0, {}))


@pytest.mark.parametrize(("old", "new", "lines"), [
    (b"a\nb\n", b"a\nc\n", ["--- then", "+++ now", "@@ -1,2 +1,2 @@", " a", "-b", "+c"]),
    (b"a", b"a", []), (None, None, []),
    (b"a\n", None, ["--- then", "+++ nothing", "@@ -1 +0,0 @@", "-a"]),
    (None, b"", ["nothing 0 bytes, now 0 bytes"]),
    (b"a\n", b"a", ["then 2 bytes, now 1 bytes"]), (b"\xff", b"a", ["then 1 bytes, now 1 bytes"]),
    (b"x" * 200_000, b"y", ["then 200000 bytes, now 1 bytes"]),
])
def test_a_difference_is_lines_or_sizes(old, new, lines):
    assert difference(file_of(old), file_of(new)) == lines
