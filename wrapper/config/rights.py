"""What a new file takes over from the old one: mode, owner, group, ACL and extended attributes."""

from __future__ import annotations

import errno
import os

from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.config.folder import Folder

# chown(2): without privileges, and for an owner that the container's user namespace does not know.
NOT_TO_GIVE = (errno.EPERM, errno.EINVAL)
ACL = "system.posix_acl_access"  # acl(5)
OF_CONTENT = ("security.capability", "security.ima", "security.evm")  # are for the old content only
NEW_MODE = 0o644  # of a file that was not there before: a service that has dropped root must be able to read it


def take_over(folder: Folder, old: int, new: int) -> None:
    """Both are open. No set-id bits: they are for programs. Raises: OSError."""
    status = os.fstat(old)
    # In another user's folder root's power gives the group, of a file that was that user's; nothing else.
    is_free = not folder.is_anothers or status.st_uid == folder.uid
    mode = give(folder, new, status.st_mode & 0o777, status.st_uid, status.st_gid, is_free=is_free)
    with folder.acting():
        if not _copy_attributes(old, new):
            mode &= ~0o070  # with an ACL they are the most that any of its users has, which are not the group's
        os.fchmod(new, mode)  # behind chown, which clears bits


def begin(folder: Folder, new: int, mode: int) -> None:
    """Give a file that is the first of its name its mode, and the folder's group. Raises: OSError."""
    mode = give(folder, new, mode, os.fstat(new).st_uid, folder.gid, is_free=not folder.is_anothers)
    with folder.acting():
        os.fchmod(new, mode)


def give(folder: Folder, file: int, mode: int, owner: int, group: int, *, is_free: bool) -> int:
    """Give an open file to its owner and group; returns the mode that is right for those it has then."""
    status = os.fstat(file)
    if (status.st_uid, status.st_gid) == (owner, group):
        return mode
    if is_free and _try_to_give(file, owner, group):
        return mode
    log.debug("the owner cannot be kept without privileges", owner=owner)
    with folder.acting():
        # chown(2): without privileges still to any group of one's own.
        if status.st_gid == group or _try_to_give(file, -1, group):
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


def _copy_attributes(old: int, new: int) -> bool:
    """False where the old file's ACL cannot be kept. What the folder's default ACL gave goes where there was none."""
    wanted, given = _attributes(old), _attributes(new)
    if ACL in given and ACL not in wanted:
        os.removexattr(new, ACL)
    lost = [name for name in wanted if name not in OF_CONTENT and not _copy(name, old, new)]
    if lost:
        log.debug("extended attributes cannot be kept", names=", ".join(lost))
    return ACL not in lost


def _copy(name: str, old: int, new: int) -> bool:
    try:
        os.setxattr(new, name, os.getxattr(old, name))
    except OSError:  # xattr(7): some take privileges, some file systems have none
        return False
    return True


def _attributes(file: int) -> list[str]:
    try:
        return os.listxattr(file)
    except OSError:  # a file system without them
        return []
