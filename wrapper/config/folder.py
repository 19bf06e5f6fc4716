"""Folders by descriptor: what another user does to a path meanwhile leads us nowhere else.

As sudo(8) and OpenSSH's StrictModes judge it, root and we ourselves are trusted, and no other user. Where we are root
and a folder is another user's, all in it is done with that user's power alone, and so is whatever a link that the user
could have put there leads to; where we cannot take on that power, such a link is not followed.

An early room: a run looks for journals before the service starts.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Optional

    Power = Optional[tuple[int, int]]  # uid and gid of another user; None is our own

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4  # prctl(2)
SETGROUPS = {"x86_64": 116, "ppc64le": 81, "s390x": 206}  # syscalls(2); 159 where they are numbered anew, as on arm64
LINKS_MAX = 40  # followed on one way, as the kernel does (path_resolution(7))
STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would be waited for for ever (fifo(7))


class Folder:
    """One open folder, and files in it by name, never through a link. Raises: OSError.

    `path` is its real path, `uid` the user who acts in it, `borrowed` the power of the user whose link led here.
    """

    def __init__(self, path: str, file: int, borrowed: Power = None, links: int = 0) -> None:
        status = os.fstat(file)
        self.path = path
        self.gid = status.st_gid
        self._mode = status.st_mode
        self._file = file
        self._way = borrowed, links
        self._owner = _another(status)
        self._power = borrowed or _power(self._owner)
        self.is_anothers = self._power is not None
        self.uid = self._power[0] if self._power else os.geteuid()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self._file)
        if "_listing" in vars(self):
            close(self._listing)

    def enter(self, name: str, *, make: bool) -> Folder:
        """A folder in this one."""
        with self.at(name):
            if make and self.status(name) is None:
                os.mkdir(name, dir_fd=self._file)
            file = os.open(name, STEP | os.O_DIRECTORY, dir_fd=self._file)
        return Folder(os.path.dirname(self.path) if name == ".." else os.path.join(self.path, name), file, *self._way)

    def follow(self, name: str) -> tuple[Folder, str] | None:
        """Where a link leads, and the folder to begin at; None for what is no link. Raises: OSError."""
        status = self.status(name)
        if status is None or not stat.S_ISLNK(status.st_mode):
            return None
        with self.at(name):
            link = os.open(name, STEP, dir_fd=self._file)
            try:
                status, target = os.fstat(link), os.readlink("", dir_fd=link)
            finally:
                os.close(link)
            borrowed, links = self._way[0] or self._lender(status), self._way[1] + 1
            if links > LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.startswith("/"):
            return Folder("/", os.open("/", STEP), borrowed, links), target
        return Folder(self.path, os.dup(self._file), borrowed, links), target

    def _lender(self, link: os.stat_result) -> Power:
        """Whose power a link is followed with: that of the user who can have put it there."""
        owner = self._owner or _another(link)
        power = _power(owner)
        if power is None and (owner is not None or self._is_shared()):
            another = "another user" if owner is None else f"uid {owner[0]}"
            raise PermissionError(errno.EACCES, f"a link that {another} can have put there is not followed; name what "
                                  "it leads to")
        return power

    def _is_shared(self) -> bool:
        """True where other users may rename what is not theirs; Kubernetes' volumes are for all, but read-only."""
        others = stat.S_IWOTH | (stat.S_IWGRP if self.gid not in (0, os.getegid()) else 0)
        is_theirs = self._mode & others and not self._mode & stat.S_ISVTX
        return bool(is_theirs and not os.fstatvfs(self._file).f_flag & os.ST_RDONLY)

    def open(self, name: str, flags: int) -> int:
        with self.at(name):
            return os.open(name, flags | FILE, 0o600, dir_fd=self._file)

    def read(self, name: str, max_bytes: int = -1) -> bytes:
        """The content of a regular file, and of no pipe or device."""
        # By an opener: where it is a folder, a bare descriptor would be left open.
        with self.at(name), open(name, "rb", opener=lambda name, _: self.open(name, os.O_RDONLY)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            return file.read(max_bytes)

    def status(self, name: str) -> os.stat_result | None:
        """The status of what stands under `name`, a link's own; None where nothing does."""
        with contextlib.suppress(FileNotFoundError), self.at(name):
            return os.stat(name, dir_fd=self._file, follow_symlinks=False)
        return None

    def rename(self, old: str, new: str) -> None:
        with self.at(min(old, new, key=len)):  # the service's file, mostly: our names beside it are longer
            os.replace(old, new, src_dir_fd=self._file, dst_dir_fd=self._file)

    def link(self, old: str, new: str) -> None:
        """Link, with our own power: the user may not link a file of root's (proc(5), protected_hardlinks)."""
        os.link(old, new, src_dir_fd=self._file, dst_dir_fd=self._file, follow_symlinks=False)

    def remove(self, name: str) -> bool:
        """Remove `name`; True where it was there."""
        with contextlib.suppress(FileNotFoundError), self.at(name):
            os.unlink(name, dir_fd=self._file)
            return True
        return False

    def names(self) -> list[str]:
        return os.listdir(self._listing)

    def sync(self) -> None:
        """Make the names in the folder safe on the disk (fsync(2))."""
        try:
            os.fsync(self._listing)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some file systems have no fsync for folders
                raise

    @functools.cached_property
    def _listing(self) -> int:
        """The folder open to be read, which takes a right that acting in it takes not."""
        return self.open(".", os.O_RDONLY | os.O_DIRECTORY)

    @contextlib.contextmanager
    def at(self, name: str) -> Iterator[None]:
        """Act with the right power; an error says where, and as which user."""
        try:
            with contextlib.nullcontext() if self._power is None else acting(self._power):
                yield
        except OSError as error:
            error.filename, error.filename2 = os.path.normpath(os.path.join(self.path, name)), None
            if isinstance(error, PermissionError) and self._power is not None:
                error.strerror = f"{os.strerror(error.errno or 0)} for uid {self.uid}"
            raise


def find(path: str, *, make: bool = False) -> tuple[Folder, str]:
    """The folder and the name of a file, there or not; for a link those of what it leads to. Raises: OSError.

    A path that ends in "/" is a folder's; the name is empty then. `make`: have the folder.
    """
    folder = Folder("/", os.open("/", STEP))
    steps = (path if path.startswith("/") else f"{os.getcwd()}/{path}").split("/")
    while True:
        name, *steps = steps
        led = folder.follow(name)
        if led is not None:
            folder, target = led
            steps = target.split("/") + steps
        elif not steps:
            return folder, name
        elif name not in ("", "."):
            folder = folder.enter(name, make=make)


def content_of(path: str, max_bytes: int) -> bytes:
    """What a file holds, and a byte more where that is too much. Raises: OSError."""
    # Without root's power we read no more than any other program; git-sync's links, for one, are another user's.
    folder, name = find(path if os.geteuid() == 0 else os.path.realpath(path))
    return folder.read(name, max_bytes + 1)


def _another(status: os.stat_result) -> Power:
    """The owner, where that is neither root nor we ourselves."""
    return None if status.st_uid in (0, os.geteuid()) else (status.st_uid, status.st_gid)


# Another user's power. seteuid(2) would be for all threads: glibc sees to that. setfsuid(2) is for the calling one, and
# takes root's power over files from it meanwhile (capabilities(7)); the system call setgroups(2) takes root's groups.


@contextlib.contextmanager
def acting(power: tuple[int, int]) -> Iterator[None]:
    library, is_dumpable, set_groups = _library()
    groups = os.getgroups()
    set_groups(())
    before = library.setfsgid(power[1]), library.setfsuid(power[0])  # within another one, that is not root
    try:
        yield
    finally:
        library.setfsuid(before[1])
        library.setfsgid(before[0])
        set_groups(groups)
        library.prctl(PR_SET_DUMPABLE, is_dumpable, 0, 0, 0)  # else all of /proc/1/fd is closed to `docker exec`


def _power(owner: Power) -> Power:
    """`owner` where we can act as that user; else None, as without privileges, CAP_SETUID or ctypes."""
    if owner is None or os.geteuid() != 0 or _library() is None:
        return None
    with acting(owner):
        is_taken = _library()[0].setfsuid(-1) & 0xFFFFFFFF == owner[0]  # -1 is no user: it only asks
        return owner if is_taken and not os.getgroups() else None


@functools.cache
def _library() -> Any:
    """The C library, whether this process is dumpable, which it is no more behind setfsuid(2), and setgroups(2)."""
    try:
        import ctypes  # start-up: only where root meets another user's folder; and an image may have no libffi

        library, machine = ctypes.CDLL(None), os.uname().machine
        number = SETGROUPS.get(machine, 159) if sys.maxsize > 2**32 else 206

        def set_groups(groups: Sequence[int]) -> None:
            library.syscall(ctypes.c_long(number), len(groups), (ctypes.c_uint32 * len(groups))(*groups))

        return library, library.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), set_groups
    except (ImportError, OSError):
        return None
