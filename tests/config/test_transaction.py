"""transaction.py and journal.py: wholly the old files or wholly the new ones, with their rights, whatever happens."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import tempfile
import threading
from pathlib import Path
from unittest.mock import Mock

import hypothesis
import pytest
from hypothesis import given, strategies as st

from wrapper.config import journal
from wrapper.config.folder import Folder, find
from wrapper.config.journal import INDEX, own_folder, repair, repair_in
from wrapper.config.transaction import Fault, Transaction


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def inode_and_times(path):
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def listing(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def files(tmp_path):
    """Two files, and a third that is not there yet."""
    paths = [tmp_path / "a.yml", tmp_path / "b.yml", tmp_path / "c.yml"]
    paths[0].write_text("old a")
    paths[1].write_text("old b")
    return paths


def journal_in(folder):
    """The path of the one journal there."""
    name, = [name for name in listing(folder) if name.endswith(".wrapper-journal")]
    return folder / name


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


@pytest.mark.parametrize("way", ["keep", "undo"])
def test_a_file_that_does_not_change_beside_one_that_does_stays_itself(files, tmp_path, way):
    """With its times: what looks for them would read it anew, and one of 10,000 may change."""
    os.utime(files[0], (1000, 1000))
    itself = inode_and_times(files[0])
    transaction = Transaction({str(files[0]): "old a", str(files[1]): "new b", str(files[2]): None}, None)
    staged = transaction.stage()
    assert staged[str(files[0])] == str(files[0]), "it is checked where it stands"
    assert staged.keys() == {str(files[0]), str(files[1])}
    transaction.replace()
    getattr(transaction, way)()
    assert inode_and_times(files[0]) == itself
    assert contents(files) == ["old a", "new b" if way == "keep" else "old b", None]
    assert listing(tmp_path) == ["a.yml", "b.yml"]


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


def test_a_file_may_have_the_longest_name_that_linux_takes(tmp_path):
    """Its copies beside it have shorter ones; what could not be tidied up stood there for good."""
    longest, = files = [tmp_path / ("é" * 127 + "a")]
    longest.write_text("old")
    begin(files).undo()
    assert listing(tmp_path) == [longest.name]
    abandon(files)
    assert repair([str(longest)], None) == [str(longest)]
    assert longest.read_text() == "old"
    assert listing(tmp_path) == [longest.name]


def test_the_names_of_the_copies_are_safe_before_the_first_file_is_replaced(files, monkeypatch):
    """fsync(2): a file's name is safe only once its folder is."""
    done = []
    sync, link, replace = Folder.sync, os.link, os.replace
    monkeypatch.setattr(Folder, "sync", lambda folder: (done.append("sync"), sync(folder)))
    monkeypatch.setattr(os, "link", lambda *names, **how: (done.append("write"), link(*names, **how)))
    monkeypatch.setattr(os, "replace", lambda *names, **how: (done.append("replace"), replace(*names, **how)))
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


@pytest.mark.parametrize(("asked", "given"), [(None, 0o644), (0o600, 0o600), (0o660, 0o660)])
@pytest.mark.parametrize("owner", [0, 12])
def test_a_new_file_is_for_a_service_that_has_dropped_root(files, tmp_path, asked, given, owner):
    """The folder's group, and 0644 or what was asked for, whatever the umask."""
    os.chown(tmp_path, owner, 34)
    transaction = Transaction({str(files[2]): "new"}, None, asked)
    before = os.umask(0o077)
    transaction.stage()
    os.umask(before)
    transaction.replace()
    transaction.keep()
    assert mode(files[2]) == given
    assert (os.stat(files[2]).st_uid, os.stat(files[2]).st_gid) == (owner, 34)


