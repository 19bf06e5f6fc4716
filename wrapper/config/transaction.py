"""Several files replaced as one: staged beside their places, checked, moved there; kept, or all put back."""

from __future__ import annotations

import errno
import os
import stat
from typing import Union

from wrapper.config.fingerprint import fingerprint
from wrapper.config.journal import Change, Journal, beside, remove, repair_one
from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Content = Union[str, bytes, None]
# chown(2): without privileges, and for an owner that the container's user namespace does not know.
NOT_TO_GIVE = (errno.EPERM, errno.EINVAL)
NEW_MODE = 0o640  # of a file that was not there before: configuration holds secrets, so never for all


class Fault(Exception):
    """Why a change is not applied: the step that failed, a sentence, and the last lines of whoever knows more.

    `retry` is true where the content is not to blame, so that the same content may do at another time.
    """

    def __init__(self, step: str, message: str, output: Sequence[str] = (), *, retry: bool = False) -> None:
        super().__init__(message)
        self.step = step
        self.message = message
        self.output = list(output)
        self.retry = retry


class Transaction:
    """The files of one change by path; None as content means that there must be no such file.

    Raises: Fault where a path cannot be written to; ValueError for what can be no content.
    """

    def __init__(self, files: Mapping[str, Content], index: str | None) -> None:
        self.contents = {os.path.realpath(path): _encoded(content) for path, content in files.items()}
        if len(self.contents) < len(files):
            raise Fault("write", "two of the paths are the same file")
        # Before anything is read: what a crash or a way back that failed left half done is nobody's old content.
        mended = [repair_one(beside(path)) for path in self.contents]
        self._was_mended = any(mended)
        self._index = index
        self._journal: Journal | None = None
        self.old_hash = _hash([read(path) for path in self.contents])
        self.new_hash = _hash([*self.contents.values()])

    @property
    def is_change(self) -> bool:
        """True also where files were put back just now: the service may have read what stood there before."""
        return self._was_mended or self.old_hash != self.new_hash

    def stage(self) -> dict[str, str]:
        """Write the new files beside their places; returns where each one is, for those that are to be there.

        Raises: Fault.
        """
        staged = {}
        try:
            self._journal = Journal(list(self.contents), self._index)
            for change, content in zip(self._journal.changes, self.contents.values()):
                _save(change)
                if content is not None:
                    _write(change.staged, content, *_rights(change.path))
                    staged[change.path] = change.staged
            self._journal.sync()  # a saved file whose name is lost with the power is none
        except BlockingIOError:
            raise Fault("write", "another process changes these files right now", retry=True) from None
        except OSError as error:
            self.undo()
            raise _cannot_write(error) from error
        return staged

    def replace(self) -> None:
        """Move the new files to their places. Raises: Fault, and then all is as it was."""
        assert self._journal is not None
        try:
            self._journal.begin_replacing()
            for change, content in zip(self._journal.changes, self.contents.values()):
                if content is None:
                    remove(change.path)
                else:
                    os.replace(change.staged, change.path)
                change.is_replaced = True
            self._journal.sync()
        except OSError as error:
            self.undo()
            raise _cannot_write(error) from error

    def keep(self) -> None:
        """The new files are the files. Raises: Fault where a crash would still undo them."""
        assert self._journal is not None
        journal, self._journal = self._journal, None
        try:
            journal.keep()
        except OSError as error:
            raise Fault("write", f"cannot end the change: {error.strerror}: {journal.path} stays, and the next start "
                        "or change undoes what is in force now") from error

    def undo(self) -> None:
        """Put back what was there, at whatever step we are.

        Raises: Fault where even that cannot be done; the journal stays, and the next change or start tries again.
        """
        journal, self._journal = self._journal, None
        if journal is not None:
            try:
                journal.restore()
            except OSError as error:
                raise Fault("rollback", f"cannot put the files back: {error.strerror}: {error.filename}",
                            retry=True) from error


def read(path: str) -> bytes | None:
    """What is at `path` now; None where nothing is. Raises: Fault."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for for ever (fifo(7))
            raise Fault("write", f"cannot replace {path}: it is no regular file", retry=True)
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Fault("write", f"cannot read {path}: {error.strerror}", retry=True) from error


def _hash(contents: list[bytes | None]) -> str:
    return fingerprint(contents[0] if len(contents) == 1 and contents[0] is not None else contents)


def _encoded(content: Content) -> bytes | None:
    """Raises: ValueError for what can be no content of a file."""
    if content is None or isinstance(content, bytes):
        return content
    if not isinstance(content, str):
        raise ValueError(f"the content of a file is text, bytes or None, not {type(content).__name__}")  # noqa: TRY004
    return content.encode()


def _save(change: Change) -> None:
    """A copy of what is there, with its rights and times. A link would be cheaper, but change with a write in place."""
    if change.existed:
        status = os.stat(change.path)
        with open(change.path, "rb") as file:
            _write(change.saved, file.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
        os.utime(change.saved, ns=(status.st_atime_ns, status.st_mtime_ns))


def _rights(path: str) -> tuple[int, int, int]:
    """Mode, owner and group of the file that is there; a new file gets those of its folder but for the mode."""
    try:
        status = os.stat(path)
        return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    except FileNotFoundError:
        folder = os.stat(os.path.dirname(path))
        return NEW_MODE, folder.st_uid, folder.st_gid


def _write(path: str, content: bytes, mode: int, owner: int, group: int) -> None:
    """Write a file nobody else can read until it has the rights it is to have."""
    remove(path)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(file, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fchmod(file, _give(file, mode, owner, group))  # behind chown, which clears set-id bits
        os.fsync(file)


def _give(file: int, mode: int, owner: int, group: int) -> int:
    """Give an open file to its owner and group; returns the mode that is right for those it has then."""
    status = os.fstat(file)
    if (status.st_uid, status.st_gid) == (owner, group):
        return mode
    if _try_to_give(file, owner, group):
        return mode
    log.debug("the owner cannot be kept without privileges", owner=owner)
    if _try_to_give(file, -1, group):  # chown(2): without privileges still to any group of one's own
        return mode
    return mode & (~0o070 | mode << 3)  # it is another group: no more for it than for all others


def _try_to_give(file: int, owner: int, group: int) -> bool:
    try:
        os.fchown(file, owner, group)
    except OSError as error:
        if error.errno not in NOT_TO_GIVE:
            raise
        return False
    return True


def _cannot_write(error: OSError) -> Fault:
    if error.errno == errno.EBUSY:  # rename(2): it is a mount point, as a single file mounted into a container is
        return Fault("write", f"cannot replace {error.filename2 or error.filename}: it is mounted by itself; "
                     "mount its folder instead", retry=True)
    return Fault("write", f"cannot write {error.filename or 'the files'}: {error.strerror}", retry=True)
