"""Folders by descriptor: what another user does to a path meanwhile leads us nowhere else.

As sudo(8) and OpenSSH's StrictModes judge it, root and we ourselves are trusted, and no other user. Where we are root
and a folder is another user's, all in it is done with that user's power alone, and so is whatever a link that the user
could have put there leads to; where we cannot take on that power, such a link is not followed.

An early room: a run looks for journals before the service starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

LINKS_MAX = 40  # followed on one way, as the kernel does (path_resolution(7))
STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would be waited for for ever (fifo(7))

_libraries: list[Any] = []


class Folder:
    """One open folder, and files in it by name. `path` is its real path, `uid` the user who acts in it.

    `borrowed` is the power, (uid, gid), of the user whose link led here.
    """

    def __init__(self, path: str, file: int, borrowed: tuple[int, int] | None = None, links: int = 0) -> None:
        self.path = path
        self._file = file
        self._borrowed = borrowed
        self._links = links
        status = os.fstat(file)
        self.gid = status.st_gid
        self._owner = (status.st_uid, status.st_gid) if is_another(status.st_uid) else None
        self._power = borrowed or _power(self._owner)
        self.is_anothers = self._power is not None
        self.uid = self._power[0] if self._power else os.geteuid()

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self._file)

    # The way to another folder

    def walk(self, path: str, *, make: bool = False) -> Folder:
        """The folder at a path that begins here, or at the root. `make`: have it. Raises: OSError."""
        folder = Folder("/", os.open("/", STEP), self._borrowed, self._links) if path.startswith("/") else self
        for step in path.split("/"):
            if step not in ("", "."):
                folder = folder._enter(step, make)
        return folder

    def _enter(self, name: str, make: bool) -> Folder:
        try:
            led = self.follow(name)
        except FileNotFoundError:
            if not make:
                raise
            led = None
            with self.at(name):
                os.mkdir(name, dir_fd=self._file)
        if led is not None:
            folder, target = led
            return folder.walk(target, make=make)
        with self.at(name):
            file = os.open(name, STEP | os.O_DIRECTORY, dir_fd=self._file)
        path = os.path.dirname(self.path) if name == ".." else os.path.join(self.path, name)
        return Folder(path, file, self._borrowed, self._links)

    def follow(self, name: str) -> tuple[Folder, str] | None:
        """Where a link leads, and this folder as the user whom it is followed for sees it; None for what is no link.

        Raises: OSError.
        """
        with self.at(name):
            link = os.open(name, STEP, dir_fd=self._file)
            try:
                status = os.fstat(link)
                if not stat.S_ISLNK(status.st_mode):
                    return None
                if self._links == LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                return Folder(self.path, os.dup(self._file), self._lender(status), self._links + 1), os.readlink(
                    "", dir_fd=link)
            finally:
                os.close(link)

    def _lender(self, link: os.stat_result) -> tuple[int, int] | None:
        """Whose power a link is followed with: that of the user who can have put it there."""
        owner = self._owner or ((link.st_uid, link.st_gid) if is_another(link.st_uid) else None)
        if owner is None or self._borrowed is not None:
            return self._borrowed
        power = _power(owner)
        if power is None:
            raise PermissionError(errno.EACCES, f"a link that uid {owner[0]} can have put there is not followed; name "
                                  "what it leads to")
        return power

    # Files

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """Never through a link. Raises: OSError."""
        with self.at(name):
            return os.open(name, flags | FILE, mode, dir_fd=self._file)

    def status(self, name: str) -> os.stat_result | None:
        """What stands there; None where nothing does. Raises: OSError."""
        with contextlib.suppress(FileNotFoundError), self.at(name):
            return os.stat(name, dir_fd=self._file, follow_symlinks=False)
        return None

    def rename(self, old: str, new: str) -> None:
        with self.at(min(old, new, key=len)):  # the service's file: our names beside it are longer
            os.replace(old, new, src_dir_fd=self._file, dst_dir_fd=self._file)

    def link(self, old: str, new: str) -> None:
        """With our own power: whoever can link here has the file here already, and its user may not (proc(5),
        protected_hardlinks)."""
        os.link(old, new, src_dir_fd=self._file, dst_dir_fd=self._file, follow_symlinks=False)

    def remove(self, name: str) -> bool:
        """True where there was something to remove. Raises: OSError."""
        with contextlib.suppress(FileNotFoundError), self.at(name):
            os.unlink(name, dir_fd=self._file)
            return True
        return False

    def names(self) -> list[str]:
        with self._listed() as file:
            return os.listdir(file)

    def sync(self) -> None:
        """Names are safe on the disk only once their folder is synced (fsync(2))."""
        with self._listed() as file:
            try:
                os.fsync(file)
            except OSError as error:
                if error.errno != errno.EINVAL:  # some file systems have no fsync for folders
                    raise

    @contextlib.contextmanager
    def _listed(self) -> Iterator[int]:
        with self.at("."):
            file = os.open(".", LIST, dir_fd=self._file)
        try:
            yield file
        finally:
            os.close(file)

    @contextlib.contextmanager
    def at(self, name: str) -> Iterator[None]:
        """Act with the right power; an error says where, and as which user."""
        try:
            with acting(self._power):
                yield
        except OSError as error:
            error.filename, error.filename2 = os.path.normpath(os.path.join(self.path, name)), None
            if isinstance(error, PermissionError) and self._power is not None:
                error.strerror = f"{error.strerror} for uid {self.uid}"
            raise

    def acting(self) -> contextlib.AbstractContextManager[None]:
        return acting(self._power)


def folder_at(path: str, *, make: bool = False) -> Folder:
    """Raises: OSError."""
    return Folder("/", os.open("/", STEP)).walk(os.path.join(os.getcwd(), path), make=make)


def file_at(path: str) -> tuple[Folder, str]:
    """The folder and the name of a file, there or not; for a link those of what it leads to. Raises: OSError."""
    place, name = os.path.split(path)
    folder = folder_at(place)
    while True:
        if name in ("", ".", ".."):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        try:
            led = folder.follow(name)
        except FileNotFoundError:
            led = None
        if led is None:
            return folder, name
        folder, target = led
        place, name = os.path.split(target)
        folder = folder.walk(place)


def content_of(path: str, max_bytes: int) -> bytes:
    """What a file holds, and a byte more where that is too much. Raises: OSError.

    Without root's power we read no more than any other program; git-sync's links, for one, are another user's.
    """
    if os.geteuid():
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    else:
        folder, name = file_at(path)
        file = folder.open(name, os.O_RDONLY)
    with open(file, "rb") as stream:
        refuse_irregular(file, path)
        return stream.read(max_bytes + 1)


def refuse_irregular(file: int, path: str) -> os.stat_result:
    """The status of an open file. Raises: OSError for a pipe, a device, a folder."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return status


