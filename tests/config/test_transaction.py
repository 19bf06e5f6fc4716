"""transaction.py and journal.py: wholly the old files or wholly the new ones, with their rights, whatever happens."""

from __future__ import annotations

import errno
import os
import stat
import threading

import pytest

from wrapper.config import journal
from wrapper.config import transaction as room_of_files
from wrapper.config.journal import beside, index_folder, repair
from wrapper.config.transaction import Fault, Transaction


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def listing(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def files(tmp_path):
    """Two files, and a third that is not there yet."""
    paths = [tmp_path / "a.yml", tmp_path / "b.yml", tmp_path / "c.yml"]
    paths[0].write_text("old a")
    paths[1].write_text("old b")
    return paths


def contents(files):
    return [path.read_text() if path.exists() else None for path in files]


def begin(files, index=None):
    transaction = Transaction({str(path): f"new {path.stem}" for path in files}, index)
    transaction.stage()
    return transaction


def test_the_new_files_are_in_place_and_nothing_else_is_left(files, tmp_path):
    transaction = begin(files)
    assert contents(files) == ["old a", "old b", None], "before the check nothing is touched"
    transaction.replace()
    transaction.keep()
    assert contents(files) == ["new a", "new b", "new c"]
    assert listing(tmp_path) == ["a.yml", "b.yml", "c.yml"]


@pytest.mark.parametrize("replaced", [False, True])
def test_all_is_put_back_and_nothing_else_is_left(files, tmp_path, replaced):
    os.utime(files[0], (1000, 1000))
    transaction = begin(files)
    if replaced:
        transaction.replace()
    transaction.undo()
    assert contents(files) == ["old a", "old b", None]
    assert listing(tmp_path) == ["a.yml", "b.yml"]
    assert os.stat(files[0]).st_mtime == 1000


def test_a_new_file_waits_beside_its_place_where_no_pattern_of_the_service_finds_it(files, tmp_path):
    """Relative names in it mean what they will mean; and Go's patterns match a dot in front (path/filepath, Match)."""
    transaction = Transaction({str(files[0]): "new"}, None)
    staged = transaction.stage()
    assert os.path.dirname(staged[str(files[0])]) == str(tmp_path)
    assert [name for name in listing(tmp_path) if name.endswith((".yml", ".json"))] == ["a.yml", "b.yml"]
    transaction.undo()


def test_the_names_of_the_copies_are_safe_before_the_first_file_is_replaced(files, monkeypatch):
    """fsync(2): a file's name is safe only once its folder is."""
    done = []
    sync, replace = journal.sync_folder, os.replace
    monkeypatch.setattr(journal, "sync_folder", lambda folder: (done.append("sync"), sync(folder)))
    monkeypatch.setattr(room_of_files, "_write", lambda path, *_, write=room_of_files._write: (
        done.append("write"), write(path, *_)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("replace"), replace(*names)))
    transaction = begin(files)
    transaction.replace()
    transaction.keep()
    assert "sync" in done[len(done) - done[::-1].index("write"):done.index("replace")]


def test_mode_and_owner_stay(files):
    os.chmod(files[0], 0o604)
    os.chown(files[0], 12, 34)
    transaction = begin(files[:1])
    transaction.replace()
    transaction.keep()
    assert mode(files[0]) == 0o604
    assert (os.stat(files[0]).st_uid, os.stat(files[0]).st_gid) == (12, 34)


def without_privileges(monkeypatch, number, *groups):
    """chown(2) for a process that is not root, but of these groups."""
    give = os.fchown

    def only_groups(file, owner, group):
        if owner != -1 or group not in groups:
            raise OSError(number, os.strerror(number))
        give(file, owner, group)

    monkeypatch.setattr(os, "fchown", only_groups)


@pytest.mark.parametrize(("groups", "before", "after"), [
    ((34,), 0o640, 0o640), ((), 0o640, 0o600), ((), 0o664, 0o644), ((), 0o604, 0o604),
])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
def test_without_privileges_the_group_is_kept_or_gets_nothing(files, monkeypatch, groups, before, after, number):
    """A secret that the old group could read is not for the group that the wrapper happens to have.

    An owner of the host's whom a rootless container does not know is invalid there (user_namespaces(7)).
    """
    os.chmod(files[0], before)
    os.chown(files[0], 12, 34)
    without_privileges(monkeypatch, number, *groups)
    transaction = begin(files[:1])
    transaction.replace()
    transaction.keep()
    assert mode(files[0]) == after
    assert os.stat(files[0]).st_gid == (34 if groups else os.getegid())


def test_a_new_file_is_not_for_all_and_belongs_to_whoever_owns_the_folder(files, tmp_path):
    os.chown(tmp_path, 12, 34)
    transaction = begin(files[2:])
    transaction.replace()
    transaction.keep()
    assert mode(files[2]) == 0o640
    assert (os.stat(files[2]).st_uid, os.stat(files[2]).st_gid) == (12, 34)


def test_nothing_is_readable_for_all_on_its_way(files, tmp_path, monkeypatch):
    os.chmod(files[0], 0o600)
    seen = []
    rights = os.fchmod
    monkeypatch.setattr(os, "fchmod",
                        lambda file, mode: (seen.append(os.fstat(file).st_mode & 0o077), rights(file, mode)))
    transaction = begin(files[:1])
    assert seen == [0, 0], "until they have their rights the copies are for nobody else"
    assert [mode(tmp_path / name) & 0o077 for name in listing(tmp_path) if name != "b.yml"] == [0] * 4
    transaction.undo()


def test_a_symbolic_link_stays_and_its_file_is_replaced(files, tmp_path):
    link = tmp_path / "link.yml"
    link.symlink_to("a.yml")
    transaction = begin([link])
    transaction.replace()
    transaction.keep()
    assert link.is_symlink()
    assert files[0].read_text() == "new link"


def test_a_file_can_be_taken_away_and_comes_back(files):
    transaction = Transaction({str(files[0]): None}, None)
    transaction.stage()
    transaction.replace()
    assert contents(files)[0] is None
    transaction.undo()
    assert contents(files)[0] == "old a"


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(Fault, match="cannot write .*nowhere"):
        Transaction({str(tmp_path / "nowhere" / "x"): "new"}, None).stage()


def test_the_same_file_twice_is_refused(files, tmp_path):
    with pytest.raises(Fault, match="the same file"):
        Transaction({str(files[0]): "1", f"{tmp_path}/./a.yml": "2"}, None)


def test_a_second_one_meanwhile_is_refused(files):
    first = begin(files)
    with pytest.raises(Fault, match="another process changes these files") as caught:
        begin(files)
    assert caught.value.retry
    first.undo()


def test_transactions_that_share_any_file_exclude_each_other(files):
    """Else the one that is kept would keep what the other's check has not seen yet."""
    first = begin(files[:2])
    for others in (files[1:], files[:1], files[1:2]):
        with pytest.raises(Fault, match="another process changes these files") as caught:
            begin(others)
        assert caught.value.retry
    other = begin(files[2:])
    other.undo()
    first.replace()
    first.keep()
    begin(files[1:]).undo()
    assert contents(files) == ["new a", "new b", None]


def test_one_that_is_refused_leaves_nothing(files, tmp_path):
    first = begin(files[1:2])
    before = listing(tmp_path)
    with pytest.raises(Fault):
        begin(files)
    assert listing(tmp_path) == before
    first.undo()
    assert listing(tmp_path) == ["a.yml", "b.yml"]


def test_what_fails_half_way_is_put_back(files, tmp_path, monkeypatch):
    transaction = begin(files)
    replace, count = os.replace, []

    def fail_at_the_second(source, target):
        count.append(target)
        if len(count) == 2:
            raise OSError(28, "No space left on device", source)
        return replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_second)
    with pytest.raises(Fault, match="No space left"):
        transaction.replace()
    assert contents(files) == ["old a", "old b", None]
    assert listing(tmp_path) == ["a.yml", "b.yml"]