def acl(*entries):
    """acl(5) as it stands in its attribute: version 2, and (tag, permissions, id) of each entry."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NONE = 0xFFFFFFFF
FOR_33 = acl((1, 6, NONE), (2, 4, 33), (4, 0, NONE), (0x10, 4, NONE), (0x20, 0, NONE))
FOR_34 = acl((1, 6, NONE), (2, 4, 34), (4, 0, NONE), (0x10, 4, NONE), (0x20, 0, NONE))
ACL = "system.posix_acl_access"


def attributes(path):
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


@pytest.mark.parametrize("owner", [0, 12])
def test_acl_and_extended_attributes_stay(files, tmp_path, owner):
    for path in (tmp_path, files[0]):
        os.chown(path, owner, owner)
    os.setxattr(files[0], ACL, FOR_33)
    os.setxattr(files[0], "user.note", b"by hand")
    before = attributes(files[0])
    transaction = begin(files[:1])
    transaction.replace()
    transaction.keep()
    assert files[0].read_text() == "new a"
    assert attributes(files[0]) == before
    assert mode(files[0]) == 0o640


def test_a_default_acl_of_the_folder_is_not_for_a_file_that_had_none(files, tmp_path):
    os.setxattr(tmp_path, "system.posix_acl_default", FOR_34)
    os.chmod(files[0], 0o640)
    transaction = begin([files[0], files[2]])
    transaction.replace()
    transaction.keep()
    assert attributes(files[0]) == {}
    assert mode(files[0]) == 0o640
    assert ACL in attributes(files[2]), "a new file is one like any other"


def test_where_an_acl_cannot_be_kept_its_mask_is_no_right_of_the_group(files, monkeypatch):
    """acl(5): what ls(1) shows as the group's is the most that any user named in the ACL has."""
    def refuse(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    os.setxattr(files[0], ACL, FOR_33)
    monkeypatch.setattr(os, "setxattr", refuse)
    transaction = begin(files[:1])
    transaction.replace()
    transaction.keep()
    assert mode(files[0]) == 0o600


def whole_truth(path):
    """All but two times: a second name changes that of the inode (inode(7)), and this look that of the last access."""
    status = os.stat(path)
    return (status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink,
            attributes(path), path.read_bytes())


@pytest.fixture(params=["links", "no links"])
def _links(request, monkeypatch):
    """File systems with hard links, and those without (vfat, some network ones)."""
    if request.param == "no links":
        def refuse(*_, **__):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("_links")
@pytest.mark.parametrize("way", ["undo", "crash", "next"])
def test_the_old_file_that_comes_back_is_the_old_file_itself(files, tmp_path, way):
    os.chown(files[0], 12, 34)
    os.chmod(files[0], 0o604)
    os.setxattr(files[0], ACL, FOR_33)
    os.setxattr(files[0], "user.note", b"by hand")
    os.utime(files[0], ns=(1_000_000_001, 2_000_000_003))
    before = whole_truth(files[0])
    transaction = Transaction({str(files[0]): "new", str(files[1]): None}, None)
    transaction.stage()
    transaction.replace()
    assert contents(files[:2]) == ["new", None]
    if way == "undo":
        transaction.undo()
    else:
        drop_locks()
        assert sorted(repair([str(files[0])], None)) == [str(file) for file in files[:2]]
    assert whole_truth(files[0]) == before
    assert contents(files) == ["old a", "old b", None]
    assert listing(tmp_path) == ["a.yml", "b.yml"]


def test_the_record_of_a_change_is_never_doubted(files, tmp_path):
    """Its rights are for the wrapper alone, and the service never reads it."""
    (tmp_path / "records").mkdir(mode=0o700)
    record = Mock(path=str(tmp_path / "records" / "1.json"), content=lambda before, after: b"{}")
    transaction = Transaction({str(files[0]): "new"}, None, record=record)
    transaction.stage()
    transaction.undo()
    assert transaction.doubt == ""


def test_nothing_is_readable_for_all_on_its_way(files, tmp_path, monkeypatch):
    os.chmod(files[0], 0o600)
    seen = []
    rights = os.fchmod
    monkeypatch.setattr(os, "fchmod",
                        lambda file, mode: (seen.append(os.fstat(file).st_mode & 0o077), rights(file, mode)))
    transaction = begin(files[:1])
    assert seen == [0], "until it has its rights the new file is for no other user"
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


def test_transactions_over_other_files_of_the_folder_do_not_hinder_each_other(tmp_path):
    """Two services often have their files in one folder."""
    faults = []

    def go_on(name):
        for number in range(60):
            try:
                transaction = Transaction({str(tmp_path / name): str(number)}, None)
                transaction.stage()
                transaction.replace()
                transaction.keep()
            except Fault as fault:
                faults.append(fault)

    threads = [threading.Thread(target=go_on, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert listing(tmp_path) == ["a", "b", "c"]


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

    def fail_at_the_second(source, target, **how):
        count.append(target)
        if len(count) == 2:
            raise OSError(28, "No space left on device", source)
        return replace(source, target, **how)

    monkeypatch.setattr(os, "replace", fail_at_the_second)
    with pytest.raises(Fault, match="No space left"):
        transaction.replace()
    assert contents(files) == ["old a", "old b", None]
    assert listing(tmp_path) == ["a.yml", "b.yml"]


def fill_disk(monkeypatch, room):
    """Let a file that is written whole end after `room` bytes."""
    write = Transaction._write

    def short(transaction, change, content):
        write(transaction, change, content[:room])
        raise OSError(28, "No space left on device", change.path)

    monkeypatch.setattr(Transaction, "_write", short)


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


def test_the_file_that_there_is_no_room_for_is_named(files, monkeypatch):
    """write(2) and fsync(2) do not say which: it may be on another volume than the rest, as the history is."""
    def sync(file):
        if stat.S_ISREG(os.fstat(file).st_mode) and os.fstat(file).st_size == len("new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    transaction = Transaction({str(files[0]): "new"}, None)
    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(Fault, match=f"cannot write {files[0]}: No space left"):
        transaction.stage()


def test_a_change_that_is_not_made_leaves_the_file_itself(files):
    """Without privileges a copy would lose the owner; and what the service itself wrote meanwhile stays."""
    before = os.stat(files[0]).st_ino
    transaction = begin(files)
    with open(files[0], "a") as file:
        file.write(" and more")
    files[2].write_text("another's")
    transaction.undo()
    assert contents(files) == ["old a and more", "old b", "another's"]
    assert os.stat(files[0]).st_ino == before


def test_a_file_that_is_mounted_by_itself_is_named_and_the_next_change_is_not_refused(files, tmp_path, monkeypatch):
    """rename(2) onto a mount point is EBUSY, again and again."""

    def busy(source, target, **_):
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
        patch.setattr(os, "replace", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error", "x")))
        with pytest.raises(Fault, match="cannot put the files back") as caught:
            transaction.undo()
    assert caught.value.retry, "the next try puts them back, whatever becomes of its own content"
    begin(files[:1]).undo()
    assert contents(files) == ["old a", "old b", None]


def test_a_change_that_cannot_mend_the_one_before_says_why(files, monkeypatch):
    """And not that another process were at these files: what was left behind is our own."""
    def busy(source, target, **_):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), source, None, target)

    transaction = begin(files[:1])
    transaction.replace()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", busy)
        with pytest.raises(Fault, match="cannot put the files back"):
            transaction.undo()
        with pytest.raises(Fault, match=r"a\.yml: it is mounted by itself") as caught:
            begin(files[:1])
    assert caught.value.retry
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
    def broken(*_, **__):
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


CALLS = ("replace", "link", "unlink", "fsync", "write", "open", "fchmod", "setxattr", "symlink")


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


@pytest.mark.usefixtures("_links")
@pytest.mark.parametrize("ending", ["keep", "undo"])
def test_a_crash_at_any_step_leaves_all_old_or_all_new(tmp_path, ending):
    """Every single call that changes something is once the last one before the crash; two folders, of two users."""
    tmp_path.chmod(0o755)
    step, outcomes = 0, set()
    while True:
        step += 1
        folder, index = tmp_path / f"{ending}{step}", tmp_path / f"index{step}"
        theirs = folder / "theirs"
        theirs.mkdir(parents=True)
        os.chown(theirs, 12, 34)
        index.mkdir(mode=0o700)
        files = [folder / "a.yml", theirs / "b.yml", theirs / "c.yml"]
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
        assert {name for name in listing(folder) + listing(theirs) if name.startswith(".")} == set(), step
        assert listing(index) == [], step
        if is_over:
            break
    assert step > 30
    assert ("old a", "old b", None) in outcomes
    assert (("new a", "new b", "new c") in outcomes) == (ending == "keep")


STEPS = st.lists(st.tuples(st.sampled_from(["keep", "undo"]), st.none() | st.integers(1, 90),
                           st.lists(st.sampled_from(["one", "two", "", None]), min_size=3, max_size=3), st.booleans()),
                 max_size=6)


@given(STEPS)
@hypothesis.settings(max_examples=60, deadline=None)
def test_whatever_the_order_of_changes_crashes_and_ways_back_each_is_whole_or_never_was(steps):
    """And what never was has left the old files themselves, whatever became of the ones before."""
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, folder, name) for folder, name in (("x", "a.yml"), ("x", "b.yml"), ("y", "c.yml"))]
        for file in files:
            file.parent.mkdir(exist_ok=True)
        os.chown(files[2].parent, 12, 34)
        os.chmod(place, 0o755)
        for ending, crash, new, is_mended in steps:
            before = [(whole_truth(file) if file.exists() else None) for file in files]
            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Crash, Fault):
                crash_at(patch, crash or 10**9)
                transaction = Transaction(dict(zip(map(str, files), new)), None)
                transaction.stage()
                transaction.replace()
                getattr(transaction, ending)()
            drop_locks()
            if is_mended or crash is not None:
                repair([str(files[0]), str(files[2])], None)
            is_old = [(whole_truth(file) if file.exists() else None) for file in files] == before
            assert is_old or (ending == "keep" and contents(files) == new)
            assert not [name for file in files for name in listing(file.parent) if name.startswith(".")]


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
def test_a_change_of_one_of_the_files_repairs_all_of_them_before_it_reads_any(files, tmp_path, number):
    """Else its own way back would lead to what the crash has left, or one version too far."""
    abandon(files)
    transaction = Transaction({str(files[number]): "next"}, None)
    assert contents(files) == ["old a", "old b", None]
    assert transaction.is_change
    assert transaction.old_hash == Transaction({str(files[number]): "other"}, None).old_hash
    assert listing(tmp_path) == ["a.yml", "b.yml"]


