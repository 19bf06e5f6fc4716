"""Several files replaced as one: staged beside their places, checked, moved there; kept, or all put back."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import namedtuple
from typing import Union

from wrapper import sockets
from wrapper.config.folder import Folder, find
from wrapper.config.journal import REPLACING, Journal, repair_in
from wrapper.text import fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Optional

    from wrapper.config.history import Draft
    from wrapper.config.journal import Replacement

# Who may do what with a file; of attributes, the ACL among them, None is one that cannot be read. Where `attributes` is
# None itself they are those that the folder gives to a new file.
Rights = namedtuple("Rights", "mode uid gid attributes")
Kept = namedtuple("Kept", "content rights")  # a file as it was: bytes and Rights
Content = Union[str, bytes, Kept, None]
if TYPE_CHECKING:
    Stood = Optional[Kept]  # None where there was no file
# chown(2): without privileges, and for an owner that the container's user namespace does not know.
NOT_TO_GIVE = (errno.EPERM, errno.EINVAL)
ACL = "system.posix_acl_access"  # acl(5)
OF_CONTENT = {"security.capability", "security.ima", "security.evm"}  # attributes that are for the old content only
RECORD_MODE = 0o600  # it holds what the files do, and may hold secrets
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

    `record` becomes a file of it too, once the rights are known that the new files have; none where its path is empty.
    Raises: Fault where a path cannot be written to; ValueError for what can be no content.
    """

    def __init__(self, files: Mapping[str, Content], index: str | None, new_mode: int | None = None,
                 record: Draft | None = None) -> None:
        folders: dict[tuple[str, int], Folder] = {}  # each is opened once for each user who acts in it
        self._index = index
        self._new_mode = NEW_MODE if new_mode is None else new_mode
        self.doubt = ""  # the end of a sentence: what may be the cause where the service falls right behind the change
        self._journal: Journal | None = None
        self._record = record
        try:
            found = map(find, map(os.fspath, files))
            self._targets = [(folders.setdefault((one.path, one.uid), one), name) for one, name in found]
            # Before anything is read: what a crash or a way back that failed left half done is no old content.
            self._mended = [repair_in(folder, {name for one, name in self._targets if one is folder})
                            for folder in folders.values()]
            stood_there = [kept(*target) for target in self._targets]
            home = find(record.path) if record is not None and record.path else None
            if home is not None:
                repair_in(home[0])  # it is this service's alone
        except OSError as error:
            raise _cannot_write(error) from error
        paths = [os.path.join(folder.path, name) for folder, name in self._targets]
        self.contents = {path: _encoded(content) for path, content in zip(paths, files.values())}
        if len(self.contents) < len(files):
            raise Fault("write", "two of the paths are the same file")
        self._before: dict[str, Stood] = dict(zip(paths, stood_there))
        had = {path: stood.rights for path, stood in self._before.items() if stood is not None}
        given = {path: content.rights for path, content in zip(paths, files.values()) if isinstance(content, Kept)}
        self._rights = {**had, **given}
        # The others stay themselves, with their times: of a folder with 10,000 files one may change.
        old = self._old_contents
        self._changed = {path for path, content in self.contents.items()
                         if content != old[path] or (path in had and had[path] != self._rights[path])}
        self._targets = [target for path, target in zip(paths, self._targets) if path in self._changed]
        self._home = None if home is None else home[0]
        if home is not None:
            self._targets.append(home)
            self._rights[os.path.join(home[0].path, home[1])] = Rights(RECORD_MODE, os.geteuid(), os.getegid(), {})

    @property
    def is_change(self) -> bool:
        """True also where files were put back just now: the service may have read what stood there before."""
        return any(self._mended) or bool(self._changed)

    @property
    def _old_contents(self) -> dict[str, bytes | None]:
        return {path: stood and stood.content for path, stood in self._before.items()}

    @property
    def old_hash(self) -> str:
        return _hash(self._old_contents)

    @property
    def new_hash(self) -> str:
        return _hash(self.contents)

    def stage(self) -> dict[str, str]:
        """Write the new files beside their places; returns where each one is, for those that are to be there.

        One that does not change is in its place. Raises: Fault.
        """
        staged = {path: path for path, content in self.contents.items() if content is not None}
        after: dict[str, Stood] = {**self._before, **dict.fromkeys(self._changed)}
        try:
            if self._targets:
                self._journal = Journal(self._targets, self._index, self._home)
            changes = self._journal.changes if self._journal is not None else []
            for change in changes[:len(self._changed)]:  # the record is the last
                change.save()
                content = self.contents[change.path]
                if content is not None:
                    after[change.path] = Kept(content, self._write(change, content))
                    staged[change.path] = os.path.join(change.folder.path, change.staged)
            record = self._record.content(self._before, after) if self._record is not None else b""
            if self._home is not None:
                self._write(changes[-1], record)
            if self._journal is not None:
                self._journal.sync()  # a saved file whose name is lost with the power is none
        except BlockingIOError:
            raise Fault("write", "another process changes these files right now", retry=True) from None
        except OSError as error:
            self.undo()
            raise _cannot_write(error) from error
        return staged

    def must_be_as_staged(self) -> None:
        """Raises: Fault where the check has written to a new file: another content than the source's is no version."""
        for change in self._journal.changes[:len(self._changed)] if self._journal is not None else ():
            content, found = self.contents[change.path], None
            try:
                found = change.folder.read(change.staged)
            except OSError as error:
                if error.errno in sockets.SHORT:
                    raise _cannot_write(error) from error
            if found != content:
                raise Fault("check", f"the check has changed the new file for {change.path}, which it may only read")

    def _write(self, change: Replacement, content: bytes) -> Rights:
        """Write a new file, which no other user may read until it has its rights; returns these."""
        folder, is_new = change.folder, change.path not in self._rights
        file = folder.open(change.staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with open(file, "wb") as stream:
                stream.write(content)
                stream.flush()
                new = Rights(self._new_mode, os.fstat(file).st_uid, folder.gid, None)
                _take_over(folder, self._rights.get(change.path, new), file)
                os.fsync(file)
                rights = _rights(folder, file)
        except OSError as error:
            error.filename = error.filename or change.path
            raise
        if is_new:
            self.doubt = (f"; {change.path} is new, with mode {rights.mode:04o} and uid {rights.uid}: do these "
                          "permissions let it read the file? see --config-mode and mode=")
        return rights

    def replace(self) -> None:
        """Move the new files to their places. Raises: Fault, and then all is as it was."""
        if self._journal is None:
            return
        try:
            self._journal.append({"phase": REPLACING})  # from now on a crash means: put the saved files back
            for change in self._journal.changes:  # the record's path is none of the contents
                change.replace(self.contents.get(change.path, b"") is not None)
            self._journal.sync()
        except OSError as error:
            self.undo()
            raise _cannot_write(error) from error

    def keep(self) -> None:
        """End the transaction with the new files. Raises: Fault where a crash would still undo them."""
        journal, self._journal = self._journal, None
        if journal is None:
            return
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


def _hash(contents: Mapping[str, bytes | None]) -> str:
    found = [*contents.values()]
    return fingerprint(found[0] if len(found) == 1 and found[0] is not None else found)


def _encoded(content: Content) -> bytes | None:
    """Raises: ValueError for what can be no content of a file."""
    if isinstance(content, Kept):
        content = content.content
    if content is None or isinstance(content, bytes):
        return content
    if not isinstance(content, str):
        raise ValueError(f"the content of a file is text, bytes or None, not {type(content).__name__}")  # noqa: TRY004
    return content.encode()


def kept(folder: Folder, name: str) -> Stood:
    """A file with its rights as it stands there; None where none does. Raises: OSError."""
    with contextlib.suppress(FileNotFoundError):
        content = folder.read(name)
        with open(folder.open(name, os.O_RDONLY), "rb", buffering=0) as file:
            return Kept(content, _rights(folder, file.fileno()))
    return None


def _rights(folder: Folder, file: int) -> Rights:
    """The rights of an open file, without set-id bits, which are for programs. Raises: OSError."""
    status = os.fstat(file)
    attributes: dict[str, bytes | None] = {}
    with folder.at(""):
        names: list[str] = []
        with contextlib.suppress(OSError):  # a file system without them
            names = os.listxattr(file)
        for name in names:
            attributes[name] = None
            with contextlib.suppress(OSError):  # xattr(7): some take privileges
                attributes[name] = os.getxattr(file, name)
    return Rights(status.st_mode & 0o777, status.st_uid, status.st_gid, attributes)


def _take_over(folder: Folder, rights: Rights, new: int) -> None:
    """Give an open file these rights: mode, owner, group, ACL and extended attributes. Raises: OSError."""
    mode = _give(folder, new, rights.mode, rights.uid, rights.gid)
    with folder.at(""):
        if rights.attributes is not None and not _set_attributes(rights.attributes, new):
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


def _set_attributes(wanted: Mapping[str, bytes | None], file: int) -> bool:
    """False where the ACL cannot be kept. What the folder's default ACL gave goes where there was none."""
    is_kept = True
    for name in {*wanted, ACL} - OF_CONTENT:
        value = wanted.get(name)
        try:
            if value is not None:
                os.setxattr(file, name, value)
            elif name in wanted:
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))  # it could not be read
            else:
                os.removexattr(file, name)
        except OSError:  # xattr(7): some take privileges, some file systems have none
            is_kept = is_kept and not (name == ACL and name in wanted)
    return is_kept


def _cannot_write(error: OSError) -> Fault:
    if error.errno == errno.EBUSY:  # rename(2): it is a mount point, as a single file mounted into a container is
        return Fault("write", f"cannot replace {error.filename}: it is mounted by itself; "
                     "mount its folder instead", retry=True)
    way_out = "; the folder of a file must be there" if error.errno in (errno.ENOENT, errno.ENOTDIR) else ""
    return Fault("write", f"cannot write {error.filename or 'the files'}: {error.strerror}{way_out}", retry=True)
