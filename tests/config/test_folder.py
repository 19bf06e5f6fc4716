"""folder.py: the wrapper is root, the folder is a service's that is not, and that user does in it what it likes.

Uid 1000 is the service's, 2000 a neighbour's. What root alone may write must never change by what they do.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from wrapper.config import folder as room, source
from wrapper.config.folder import content_of, find
from wrapper.config.journal import repair
from wrapper.config.source import CannotFetch
from wrapper.config.transaction import Fault, Transaction

SERVICE, NEIGHBOUR = 1000, 2000


@pytest.fixture
def top():
    """A folder of root's that all may look into; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def theirs(top):
    """The service's folder, with its configuration."""
    folder = top / "theirs"
    folder.mkdir()
    (folder / "a.yml").write_text("old")
    for path in (folder, folder / "a.yml"):
        os.chown(path, SERVICE, SERVICE)
    return folder


@pytest.fixture
def secret(top):
    """A file for root alone, and the folder that it is in."""
    folder = top / "roots"
    folder.mkdir()
    (folder / "secret").write_text("root's")
    (folder / "secret").chmod(0o600)
    return folder / "secret"


def as_user(uid, act, *, keeps_groups=False):
    """What another user's process does: True where it came through. A child, for a process has one uid."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups(os.getgroups() if keeps_groups else [])
            os.setgid(uid)
            os.setuid(uid)
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def change(*paths, content="new", way="keep"):
    transaction = Transaction({str(path): content for path in paths}, None)
    transaction.stage()
    transaction.replace()
    getattr(transaction, way)()


def owner(path):
    status = os.lstat(path)
    return status.st_uid, status.st_gid


def test_all_in_the_services_folder_is_done_with_the_services_power(theirs):
    (theirs / "a.yml").chmod(0o640)
    transaction = Transaction({str(theirs / "a.yml"): "new", str(theirs / "b.yml"): "new"}, None)
    transaction.stage()
    assert {owner(path) for path in theirs.iterdir()} == {(SERVICE, SERVICE)}
    transaction.replace()
    transaction.keep()
    assert sorted(os.listdir(theirs)) == ["a.yml", "b.yml"]
    assert stat.S_IMODE(os.stat(theirs / "a.yml").st_mode) == 0o640


def test_what_the_service_may_not_do_in_its_folder_is_not_done_there(theirs):
    theirs.chmod(0o555)
    with pytest.raises(Fault, match=f"theirs.*: Permission denied for uid {SERVICE}"):
        change(theirs / "a.yml")


def test_the_group_that_root_gave_a_file_of_the_services_stays(theirs):
    os.chown(theirs / "a.yml", SERVICE, 33)
    (theirs / "a.yml").chmod(0o640)
    change(theirs / "a.yml")
    assert owner(theirs / "a.yml") == (SERVICE, 33)
    assert stat.S_IMODE(os.stat(theirs / "a.yml").st_mode) == 0o640


def test_a_file_of_roots_there_is_replaced_by_one_of_the_services_and_comes_back_itself(theirs):
    """A new file of root's that the service could still write to would be the service's word with root's name."""
    os.chown(theirs / "a.yml", 0, 0)
    (theirs / "a.yml").chmod(0o4644)
    before = os.stat(theirs / "a.yml").st_ino
    change(theirs / "a.yml", way="undo")
    assert os.stat(theirs / "a.yml").st_ino == before
    assert owner(theirs / "a.yml") == (0, 0)
    change(theirs / "a.yml")
    assert owner(theirs / "a.yml") == (SERVICE, SERVICE)
    assert stat.S_IMODE(os.stat(theirs / "a.yml").st_mode) == 0o644


def test_the_power_is_one_threads_alone(theirs, top):
    """seteuid(3) would be every thread's."""
    inside, done = threading.Event(), threading.Event()

    def stay():
        with find(f"{theirs}/")[0].at(""):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=stay)
    thread.start()
    assert inside.wait(10)
    (top / "by another thread").write_text("x")
    done.set()
    thread.join()
    assert owner(top / "by another thread") == (0, 0)


def test_what_is_open_in_proc_is_still_open_behind_a_change(theirs):
    """setfsuid(2) makes a process undumpable, and `docker exec` cannot write to /proc/1/fd/1 any more (proc(5))."""
    change(theirs / "a.yml")
    assert ctypes.CDLL(None).prctl(room.PR_GET_DUMPABLE, 0, 0, 0, 0) == 1