def test_what_was_left_of_other_files_in_the_folder_is_left_for_their_own_next_change(files):
    """Their service may have read it, and is told of the way back only by a change of its own."""
    abandon(files[:1])
    assert not Transaction({str(files[1]): "old b"}, None).is_change
    assert contents(files) == ["new a", "old b", None]
    assert Transaction({str(files[0]): "old a"}, None).is_change
    assert contents(files) == ["old a", "old b", None]


def test_a_transaction_that_is_under_way_is_left_alone(files):
    transaction = begin(files)
    transaction.replace()
    assert repair([str(files[0])], None) == []
    assert contents(files) == ["new a", "new b", "new c"]
    transaction.keep()


def test_the_index_finds_journals_whose_paths_are_unknown(files, tmp_path):
    index = tmp_path / "index"
    index.mkdir(mode=0o700)
    abandon(files, str(index))
    assert len(listing(index)) == 1
    repair([], str(index))
    assert contents(files) == ["old a", "old b", None]
    assert listing(index) == []


def test_the_index_knows_a_transaction_before_anything_that_takes_time(files, tmp_path, monkeypatch):
    """A disk may take its time to sync, and what is killed meanwhile must be found."""
    index = tmp_path / "index"
    index.mkdir(mode=0o700)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            begin(files, str(index))
    drop_locks()
    repair([], str(index))
    assert listing(tmp_path) == ["a.yml", "b.yml", "index"]
    assert listing(index) == []


