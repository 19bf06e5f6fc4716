"""The journal of a transaction: it stands beside the files while they change, so that a crash in the middle is mended.

A line for each phase, appended and synced, so that a torn line says what its absence says. Each folder has a journal of
its own, which names files of that folder only and is believed where it belongs to the user who acts there. One of them,
the lead, tells the phase for all and names the folders of the others, which name the lead's in return. The process
that carries out the transaction holds the lead's lock (flock(2), which ends with the process): a lead without a lock
was left behind. All names hold a token of chance, so that none can be taken beforehand.

An early room: a run looks for journals before the service starts. Nothing slow is imported until one is found.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from wrapper.config.folder import Folder, find
from wrapper.log import log
from wrapper.text import fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence
    from typing import Any

SUFFIX, STAGED, SAVED = ".wrapper-journal", ".wrapper-new", ".wrapper-old"
STAGING, REPLACING, KEPT = "staging", "replacing", "kept"
INDEX, HISTORY = "wrapper-journals", "wrapper-history"  # folders of our own: of links to journals, of earlier versions
PLACES = ("/var/lib", "/run", os.environ.get("TMPDIR", "/tmp"))  # for both; the first survives the most
STEM_BYTES = 200  # of a file's name in those of its copies, where Linux takes 255 in all
JOURNAL_BYTES = 4 * 1024 * 1024  # a journal holds names only; in Python they take thirty times the room


class Replacement:
    """One file of a transaction: its folder, its name there, and the names of the new and of the old file meanwhile.

    Neither keeps its suffix: a service that reads `*.yml` must take neither for a file of its own, and Go's patterns,
    unlike a shell's, match a dot in front too.
    """

    def __init__(self, folder: Folder, name: str, token: str, existed: bool) -> None:
        self.folder = folder
        self.name = name
        self.path = os.path.join(folder.path, name)
        self.existed = existed
        self.is_replaced = False  # by this process
        stem = name if len(os.fsencode(name)) <= STEM_BYTES else fingerprint(name)
        self.staged = f".{stem}.{token}{STAGED}"
        self.saved = f".{stem}.{token}{SAVED}"

    def save(self) -> None:
        """Have the old file itself under a second name, where the file system has hard links."""
        if self.existed:
            with contextlib.suppress(OSError):  # else it is moved aside
                self.folder.link(self.name, self.saved)

    def replace(self, is_wanted: bool) -> None:
        """Put the new file in place, or none where none `is_wanted`. Raises: OSError."""
        if self.existed and self.folder.status(self.saved) is None:
            self.folder.rename(self.name, self.saved)
            self.is_replaced = True
        if is_wanted:
            self.folder.rename(self.staged, self.name)
        else:
            self.folder.remove(self.name)
        self.is_replaced = True

    def restore(self) -> bool:
        """Put back the old file itself; False where that has happened already, or nothing had."""
        old, now = self.folder.status(self.saved), self.folder.status(self.name)
        if old is None:
            return not self.existed and self.folder.remove(self.name)
        if now is not None and os.path.samestat(old, now):
            return False  # rename(2) would do nothing
        self.folder.rename(self.saved, self.name)
        return True

    def forget(self) -> None:
        self.folder.remove(self.staged)
        self.folder.remove(self.saved)


class Journal:
    """An open transaction over files, each given by its folder and name; `home` is the folder that never leads others.

    Raises: OSError, BlockingIOError among them where another transaction changes one of the files right now.
    """

    def __init__(self, targets: Sequence[tuple[Folder, str]], index: str | None, home: Folder | None = None) -> None:
        token = os.urandom(6).hex()
        self._name = f".{token}{SUFFIX}"
        self.changes = [Replacement(folder, name, token, folder.status(name) is not None) for folder, name in targets]
        # A folder of our own leads: another user could take its journal away. But the files' volumes may come without
        # the history's.
        self._folders = sorted({change.folder for change in self.changes},
                               key=lambda one: (one is home, one.is_anothers, one.path))
        self._entry: str | None = None
        self.path = os.path.join(self._folders[0].path, self._name)
        self._file = self._folders[0].open(self._name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            if not _lock(self._folders[0], self._name, self._file):
                raise BlockingIOError(errno.EWOULDBLOCK, "a repair took it for one that was left behind", self.path)
            self._entry = None if index is None else _enlist(os.path.join(index, self._name), self.path)
            self._begin()
            self._refuse_others()
        except OSError:
            self.close()
            raise

    def _begin(self) -> None:
        lead, *others = self._folders
        self.append({"phase": STAGING, "files": self._files_in(lead), "folders": [other.path for other in others]})
        for other in others:
            with open(other.open(self._name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb", buffering=0) as file:
                _append(file.fileno(), {"lead": lead.path, "files": self._files_in(other)})
        self.sync()

    def _files_in(self, folder: Folder) -> dict[str, bool]:
        return {change.name: change.existed for change in self.changes if change.folder is folder}

    def _refuse_others(self) -> None:
        """Give way to a transaction that names one of our files; two that begin at once both give way.

        A journal that names no files yet is of one that will see ours. Raises: BlockingIOError.
        """
        for folder in self._folders:
            for name in set(_journals(folder)) - {self._name}:
                with contextlib.suppress(FileNotFoundError):  # its transaction has just ended
                    if not _Left(folder, name).files.keys().isdisjoint(self._files_in(folder)):
                        raise BlockingIOError(errno.EWOULDBLOCK, "its transaction is under way", folder.path)

    def keep(self) -> None:
        """End the transaction with the new files: from here on a crash leaves them."""
        with self._ending():
            try:
                self.append({"phase": KEPT})
            except OSError:
                self._folders[0].remove(self._name)  # says the same, and needs no room on the disk

    def restore(self) -> None:
        """Put back what was replaced. Where that fails the journal stays, for the next transaction or start to mend."""
        with self._ending():
            replaced = [change for change in self.changes if change.is_replaced]
            for change in replaced:
                change.restore()
            if replaced:
                self.sync()

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            os.close(self._file)  # a lock that stayed would say that we are still at it
            raise
        self.close()

    def close(self) -> None:
        """Leave nothing beside the files. All that counts is done: what stays is for the next change or start."""
        try:
            _tidy(self._name, self.changes, self._folders)
            if self._entry is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._entry)
        except OSError as error:
            log.warning(f"cannot tidy up behind the transaction of {self.path}: {error.strerror}")
        finally:
            os.close(self._file)

    def sync(self) -> None:
        """Make the names in all folders safe on the disk."""
        for folder in self._folders:
            folder.sync()

    def append(self, entry: dict[str, Any]) -> None:
        _append(self._file, entry)


def _append(file: int, entry: dict[str, Any]) -> None:
    import json  # start-up: only a transaction needs it

    line = json.dumps(entry).encode() + b"\n"
    if os.write(file, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # a full disk takes a part first
    os.fsync(file)


def is_ours(name: str) -> bool:
    """True for a name that a transaction may give to a file: what stands there is believed."""
    return name.endswith((SUFFIX, STAGED, SAVED))


def _lock(folder: Folder, name: str, file: int) -> bool:
    """True where we hold the lock of a lead now. Between its opening and its locking its transaction may have ended."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    now = folder.status(name)
    return now is not None and os.path.samestat(os.fstat(file), now)