def fill_disk(monkeypatch, room):
    """Let a file that is written whole end after `room` bytes."""
    write = room_of_files._write

    def short(path, content, *rights):
        write(path, content[:room], *rights)
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(room_of_files, "_write", short)


def test_a_full_disk_leaves_the_live_file_alone(files, tmp_path, monkeypatch):
    """What was copied before it ended is no copy: it must never come in the place of the file itself."""
    before = os.stat(files[0])
    with monkeypatch.context() as patch:
        fill_disk(patch, 3)
        with pytest.raises(Fault, match="No space left"):
            begin(files)
    assert contents(files) == ["old a", "old b", None]
    assert os.stat(files[0]).st_ino == before.st_ino
    assert listing(tmp_path) == ["a.yml", "b.yml"]
    begin(files).undo()


def test_a_change_that_is_not_made_leaves_the_file_itself(files):
    """Without privileges a copy would lose the owner; and what the service itself wrote meanwhile stays."""
    before = os.stat(files[0]).st_ino
    transaction = begin(files)
    with open(files[0], "a") as file:
        file.write(" and more")
    files[2].write_text("somebody else's")
    transaction.undo()
    assert contents(files) == ["old a and more", "old b", "somebody else's"]
    assert os.stat(files[0]).st_ino == before


def test_a_file_that_is_mounted_by_itself_is_named_and_the_next_change_is_not_refused(files, tmp_path, monkeypatch):
    """rename(2) onto a mount point is EBUSY, again and again."""

    def busy(source, target):
        raise OSError(16, "Device or resource busy", source, None, target)

    for _ in range(2):
        transaction = begin(files[:1])
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", busy)
            with pytest.raises(Fault, match=r"a\.yml: it is mounted by itself; mount its folder instead"):
                transaction.replace()
        assert listing(tmp_path) == ["a.yml", "b.yml"]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_journal_that_cannot_be_written_refuses_this_change_only(files, tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, call, full)
        with pytest.raises(Fault, match="No space left"):
            begin(files)
    assert [name for name in listing(tmp_path) if call == "write" and name.startswith(".")] == []
    begin(files).undo()