def test_a_journal_of_another_user_is_left_alone(files, tmp_path):
    """In a folder that others can write to, a journal would make us put their files in place."""
    abandon(files)
    os.chown(journal_in(tmp_path), 12, 34)
    assert repair([str(files[0])], None) == []
    assert contents(files) == ["new a", "new b", "new c"]


@pytest.mark.parametrize("line", [
    b"", b'{"phase": "stag', b'{"phase": "replacing"}\n', b"[]\n", b"\xff\n", b"[" * 100_000 + b"\n",
    b'{"phase": "replacing", "files": {"../a.yml": false, "/etc/passwd": false, "": false, "..": false}}\n',
    b'{"phase": "replacing", "files": {"none": 1, "b\\u0000": false}, "folders": []}\n',
    b'{"phase": "replacing", "files": {}, "folders": 5}\n', b'{"phase": "replacing", "files": {"\\ud800": false}}\n',
    b'{"phase": "replacing", "files": [], "folders": [null, {}, "none", "\\u0000"]}\n',
    b'{"files": {}, "lead": "\\u0000"}\n', b'{"files": {}, "lead": 5}\n', b'{"files": {}, "lead": "."}\n', b"5\n",
])
def test_a_journal_that_makes_no_sense_harms_nothing(files, tmp_path, line):
    (tmp_path / ".a.wrapper-journal").write_bytes(line)
    repair([str(files[0])], None)
    assert contents(files) == ["old a", "old b", None]
    assert [name for name in listing(tmp_path) if name != ".a.wrapper-journal"] == ["a.yml", "b.yml"]


