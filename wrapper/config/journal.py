"""The journal of a transaction: it stands beside the files while they change, so that a crash in the middle is mended.

A line for each phase, appended and synced, so that a torn line says what its absence says. Whoever carries out the
transaction holds the journal's lock (flock(2), which ends with the process): a journal without a lock was left behind.
It stands beside the first of the files in order; beside each of the others a note names it, so that whoever wants any
of the files finds the transaction, alive or left behind.

An early room: a run looks for journals before the service starts. Nothing slow is imported until one is found.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

SUFFIX, STAGED, SAVED = ".wrapper-journal", ".wrapper-new", ".wrapper-old"
STAGING, REPLACING, KEPT = "staging", "replacing", "kept"
PLACES = ("/var/lib", "/run", os.environ.get("TMPDIR", "/tmp"))  # for the index; the first survives the most
JOURNAL_BYTES = 16 * 1024 * 1024  # a journal holds names only; one that is larger is not ours


class Change:
    """One file of a transaction: where it goes, where the new and the old content wait; both in the same folder.

    Neither keeps its suffix: a service that reads `*.yml` must take neither for a file of its own, and Go's patterns,
    unlike a shell's, match a dot in front too.
    """

    __slots__ = ("existed", "is_replaced", "path", "saved", "staged")

    def __init__(self, path: str, existed: bool) -> None:
        folder, name = os.path.split(path)
        self.path = path
        self.existed = existed
        self.is_replaced = False  # by this process, which may have ended before it could copy what was there
        self.staged = os.path.join(folder, f".{name}{STAGED}")
        self.saved = os.path.join(folder, f".{name}{SAVED}")

    def restore(self) -> bool:
        """Put back what was there; False where that has happened already."""
        if os.path.lexists(self.saved):
            os.replace(self.saved, self.path)
            return True
        return not self.existed and remove(self.path)

    def forget(self) -> None:
        remove(self.staged)
        remove(self.saved)


class Journal:
    """An open transaction over the files at `paths`, which are absolute and without symbolic links.

    Raises: OSError, BlockingIOError among them where somebody else changes one of the files right now.
    """

    def __init__(self, paths: Sequence[str], index: str | None) -> None:
        self.path = beside(min(paths))
        self._file = _create(self.path)
        self._notes: list[str] = []
        self._entry = None
        self.changes: list[Change] = []
        try:
            self._note_beside(paths)
            self.changes = [Change(path, os.path.lexists(path)) for path in paths]
            self._entry = None if index is None else _enlist(index, self.path)
            self._append({"phase": STAGING, "files": [[change.path, change.existed] for change in self.changes]})
            sync_folder(os.path.dirname(self.path))
        except OSError:
            self.close()
            raise

    def _note_beside(self, paths: Iterable[str]) -> None:
        for place in sorted({*map(beside, paths)} - {self.path}):
            note = _create(place)
            self._notes.append(place)
            try:
                _write_line(note, {"journal": self.path})
            finally:
                os.close(note)

    def begin_replacing(self) -> None:
        """From now on a crash means: put the saved files back."""
        self._append({"phase": REPLACING})

    def keep(self) -> None:
        """From now on the new files are the files."""
        try:
            try:
                self._append({"phase": KEPT})
            except OSError:
                remove(self.path)  # says the same, and needs no room on the disk
        except OSError:
            os.close(self._file)
            raise
        self._leave()

    def restore(self) -> None:
        """Put back what was replaced. Where that fails the journal stays, for the next transaction or start to mend."""
        replaced = [change for change in self.changes if change.is_replaced]
        try:
            for change in replaced:
                change.restore()
            if replaced:
                self.sync()
        except OSError:
            os.close(self._file)  # a lock that stayed would say that we are still at it
            raise
        self._leave()

    def _leave(self) -> None:
        """All that counts is done: what cannot be tidied up now is by the next transaction or start."""
        try:
            self.close()
        except OSError as error:
            log.warning(f"cannot tidy up behind the transaction of {self.path}: {error.strerror}")

    def close(self) -> None:
        """Leave nothing beside the files."""
        try:
            _tidy(self.path, self.changes, self._notes)
            if self._entry is not None:
                remove(self._entry)
        finally:
            os.close(self._file)

    def sync(self) -> None:
        """Make the names in all folders safe on the disk."""
        for folder in {os.path.dirname(change.path) for change in self.changes}:
            sync_folder(folder)

    def _append(self, entry: dict[str, Any]) -> None:
        _write_line(self._file, entry)
        os.fsync(self._file)


def _write_line(file: int, entry: dict[str, Any]) -> None:
    import json  # start-up: only a transaction needs it

    line = json.dumps(entry).encode() + b"\n"
    if os.write(file, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a full disk takes a part first


def is_ours(name: str) -> bool:
    """True for a name that a transaction may give to a file: what stands there is believed."""
    return name.endswith((SUFFIX, STAGED, SAVED))


def beside(path: str) -> str:
    """The name of the journal of a transaction whose first file is `path`, and of the note where it is another one."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}{SUFFIX}")


def _create(journal: str) -> int:
    """A new journal that we hold the lock of. Raises: OSError."""
    try:
        # O_NOFOLLOW: in a folder that others can write to, the name may be a trap.
        file = os.open(journal, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "its transaction is under way", journal) from error
    try:
        is_locked = _lock(journal, file)
    except OSError:  # a file system without locks; what stayed would say that its transaction is under way
        os.close(file)
        remove(journal)
        raise
    if not is_locked:
        os.close(file)
        raise BlockingIOError(errno.EWOULDBLOCK, "a repair took it for one that was left behind", journal)
    return file