def test_a_file_system_without_locks_is_named_each_time(files, tmp_path, monkeypatch):
    """As NFS without its lock daemon; and no other process is at it."""
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    descriptors = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(journal.fcntl, "flock", refuse)
        for _ in range(2):
            with pytest.raises(Fault, match="No locks available"):
                begin(files)
    assert listing(tmp_path) == ["a.yml", "b.yml"]
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_way_back_that_fails_is_gone_again_by_the_next_change(files, monkeypatch):
    transaction = begin(files[:1])
    transaction.replace()
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error", "x")))
        with pytest.raises(Fault, match="cannot put the files back") as caught:
            transaction.undo()
    assert caught.value.retry, "the next try puts them back, whatever becomes of its own content"
    begin(files[:1]).undo()
    assert contents(files) == ["old a", "old b", None]


def test_what_is_in_force_stays_where_the_journal_cannot_say_so(files, tmp_path, monkeypatch):
    """A full disk refuses the line; without it a repair would put back what was there before."""
    def full(*_):
        raise OSError(28, "No space left on device")

    transaction = begin(files)
    transaction.replace()
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", full)
        transaction.keep()
    repair([str(path) for path in files], None)
    assert contents(files) == ["new a", "new b", "new c"]
    assert listing(tmp_path) == ["a.yml", "b.yml", "c.yml"]


@pytest.mark.parametrize(("ending", "outcome"), [
    ("keep", ["new a", "new b", "new c"]), ("undo", ["old a", "old b", None]),
])
def test_what_cannot_be_tidied_up_is_no_fault_of_the_change(files, tmp_path, monkeypatch, ending, outcome):
    """It would be said to be undone, or not to be, and the service would not be told of the files that are back."""
    def broken(*_):
        raise OSError(5, "Input/output error")

    transaction = begin(files)
    transaction.replace()
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_tidy", broken)
        getattr(transaction, ending)()
    assert contents(files) == outcome
    begin(files).undo()
    assert contents(files) == outcome
    assert not [name for name in listing(tmp_path) if name.startswith(".")]