# Links


@pytest.mark.parametrize("hard", [False, True])
def test_a_link_to_roots_file_changes_nothing_of_roots(theirs, secret, hard):
    (theirs / "a.yml").unlink()
    if hard:
        os.link(secret, theirs / "a.yml")  # as the service can where proc(5) protected_hardlinks is off
    else:
        assert as_user(SERVICE, lambda: (theirs / "a.yml").symlink_to(secret))
    with pytest.raises(Fault, match=f"Permission denied for uid {SERVICE}"):
        change(theirs / "a.yml")
    assert secret.read_text() == "root's"
    assert os.listdir(secret.parent) == ["secret"]


def test_a_link_to_a_folder_of_roots_changes_nothing_there(theirs, secret):
    assert as_user(SERVICE, lambda: (theirs / "sub").symlink_to(secret.parent))
    for path in (theirs / "sub" / "new", theirs / "sub" / ".." / "new", theirs / "sub" / "secret"):
        with pytest.raises(Fault, match="Permission denied for uid"):
            change(path)
    with pytest.raises(PermissionError):
        find(str(theirs / "sub" / "made" / "a.yml"), make=True)
    assert os.listdir(secret.parent) == ["secret"]


def test_a_link_that_root_made_and_the_service_could_have_moved_has_the_services_power(theirs, secret):
    (theirs / "b.yml").symlink_to(secret)
    with pytest.raises(Fault, match=f"Permission denied for uid {SERVICE}"):
        change(theirs / "b.yml")


@pytest.mark.parametrize("mode", [0o1777, 0o775])
def test_a_neighbours_link_in_a_shared_folder_has_the_neighbours_power(top, secret, mode):
    shared = top / "shared"
    shared.mkdir()
    os.chown(shared, 0, NEIGHBOUR)
    shared.chmod(mode)
    assert as_user(NEIGHBOUR, lambda: (shared / "a.yml").symlink_to(secret))
    with pytest.raises(Fault, match=f"Permission denied for uid {NEIGHBOUR}"):
        change(shared / "a.yml")
    assert secret.read_text() == "root's"


def test_roots_own_link_that_a_neighbour_could_have_moved_is_not_followed(top, secret):
    """In a folder that all may write to, and that is not sticky, one may rename what is another's (rename(2))."""
    shared = top / "shared"
    shared.mkdir()
    (shared / "kept").symlink_to(secret)
    for mode, group in ((0o777, 0), (0o775, NEIGHBOUR)):
        os.chown(shared, 0, group)
        shared.chmod(mode)
        assert as_user(NEIGHBOUR, lambda: os.rename(shared / "kept", shared / "a.yml"))
        with pytest.raises(Fault, match="a link that another user can have put there is not followed"):
            change(shared / "a.yml")
        os.rename(shared / "a.yml", shared / "kept")
    for mode, group in ((0o1777, 0), (0o775, 0), (0o755, NEIGHBOUR)):
        os.chown(shared, 0, group)
        shared.chmod(mode)
        change(shared / "kept", way="undo")
    assert secret.read_text() == "root's"


def test_the_services_power_is_without_roots_groups(theirs, secret):
    """Root's own, and those that it was started with, may write to what the service's user may not."""
    secret.chmod(0o660)
    secret.parent.chmod(0o775)
    assert as_user(SERVICE, lambda: (theirs / "b.yml").symlink_to(secret))
    for group in (0, 33):
        os.chown(secret, 0, group)
        os.chown(secret.parent, 0, group)

        def refused():
            os.setgroups([0, 33])
            room._library.cache_clear()
            with pytest.raises(Fault, match=f"Permission denied for uid {SERVICE}"):
                change(theirs / "b.yml")
            change(theirs / "a.yml", content="newer")
            assert sorted(os.getgroups()) == [0, 33]

        assert as_user(0, refused, keeps_groups=True)
    assert secret.read_text() == "root's"


def test_a_link_within_what_is_the_services_is_followed(theirs):
    assert as_user(SERVICE, lambda: ((theirs / "v2").mkdir(), (theirs / "v2" / "c.yml").write_text("old"),
                                     (theirs / "now").symlink_to("v2"), (theirs / "c.yml").symlink_to("now/c.yml")))
    change(theirs / "c.yml")
    assert (theirs / "c.yml").is_symlink()
    assert (theirs / "v2" / "c.yml").read_text() == "new"
    assert owner(theirs / "v2" / "c.yml") == (SERVICE, SERVICE)