def test_an_index_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "PLACES", (str(tmp_path),))
    place = own_folder(INDEX, make=True)
    assert mode(place) == 0o700
    os.chmod(place, 0o777)
    assert own_folder(INDEX, make=False) is None
    os.chmod(place, 0o700)
    os.chown(place, 12, 34)
    assert own_folder(INDEX, make=True) is None


def test_the_journal_holds_no_content(files, tmp_path):
    transaction = Transaction({str(files[0]): "password"}, None)
    transaction.stage()
    assert "password" not in journal_in(tmp_path).read_text()
    transaction.undo()


def test_an_index_that_changes_meanwhile_does_no_harm(files, tmp_path, monkeypatch):
    """Several wrappers on one machine share it."""
    monkeypatch.setattr(journal.os, "listdir", lambda index: ["gone"])
    assert repair([], str(tmp_path)) == []


def test_repair_waits_for_the_repair_of_another_wrapper(files, tmp_path, monkeypatch):
    """Wrappers on one machine share the index: a service must not start while another wrapper puts its files back."""
    index = tmp_path / "index"
    index.mkdir(mode=0o700)
    abandon(files, str(index))
    half_way, go_on, replace = threading.Event(), threading.Event(), os.replace

    def pause_behind_the_first(source, target, **how):
        replace(source, target, **how)
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


def test_a_journal_whose_transaction_ends_while_it_is_opened_is_left_alone(files, tmp_path, monkeypatch):
    """Its transaction ended while a repair opened it, and the next one is under way over the same files."""
    first, following = begin(files), []
    first.replace()

    def go_on():
        first.undo()
        following.append(begin(files))
        following[0].replace()

    before_the_next_lock(monkeypatch, go_on)
    assert repair_in(find(f"{tmp_path}/")[0]) == []
    assert contents(files) == ["new a", "new b", "new c"]
    following[0].undo()
    assert contents(files) == ["old a", "old b", None]


def test_a_transaction_whose_journal_is_taken_away_does_not_begin(files, tmp_path, monkeypatch):
    """A repair may take a journal that is not locked yet for one that was left behind."""
    before_the_next_lock(monkeypatch, lambda: repair_in(find(f"{tmp_path}/")[0]))
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