def is_another(uid: int) -> bool:
    """True for a user who is neither root nor we ourselves."""
    return uid not in (0, os.geteuid())


# Another user's power. seteuid(2) would be for all threads: glibc sees to that. setfsuid(2) is for the calling one, and
# takes root's power over files from it meanwhile (capabilities(7)).


@contextlib.contextmanager
def acting(power: tuple[int, int] | None) -> Iterator[None]:
    if power is None:
        yield
        return
    uid, gid = power
    library = _library()
    library.setfsgid(gid)
    library.setfsuid(uid)
    try:
        yield
    finally:
        library.setfsuid(os.geteuid())
        library.setfsgid(os.getegid())


def _power(owner: tuple[int, int] | None) -> tuple[int, int] | None:
    """`owner` where we can act as that user; else None, as without privileges, CAP_SETUID or ctypes."""
    if owner is None or os.geteuid() != 0 or _library() is None:
        return None
    with acting(owner):
        is_taken: bool = _library().setfsuid(-1) & 0xFFFFFFFF == owner[0]  # -1 is no user: it says who we are
    return owner if is_taken else None


def _library() -> Any:
    if not _libraries:
        try:
            import ctypes  # start-up: only where root meets another user's folder; and an image may have no libffi

            _libraries.append(ctypes.CDLL(None))
        except (ImportError, OSError):
            _libraries.append(None)
    return _libraries[0]