def test_a_change_that_cannot_end_is_told(files, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    transaction = begin(files)
    transaction.replace()
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", broken)
        patch.setattr(journal.os, "unlink", broken)
        with pytest.raises(Fault, match="cannot end the change: Input/output error"):
            transaction.keep()
    begin(files).undo()


# After a crash


class Crash(Exception):
    """The process is gone: nothing of ours runs any more, and the kernel drops its locks."""


CALLS = ("replace", "unlink", "fsync", "write", "open", "fchmod", "utime", "symlink", "close")


def crash_at(monkeypatch, step):
    """Let the `step`th call that changes something be the last one; returns the counter."""
    count = [0]

    def watched(call):
        def through(*arguments, **named):
            count[0] += 1
            if count[0] >= step:
                raise Crash
            return call(*arguments, **named)

        return through

    for name in CALLS:
        monkeypatch.setattr(journal.os, name, watched(getattr(os, name)))
    return count


@pytest.mark.parametrize("ending", ["keep", "undo"])
def test_a_crash_at_any_step_leaves_all_old_or_all_new(tmp_path, ending):
    """Every single call that changes something is once the last one before the crash."""
    step, outcomes = 0, set()
    while True:
        step += 1
        folder, index = tmp_path / f"{ending}{step}", tmp_path / f"index{step}"
        folder.mkdir()
        index.mkdir(mode=0o700)
        files = [folder / "a.yml", folder / "b.yml", folder / "c.yml"]
        files[0].write_text("old a")
        files[1].write_text("old b")
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            transaction, is_over = None, False
            try:
                transaction = begin(files, str(index))
                transaction.replace()
                getattr(transaction, ending)()
                is_over = True
            except (Crash, Fault):
                pass
        drop_locks()
        repair([], str(index))
        repair([str(path) for path in files], str(index))
        outcomes.add(tuple(contents(files)))
        assert tuple(contents(files)) in {("old a", "old b", None), ("new a", "new b", "new c")}, step
        assert {name for name in listing(folder) if name.startswith(".")} == set(), step
        assert listing(index) == [], step
        if is_over:
            break
    assert step > 30
    assert ("old a", "old b", None) in outcomes
    assert (("new a", "new b", "new c") in outcomes) == (ending == "keep")


def drop_locks():
    """What the kernel does for a process that ended."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if "wrapper-journal" in os.readlink(f"/proc/self/fd/{name}"):
                os.close(int(name))
        except OSError:
            pass


def abandon(files, index=None):
    """A transaction whose process ended in the middle."""
    transaction = begin(files, index)
    transaction.replace()
    drop_locks()


def test_repair_puts_back_and_says_what(files, tmp_path):
    abandon(files)
    assert sorted(repair([str(files[0])], None)) == [str(path) for path in files]
    assert contents(files) == ["old a", "old b", None]
    assert repair([str(files[0])], None) == []


def test_the_next_transaction_repairs_what_it_finds(files):
    abandon(files)
    transaction = begin(files)
    transaction.undo()
    assert contents(files) == ["old a", "old b", None]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_whoever_changes_one_of_the_files_repairs_all_of_them_before_it_reads_any(files, tmp_path, number):
    """Else its own way back would lead to what the crash has left, or one version too far."""
    abandon(files)
    transaction = Transaction({str(files[number]): "next"}, None)
    assert contents(files) == ["old a", "old b", None]
    assert transaction.is_change
    assert transaction.old_hash == Transaction({str(files[number]): "other"}, None).old_hash
    assert listing(tmp_path) == ["a.yml", "b.yml"]


def test_a_note_whose_journal_is_another_ones_is_left_alone(files, tmp_path):
    """It belongs to a transaction under way, whose files are wanted by nobody else before its end."""
    abandon(files)
    os.unlink(beside(str(files[0])))
    other = begin(files[:1])
    assert repair([str(path) for path in files], None) == []
    assert beside(str(files[1])) in map(str, tmp_path.iterdir())
    other.undo()
    assert repair([str(path) for path in files], None) == []
    assert [name for name in listing(tmp_path) if name.endswith("journal")] == []


def test_a_transaction_that_is_under_way_is_left_alone(files):
    transaction = begin(files)
    transaction.replace()
    assert repair([str(files[0])], None) == []
    assert contents(files) == ["new a", "new b", "new c"]
    transaction.keep()


def test_the_index_finds_journals_whose_paths_nobody_knows(files, tmp_path):
    index = tmp_path / "index"
    index.mkdir(mode=0o700)
    abandon(files, str(index))
    assert len(listing(index)) == 1
    repair([], str(index))
    assert contents(files) == ["old a", "old b", None]
    assert listing(index) == []


def test_a_journal_of_somebody_else_is_left_alone(files, tmp_path):
    """In a folder that others can write to, a journal would make us put their files in place."""
    abandon(files)
    os.chown(beside(str(files[0])), 12, 34)
    assert repair([str(files[0])], None) == []
    assert contents(files) == ["new a", "new b", "new c"]


@pytest.mark.parametrize("line", [b"", b'{"phase": "stag', b'{"phase": "replacing"}\n', b"[]\n", b"\xff\n"])
def test_a_journal_that_makes_no_sense_harms_nobody(files, line):
    with open(beside(str(files[0])), "wb") as file:
        file.write(line)
    repair([str(files[0])], None)
    assert contents(files) == ["old a", "old b", None]


def test_an_index_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PLACES", (str(tmp_path),))
    place = index_folder(make=True)
    assert mode(place) == 0o700
    os.chmod(place, 0o777)
    assert index_folder(make=False) is None
    os.chmod(place, 0o700)
    os.chown(place, 12, 34)
    assert index_folder(make=True) is None


def test_the_journal_holds_no_content(files):
    transaction = Transaction({str(files[0]): "password"}, None)
    transaction.stage()
    with open(beside(str(files[0]))) as file:
        assert "password" not in file.read()
    transaction.undo()


def test_an_index_that_changes_meanwhile_harms_nobody(files, tmp_path, monkeypatch):
    """Several wrappers on one machine share it."""
    monkeypatch.setattr(journal, "_entries", lambda index: [str(tmp_path / "gone")])
    assert repair([], str(tmp_path)) == []


def test_repair_waits_for_the_repair_of_another_wrapper(files, tmp_path, monkeypatch):
    """Wrappers on one machine share the index: a service must not start while somebody else puts its files back."""
    index = tmp_path / "index"
    index.mkdir(mode=0o700)
    abandon(files, str(index))
    half_way, go_on, replace = threading.Event(), threading.Event(), os.replace

    def pause_behind_the_first(source, target):
        replace(source, target)
        if not half_way.is_set():
            half_way.set()
            go_on.wait(10)

    monkeypatch.setattr(os, "replace", pause_behind_the_first)
    seen = []
    other = threading.Thread(target=repair, args=([], str(index)))
    ours = threading.Thread(target=lambda: (repair([], str(index)), seen.extend(contents(files))))
    other.start()
    assert half_way.wait(10)
    ours.start()
    ours.join(0.2)  # time to be wrong
    assert seen == []
    go_on.set()
    other.join(10)
    ours.join(10)
    assert seen == ["old a", "old b", None]


def before_the_next_lock(monkeypatch, act):
    """Have `act` done between a journal's opening and its locking."""
    lock = journal.fcntl.flock

    def late(file, how):
        monkeypatch.setattr(journal.fcntl, "flock", lock)
        act()
        lock(file, how)

    monkeypatch.setattr(journal.fcntl, "flock", late)


def test_a_journal_that_is_not_the_one_at_its_place_any_more_is_left_alone(files, monkeypatch):
    """Its transaction ended while a repair opened it, and the next one is under way over the same files."""
    first, following = begin(files), []
    first.replace()

    def go_on():
        first.undo()
        following.append(begin(files))
        following[0].replace()

    before_the_next_lock(monkeypatch, go_on)
    assert journal.repair_one(beside(str(files[0]))) == []
    assert contents(files) == ["new a", "new b", "new c"]
    following[0].undo()
    assert contents(files) == ["old a", "old b", None]


def test_a_transaction_whose_journal_is_taken_away_does_not_begin(files, tmp_path, monkeypatch):
    """A repair may take a journal that is not locked yet for one that was left behind."""
    before_the_next_lock(monkeypatch, lambda: journal.repair_one(beside(str(files[0]))))
    with pytest.raises(Fault, match="another process changes these files") as caught:
        begin(files)
    assert caught.value.retry
    assert listing(tmp_path) == ["a.yml", "b.yml"]


def test_the_journals_of_a_folder_are_found_without_the_index(files, tmp_path):
    """A container that is made anew keeps its volumes only."""
    abandon(files)
    assert sorted(repair([f"{tmp_path}/"], None)) == [str(path) for path in files]
    assert contents(files) == ["old a", "old b", None]


def test_the_journals_of_folders_in_a_folder_are_found_too(tmp_path):
    files = [tmp_path / "one" / "a.yml", tmp_path / "two" / "b.yml"]
    for file in files:
        file.parent.mkdir()
        file.write_text("old")
    abandon(files)
    assert sorted(repair([str(tmp_path)], None)) == [str(file) for file in files]
    assert contents(files) == ["old", "old"]


def test_an_index_that_is_gone_keeps_no_service_from_starting(files, tmp_path):
    abandon(files)
    repair([str(files[0])], str(tmp_path / "gone"))
    assert contents(files) == ["old a", "old b", None]