def test_a_link_of_roots_in_a_folder_of_roots_is_followed(top, secret):
    (top / "link").symlink_to("roots/../roots")
    change(top / "link" / "secret")
    assert secret.read_text() == "new"


def test_a_link_to_itself_ends(top):
    (top / "loop").symlink_to("loop")
    for path in (top / "loop", top / "loop" / "a.yml"):
        with pytest.raises(Fault, match="Too many levels of symbolic links"):
            change(path)


@pytest.mark.parametrize("lack", ["ctypes", "CAP_SETUID"])
def test_a_link_whose_users_power_cannot_be_taken_on_is_not_followed(theirs, secret, monkeypatch, lack):
    assert as_user(SERVICE, lambda: (theirs / "b.yml").symlink_to(secret))

    class Powerless:
        setfsuid = setfsgid = staticmethod(lambda number: 0)  # what it was before, and is still
        prctl = staticmethod(lambda *_: 0)

    monkeypatch.setattr(room, "_library", lambda: None if lack == "ctypes" else (Powerless, 1, lambda groups: None))
    with pytest.raises(Fault, match=f"a link that uid {SERVICE} can have put there is not followed"):
        change(theirs / "b.yml")
    change(theirs / "a.yml")
    assert (theirs / "a.yml").read_text() == "new"


def test_one_without_privileges_follows_no_link_of_a_neighbours(top):
    mine = top / "mine"
    mine.mkdir()
    (mine / "kept").write_text("mine")
    for path in (mine, mine / "kept"):
        os.chown(path, SERVICE, SERVICE)
    shared = top / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert as_user(NEIGHBOUR, lambda: (shared / "a.yml").symlink_to(mine / "kept"))
    assert not as_user(SERVICE, lambda: change(shared / "a.yml"))
    assert (mine / "kept").read_text() == "mine"
    assert as_user(SERVICE, lambda: change(shared / "b.yml"))


def test_the_two_ways_to_one_folder_keep_their_powers_apart(theirs, secret):
    """One with root's power in the same change must lend the service's link nothing."""
    assert as_user(SERVICE, lambda: (theirs / "a").symlink_to(secret.parent / "other"))
    (secret.parent / "other").write_text("root's")
    with pytest.raises(Fault):
        change(secret.parent / "another", theirs / "a")
    assert (secret.parent / "other").read_text() == "root's"
    assert not (secret.parent / "another").exists()


def test_whatever_the_service_swaps_meanwhile_nothing_of_roots_changes(theirs, secret):
    """Its file is now a file, now a link, a pipe or nothing; and its folder now itself, now a link to root's."""
    folder, aside, over = theirs / "sub", theirs / "aside", threading.Event()
    folder.mkdir()
    os.chown(folder, SERVICE, SERVICE)
    (secret.parent / "a.yml").write_text("root's")

    def swap():
        while not over.is_set():
            for make in (lambda at: os.symlink(secret, at), os.mkfifo, lambda at: os.close(os.open(at, os.O_CREAT))):
                make(theirs / "tmp")
                os.replace(theirs / "tmp", folder / "a.yml")
                os.rename(folder, aside)
                os.symlink(secret.parent, folder)
                os.unlink(folder)
                os.rename(aside, folder)
                over.wait(0.001)

    swapping = threading.Thread(target=swap)
    swapping.start()
    outcomes = {"kept": 0, "refused": 0}
    for number in range(5000):
        if min(outcomes.values()) >= 20:
            break
        try:
            change(folder / "a.yml", way="undo" if number % 2 else "keep")
            outcomes["kept"] += 1
        except Fault:
            outcomes["refused"] += 1
    over.set()
    swapping.join()
    assert min(outcomes.values()), outcomes
    assert {path.name: path.read_text() for path in secret.parent.iterdir()} == {"secret": "root's", "a.yml": "root's"}


# Journals


def journal_of(folder):
    return next(path for path in folder.iterdir() if path.name.endswith(".wrapper-journal"))


