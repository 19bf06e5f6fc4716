"""Several files replaced as one: staged beside their places, checked, moved there; kept, or all put back."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Union

from wrapper.config.folder import Folder, find
from wrapper.config.journal import REPLACING, Journal, repair_in
from wrapper.config.look import fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wrapper.config.journal import Replacement

Content = Union[str, bytes, None]
# chown(2): without privileges, and for an owner that the container's user namespace does not know.
NOT_TO_GIVE = (errno.EPERM, errno.EINVAL)
ACL = "system.posix_acl_access"  # acl(5)
OF_CONTENT = {"security.capability", "security.ima", "security.evm"}  # attributes that are for the old content only
NEW_MODE = 0o644  # of a file that was not there before: a service that has dropped root must be able to read it


class Fault(Exception):
    """Why a change is not applied: the step that failed, a sentence, and the last lines of what knows more.

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

    def __init__(self, files: Mapping[str, Content], index: str | None, new_mode: int | None = None) -> None:
        folders: dict[tuple[str, int], Folder] = {}  # each is opened once for each user who acts in it
        self._index = index
        self._new_mode = NEW_MODE if new_mode is None else new_mode
        self.doubt = ""  # the end of a sentence: what may be the cause where the service falls right behind the change
        self._journal: Journal | None = None
        try:
            found = map(find, files)
            self._places = [(folders.setdefault((one.path, one.uid), one), name) for one, name in found]
            # Before anything is read: what a crash or a way back that failed left half done is no old content.
            self._mended = [repair_in(folder, {name for one, name in self._places if one is folder})
                            for folder in folders.values()]
            old = [_read(*place) for place in self._places]
        except OSError as error:
            raise _cannot_write(error) from error
        self.contents = {os.path.join(folder.path, name): _encoded(content)
                         for (folder, name), content in zip(self._places, files.values())}
        if len(self.contents) < len(files):
            raise Fault("write", "two of the paths are the same file")
        self.old_hash = _hash(old)
        self.new_hash = _hash([*self.contents.values()])

    @property
    def is_change(self) -> bool:
        """True also where files were put back just now: the service may have read what stood there before."""
        return any(self._mended) or self.old_hash != self.new_hash

    def stage(self) -> dict[str, str]:
        """Write the new files beside their places; returns where each one is, for those that are to be there.

        Raises: Fault.
        """
        staged = {}
        try:
            self._journal = Journal(self._places, self._index)
            for change, content in zip(self._journal.changes, self.contents.values()):
                change.save()
                if content is not None:
                    self._write(change, content)
                    staged[change.path] = os.path.join(change.folder.path, change.staged)
            self._journal.sync()  # a saved file whose name is lost with the power is none
        except BlockingIOError:
            raise Fault("write", "another process changes these files right now", retry=True) from None
        except OSError as error:
            self.undo()
            raise _cannot_write(error) from error
        return staged

    def _write(self, change: Replacement, content: bytes) -> None:
        """Write a file that is for no other user until it has the rights it is to have."""
        folder = change.folder
        file = folder.open(change.staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(file, "wb") as stream:
            stream.write(content)
            stream.flush()
            if change.existed:
                with open(folder.open(change.name, os.O_RDONLY), "rb", buffering=0) as old:
                    _take_over(folder, old.fileno(), file)
            else:
                status = os.fstat(file)
                mode = _give(folder, file, self._new_mode, status.st_uid, folder.gid)
                with folder.at(change.staged):
                    os.fchmod(file, mode)
                self.doubt = (f"; {change.path} is new, with mode {mode:04o} and uid {status.st_uid}: do these "
                              "permissions let it read the file? see --config-mode and mode=")
            os.fsync(file)

    def replace(self) -> None:
        """Move the new files to their places. Raises: Fault, and then all is as it was."""
        assert self._journal is not None
        try:
            self._journal.append({"phase": REPLACING})  # from now on a crash means: put the saved files back
            for change, content in zip(self._journal.changes, self.contents.values()):
                change.replace(content is not None)
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


def _read(folder: Folder, name: str) -> bytes | None:
    """What is there now; None where nothing is. Raises: OSError."""
    with contextlib.suppress(FileNotFoundError):
        return folder.read(name)
    return None


def _hash(contents: list[bytes | None]) -> str:
    return fingerprint(contents[0] if len(contents) == 1 and contents[0] is not None else contents)


def _encoded(content: Content) -> bytes | None:
    """Raises: ValueError for what can be no content of a file."""
    if content is None or isinstance(content, bytes):
        return content
    if not isinstance(content, str):
        raise ValueError(f"the content of a file is text, bytes or None, not {type(content).__name__}")  # noqa: TRY004
    return content.encode()


def _take_over(folder: Folder, old: int, new: int) -> None:
    """Give the new file the mode, owner, group, ACL and extended attributes of the old one; both are open.

    No set-id bits, which are for programs. Raises: OSError.
    """
    status = os.fstat(old)
    mode = _give(folder, new, status.st_mode & 0o777, status.st_uid, status.st_gid)
    with folder.at(""):
        if not _copy_attributes(old, new):
            mode &= ~0o070  # with an ACL they are the most that any of its users has, which are not the group's
        os.fchmod(new, mode)  # behind chown, which clears bits


def _give(folder: Folder, file: int, mode: int, owner: int, group: int) -> int:
    """Give an open file to its owner and group; returns the mode that is right for those it has then.

    In another user's folder root's power gives a file of that user's its group, and nothing else.
    """
    status = os.fstat(file)
    is_free = not folder.is_anothers or owner == folder.uid
    if (status.st_uid, status.st_gid) == (owner, group):
        return mode
    with contextlib.nullcontext() if is_free else folder.at(""):
        # chown(2): without privileges still to any group of one's own.
        for uid in (owner, -1) if is_free else (-1,):
            try:
                os.fchown(file, uid, group)
                return mode
            except OSError as error:
                if error.errno not in NOT_TO_GIVE:
                    raise
    # Where it is another group: no more for it than for all others.
    return mode if status.st_gid == group else mode & (~0o070 | mode << 3)


def _copy_attributes(old: int, new: int) -> bool:
    """False where the old file's ACL cannot be kept. What the folder's default ACL gave goes where there was none."""
    wanted: list[str] = []
    is_kept = True
    with contextlib.suppress(OSError):  # a file system without them
        wanted = os.listxattr(old)
    for name in {*wanted, ACL} - OF_CONTENT:
        try:
            if name in wanted:
                os.setxattr(new, name, os.getxattr(old, name))
            else:
                os.removexattr(new, name)
        except OSError:  # xattr(7): some take privileges, some file systems have none
            is_kept = is_kept and not (name == ACL and name in wanted)
    return is_kept


def _cannot_write(error: OSError) -> Fault:
    if error.errno == errno.EBUSY:  # rename(2): it is a mount point, as a single file mounted into a container is
        return Fault("write", f"cannot replace {error.filename}: it is mounted by itself; "
                     "mount its folder instead", retry=True)
    return Fault("write", f"cannot write {error.filename or 'the files'}: {error.strerror}", retry=True)