# After a crash


class _Left:
    """What a journal that was left behind says; nothing where it makes no sense. Raises: OSError.

    `lead` is None where this one leads: then it has a phase, and names the folders of the others.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        import json  # start-up: only where something is to be mended

        self.folder = folder
        self.phase, self.lead = STAGING, None
        self.others: list[str] = []
        self.files: dict[str, bool] = {}
        content = folder.read(name, JOURNAL_BYTES)
        try:
            lines = [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
            self.files = {file: existed is True for file, existed in lines[0]["files"].items()
                          if file not in ("", ".", "..") and "/" not in file}
            self.others = [*map(str, lines[0].get("folders", ()))]
            self.phase, self.lead = lines[-1].get("phase"), lines[0].get("lead")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass  # cut short before anything was written
        token = name[1:-len(SUFFIX)]
        self.changes = [Replacement(folder, file, token, existed) for file, existed in self.files.items()]


def repair(paths: Iterable[str], index: str | None) -> list[str]:
    """Mend what a crash left behind: journals beside or in `paths`, and those the index knows.

    Returns the files put back. One repair at a time on a machine: the locks of the journals do not tell one that is
    being mended from one whose transaction is under way, and a repair that skips the first must not find it half done.
    """
    lock = None if index is None else _lock_index(index)
    try:
        restored = []
        for path in paths:  # a file, or a folder with folders
            for folder in [folder for folder, _, _ in os.walk(path)] or [os.path.dirname(os.path.realpath(path))]:
                restored += _repair_at(folder)
        return restored if lock is None or index is None else restored + _repair_known(index, lock)
    finally:
        if lock is not None:
            os.close(lock)


def _lock_index(index: str) -> int | None:
    """The lock of the index; None where it cannot be had, which must not keep a service from starting."""
    with contextlib.suppress(OSError):
        file = os.open(index, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.suppress(OSError):  # some file systems have no locks for folders
            fcntl.flock(file, fcntl.LOCK_EX)
        return file
    return None


def _repair_at(path: str) -> list[str]:
    try:
        folder = _open(path)
        return [] if folder is None else repair_in(folder)
    except OSError as error:
        log.warning(f"cannot look for journals in {path}: {error.strerror}")
        return []


def _open(path: str) -> Folder | None:
    """None where no folder is. Raises: OSError."""
    with contextlib.suppress(FileNotFoundError):
        return find(f"{path}/")[0]
    return None


def repair_in(folder: Folder, wanted: Container[str] | None = None) -> list[str]:
    """Mend what was left behind in a folder, of the `wanted` names or of all. Returns the files put back.

    Raises: OSError.
    """
    return [path for name in _journals(folder) for path in _repair_one(folder, name, wanted)]


def _journals(folder: Folder) -> list[str]:
    """The journals of the user who acts in the folder: no other may have made or written them. Raises: OSError."""
    found = []
    for name in folder.names():
        status = folder.status(name) if name.endswith(SUFFIX) else None
        if status is not None and (status.st_uid, status.st_nlink) == (folder.uid, 1) and (
                stat.S_ISREG(status.st_mode) and not status.st_mode & 0o022):
            found.append(name)
    return found


def _repair_known(index: str, lock: int) -> list[str]:
    """Mend what the entries of the index point to, and drop those where nothing is there any more."""
    restored = []
    for name in os.listdir(lock):
        with contextlib.suppress(OSError):  # its transaction has just dropped it
            entry = os.path.join(index, name)
            restored += _repair_at(os.path.dirname(os.readlink(entry)))
            if not os.path.exists(entry):
                os.unlink(entry)
    return restored


def _repair_one(folder: Folder, name: str, wanted: Container[str] | None = None) -> list[str]:
    """Mend the transaction of one journal, where there is one that no process carries out."""
    try:
        left = _Left(folder, name)
        if wanted is not None and not any(file in wanted for file in left.files):
            return []  # another service's: its own next change puts its files back, and tells it
        if left.lead is None:
            return _repair_lead(folder, name)
        lead, restored = _open(left.lead), []
        if lead is not None and name in _journals(lead) and _Left(lead, name).lead is None:
            restored = _repair_lead(lead, name)
        # The lead goes last: without it all is over but the tidying up. Its volume may come yet, but not for ever.
        is_over = wanted is not None if lead is None else lead.status(name) is None
        if is_over:
            _tidy(name, left.changes, [folder])
        return restored
    except FileNotFoundError:
        return []  # it has just ended
    except (OSError, ValueError) as error:  # no path at all, as only its owner can have written it
        if wanted is not None and isinstance(error, OSError):
            raise  # a change of the very files is to say why it cannot be
        log.error(f"cannot mend the transaction of {os.path.join(folder.path, name)}: {error}")
        return []


def _repair_lead(folder: Folder, name: str) -> list[str]:
    file = folder.open(name, os.O_RDWR)
    try:
        if not _lock(folder, name, file):
            return []  # its transaction is under way, or over
        left = _Left(folder, name)  # once more: now nothing more is written
        others = [_Left(other, name) for other in map(_open, left.others)
                  if other is not None and name in _journals(other)]
        all_left = [left, *(other for other in others if other.lead == folder.path)]
        changes = [change for one in all_left for change in one.changes]
        restored = [change.path for change in changes if left.phase == REPLACING and change.restore()]
        _tidy(name, changes, [one.folder for one in all_left])
    finally:
        os.close(file)
    if restored:
        log.warning(f"a change of configuration was cut short and is undone: {', '.join(restored)}")
    return restored


def _tidy(name: str, changes: Iterable[Replacement], folders: Sequence[Folder]) -> None:
    """Remove what a transaction left beside its files; the lead goes last, for until then this can be done again."""
    for change in changes:
        change.forget()
    for folder in reversed(folders):
        folder.remove(name)
        folder.sync()


# The index: a folder of our own with a link to every journal, because the paths are known only to the sidecars that
# choose them, and those are loaded when the service runs already.


def own_folder(name: str, *, make: bool) -> str | None:
    """The first of PLACES with a folder of that name and of our own; None where there is none. `make`: have one."""
    for folder in PLACES:
        path = os.path.join(folder, f"{name}-{os.geteuid()}")
        if make:
            with contextlib.suppress(OSError):  # it is there already, or cannot be
                os.mkdir(path, 0o700)
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            # Another user who could write there could make us put files back.
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022:
                return path
    return None


def _enlist(entry: str, journal: str) -> str | None:
    """Enter a journal in the index; `entry` is the transaction's own, since a repair drops one that leads nowhere."""
    try:
        os.symlink(journal, entry)
        return entry
    except OSError as error:
        log.warning(f"cannot note the journal {journal} in {os.path.dirname(entry)}: {error.strerror}")
        return None