def abandoned(*paths):
    """The journals of a change whose process ended in the middle of it."""
    transaction = Transaction({str(path): "new" for path in paths}, None)
    transaction.stage()
    transaction.replace()
    os.close(transaction._journal._file)
    return [journal_of(folder) for folder in {path.parent: None for path in paths}]


def forge(path, uid, **said):
    path.write_text(json.dumps({"phase": "staging", **said}) + '\n{"phase": "replacing"}\n')
    os.chown(path, uid, uid)
    path.chmod(0o600)


def test_a_forged_journal_reaches_nothing_outside_its_folder(theirs, secret):
    names = [str(secret), "../roots/secret", "..", "../theirs/../roots/secret"]
    forge(theirs / ".00.wrapper-journal", SERVICE, files=dict.fromkeys(names, False), folders=[str(secret.parent)])
    forge(theirs / ".01.wrapper-journal", SERVICE, files={}, lead=str(secret.parent))
    forge(theirs / ".a.yml.wrapper-journal", SERVICE, files=[[str(secret), False]], journal=str(secret))
    assert repair([str(theirs / "a.yml")], None) == []
    assert secret.read_text() == "root's"
    assert (theirs / "a.yml").read_text() == "old"


def test_a_real_journal_that_the_service_moves_reaches_nothing_outside_its_folder(theirs, secret):
    """It is renamed, and the folder that it was written in is now a link to root's."""
    sub = theirs / "sub"
    sub.mkdir()
    os.chown(sub, SERVICE, SERVICE)
    journal, = abandoned(sub / "secret")
    assert as_user(SERVICE, lambda: (journal.rename(theirs / ".a.yml.wrapper-journal"),
                                     sub.rename(theirs / "aside"), sub.symlink_to(secret.parent)))
    repair([str(theirs / "a.yml")], None)
    assert secret.read_text() == "root's"


def test_a_forged_journal_with_an_accomplice_of_roots_moves_nothing(theirs, secret):
    """Root's own journal of another change, left behind by a crash, names no lead or another one."""
    real, = abandoned(secret)
    forge(theirs / real.name, SERVICE, files={}, folders=[str(secret.parent)])
    repair([str(theirs / "a.yml")], None)
    assert secret.read_text() == "new"
    assert repair([str(secret)], None) == [str(secret)]
    assert secret.read_text() == "root's"


def test_forged_journals_that_lead_to_each_other_end(theirs):
    for name, lead in (("one", "two"), ("two", "one"), ("three", "three")):
        (theirs / name).mkdir()
        os.chown(theirs / name, SERVICE, SERVICE)
        forge(theirs / name / ".00.wrapper-journal", SERVICE, files={"x": False}, lead=str(theirs / lead))
    assert repair([str(theirs)], None) == []


@pytest.mark.parametrize("how", ["another owner", "a hard link", "writable", "a link", "a pipe"])
def test_a_journal_that_another_user_may_have_written_is_not_believed(top, secret, how):
    shared = top / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "a.yml").write_text("old")
    journal = shared / ".00.wrapper-journal"
    forge(journal, NEIGHBOUR if how == "another owner" else 0, files={"a.yml": False})
    if how == "a hard link":
        os.link(journal, top / "log of root's that a user may write to")
    elif how == "writable":
        journal.chmod(0o666)
    elif how in ("a link", "a pipe"):
        journal.rename(top / "elsewhere")
        os.mkfifo(journal) if how == "a pipe" else journal.symlink_to(top / "elsewhere")
    assert repair([str(shared / "a.yml")], None) == []
    assert (shared / "a.yml").read_text() == "old"


@pytest.mark.parametrize("uid", [0, SERVICE])
def test_a_neighbours_journal_in_a_shared_folder_blocks_no_change(top, uid):
    """Its name and those of the copies cannot be taken beforehand, and in a sticky folder not be removed."""
    shared = top / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "a.yml").write_text("old")
    os.chown(shared / "a.yml", uid, uid)
    for name in (".a.yml.wrapper-journal", ".a.yml.wrapper-new", ".a.yml.wrapper-old"):
        forge(shared / name, NEIGHBOUR, files={"a.yml": True})
    assert as_user(uid, lambda: change(shared / "a.yml"))
    assert (shared / "a.yml").read_text() == "new"
    assert as_user(uid, lambda: change(shared / "a.yml", content="newer", way="undo"))
    assert (shared / "a.yml").read_text() == "new"