def _lock(journal: str, file: int) -> bool:
    """True where we hold the lock of the journal now.

    Between its opening and its locking its transaction may have ended, and the next one begun: that has another file.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file), os.lstat(journal))
    except (BlockingIOError, FileNotFoundError):
        return False


def repair(paths: Iterable[str], index: str | None) -> list[str]:
    """Mend what a crash left behind: journals beside or in `paths`, and those the index knows.

    Returns the files put back. One repair at a time on a machine: the locks of the journals do not tell one that is
    being mended from one whose transaction is under way, and whoever skips the first must not find it half done.
    """
    turn = None if index is None else _await_turn(index)
    try:
        restored = []
        for journal in {journal for path in paths for journal in _journals(os.path.realpath(path))}:
            restored += repair_one(journal)
        for entry in _entries(index) if index is not None else ():
            restored += _repair_entry(entry)
        return restored
    finally:
        if turn is not None:
            os.close(turn)


def _await_turn(index: str) -> int | None:
    """The lock of the index; None where it cannot be had, which must not keep a service from starting."""
    try:
        file = os.open(index, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # some file systems have no locks for folders
        log.debug("no lock for the index of journals", index=index, reason=error.strerror)
    return file


def _journals(path: str) -> list[str]:
    """Where a journal may be, for a file or for any of the files in a folder."""
    if not os.path.isdir(path):
        return [beside(path)]
    return [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names if name.endswith(SUFFIX)]


def _repair_entry(entry: str) -> list[str]:
    """Mend what an entry of the index points to, and drop the entry where nothing is there any more."""
    try:
        restored = repair_one(os.readlink(entry))
        if not os.path.exists(entry):
            remove(entry)
        return restored
    except OSError:
        return []  # its transaction has just dropped it


def repair_one(journal: str) -> list[str]:
    """Mend the transaction of one journal, where there is one and nobody carries it out. Returns the files put back."""
    try:
        file = os.open(journal, os.O_RDWR | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ENOENT:
            log.warning(f"cannot read the journal {journal}: {error.strerror}")
        return []
    try:
        return _repair(journal, file)
    except OSError as error:
        log.error(f"cannot mend the transaction of {journal}: {error.strerror}")
        return []
    finally:
        os.close(file)


def _repair(journal: str, file: int) -> list[str]:
    if os.fstat(file).st_uid != os.geteuid():
        log.warning(f"the journal {journal} belongs to somebody else and is left alone")
        return []
    if not _lock(journal, file):
        return []  # its transaction is under way, or over
    content = os.read(file, JOURNAL_BYTES)
    noted = _noted(content)
    if noted is not None:
        return _repair_noted(journal, noted)
    phase, changes = _read(content)
    restored = [change.path for change in changes if phase == REPLACING and change.restore()]
    _tidy(journal, changes, [beside(change.path) for change in changes])
    if restored:
        log.warning(f"a change of configuration was cut short and is undone: {', '.join(restored)}")
    return restored


def _repair_noted(note: str, journal: str) -> list[str]:
    """A note is good for as long as the journal that it names is there."""
    restored = repair_one(journal)
    if not os.path.lexists(journal):
        remove(note)
    return restored


def _noted(content: bytes) -> str | None:
    """The journal that a note names; None for what is no note."""
    import json  # start-up: only where something is to be mended

    try:
        journal = json.loads(content)["journal"]
    except (ValueError, LookupError, TypeError):
        return None
    return journal if isinstance(journal, str) and journal.endswith(SUFFIX) else None


def _read(content: bytes) -> tuple[str, list[Change]]:
    """The last phase that was reached, and the files."""
    import json  # start-up: only where something is to be mended

    try:
        lines = [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
        return lines[-1]["phase"], [Change(path, existed) for path, existed in lines[0]["files"]]
    except (ValueError, LookupError, TypeError):
        return STAGING, []  # cut short before anything was written


def _tidy(journal: str, changes: Iterable[Change], notes: Iterable[str]) -> None:
    """As long as the journal stands, this can be done again. Then the notes, each of which may be another's by now."""
    for change in changes:
        change.forget()
    remove(journal)
    sync_folder(os.path.dirname(journal))
    for note in notes:
        if note != journal:
            repair_one(note)


# The index: a folder of our own with a link to every journal, because the paths are known only to the sidecars that
# choose them, and those are loaded when the service runs already.


def index_folder(*, make: bool) -> str | None:
    """Where the index is: the first place that is ours; None where no place is. `make`: have one."""
    for folder in PLACES:
        place = os.path.join(folder, f"wrapper-transactions-{os.geteuid()}")
        if make:
            try:
                os.mkdir(place, 0o700)
            except OSError:
                pass  # it is there already, or cannot be
        if _is_ours(place):
            return place
    return None


def _is_ours(place: str) -> bool:
    """Whoever can write there can make us put files back: it must be nobody else."""
    try:
        status = os.lstat(place)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _entries(index: str) -> list[str]:
    try:
        entries = [os.path.join(index, name) for name in os.listdir(index)]
    except OSError:
        return []
    return [entry for entry in entries if os.path.islink(entry)]


def _enlist(index: str, journal: str) -> str | None:
    # A name for this transaction alone: whoever drops an entry that leads nowhere must not drop the next one's.
    entry = os.path.join(index, f"{os.getpid()}-{time.time_ns()}-{os.urandom(4).hex()}")
    try:
        os.symlink(journal, entry)
    except OSError as error:
        log.warning(f"cannot note the journal {journal} in {index}: {error.strerror}")
        return None
    return entry


def remove(path: str) -> bool:
    """True where there was something to remove."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def sync_folder(folder: str) -> None:
    """Names are safe on the disk only once their folder is synced (fsync(2))."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems have no fsync for folders
            raise
    finally:
        os.close(file)