def test_a_change_over_folders_of_two_users_is_one_after_a_crash(theirs, secret):
    files = [theirs / "a.yml", secret]
    journals = abandoned(*files)
    assert [owner(journal)[0] for journal in journals] == [SERVICE, 0]
    assert sorted(repair([str(theirs / "a.yml")], None)) == sorted(map(str, files))
    assert [file.read_text() for file in files] == ["old", "root's"]
    assert os.listdir(secret.parent) == ["secret"]
    assert os.listdir(theirs) == ["a.yml"]


def test_a_crash_while_a_change_over_folders_is_kept_or_undone_leaves_no_mixture(theirs, secret):
    """The lead goes last: a journal that is alone says that all is over."""
    first, second = abandoned(theirs / "a.yml", secret)
    second.unlink()
    repair([str(theirs / "a.yml")], None)
    assert not first.exists()
    assert sorted(os.listdir(theirs)) == ["a.yml"]


def test_a_journal_whose_lead_is_out_of_reach_waits_for_it(theirs, secret, top):
    """As where its volume is not mounted yet."""
    first, second = abandoned(theirs / "a.yml", secret)
    secret.parent.rename(top / "unmounted")
    repair([str(theirs / "a.yml")], None)
    assert first.exists()
    (top / "unmounted").rename(secret.parent)
    assert len(repair([str(theirs / "a.yml")], None)) == 2
    assert secret.read_text() == "root's"
    assert not second.exists()


def test_a_folder_that_is_gone_for_good_blocks_no_change_of_the_others(theirs, secret):
    abandoned(theirs / "a.yml", secret)
    shutil.rmtree(theirs)
    assert repair([str(secret)], None) == [str(secret)]
    assert secret.read_text() == "root's"
    assert os.listdir(secret.parent) == ["secret"]


def test_a_journal_whose_leads_folder_is_gone_for_good_blocks_no_change(theirs, secret):
    abandoned(theirs / "a.yml", secret)
    shutil.rmtree(secret.parent)
    change(theirs / "a.yml", content="newer")
    assert (theirs / "a.yml").read_text() == "newer"
    assert os.listdir(theirs) == ["a.yml"]


# Sources


def test_a_source_gives_away_nothing_that_its_owner_may_not_read(theirs, secret):
    assert as_user(SERVICE, lambda: (theirs / "b.yml").symlink_to(secret))
    for path in (theirs, theirs / "b.yml"):
        with pytest.raises(CannotFetch, match=f"Permission denied for uid {SERVICE}"):
            source.of(str(path)).fetch()
    assert content_of(str(theirs / "a.yml"), 100) == b"old"
    assert content_of(str(secret), 100) == b"root's"


def test_a_source_whose_links_are_another_users_is_read_without_privileges(top):
    """As git-sync's, in a volume that two containers share."""
    volume = top / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    assert as_user(NEIGHBOUR, lambda: ((volume / "v1").mkdir(), (volume / "v1" / "a.yml").write_text("a"),
                                       (volume / "now").symlink_to("v1")))
    assert as_user(SERVICE, lambda: content_of(str(volume / "now" / "a.yml"), 100) == b"a" or os._exit(2))


def test_a_path_may_begin_where_we_are(top, theirs, monkeypatch):
    monkeypatch.chdir(theirs)
    change("../theirs/./a.yml")
    assert (theirs / "a.yml").read_text() == "new"
    monkeypatch.chdir(top)
    (top / "gone").mkdir()
    monkeypatch.chdir(top / "gone")
    (top / "gone").rmdir()
    change(theirs / "a.yml", content="newer")
    assert (theirs / "a.yml").read_text() == "newer"


def test_a_path_that_names_no_file_is_said(top):
    for path in (f"{top}/", f"{top}/..", f"{top}/."):
        with pytest.raises(Fault, match="cannot"):
            change(path)
    assert list(top.iterdir()) == []


def test_a_folder_where_a_file_should_be_is_named_and_costs_no_descriptor(top):
    """It is looked at again and again, until an operator has put that right."""
    (top / "a.yml").mkdir()
    open_before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(Fault, match=f"cannot write {top}/a.yml: Is a directory"):
            change(top / "a.yml")
        with pytest.raises(IsADirectoryError, match=f"{top}/a.yml"):
            content_of(str(top / "a.yml"), 100)
    assert len(os.listdir("/proc/self/fd")) < open_before + 20
