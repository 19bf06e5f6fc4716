"""The past of one service's configuration: each version that was in force, files and environment together.

A version is one file of the transaction that brings it into force, so that a crash leaves both or neither. The newest
one says what is in force, also after a restart of the wrapper. Where no folder can be had the past lives in memory.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import os
import re
import threading
import time
from collections import namedtuple

from wrapper.config import journal
from wrapper.config.folder import find
from wrapper.config.transaction import Kept, Rights, kept
from wrapper.deadline import Deadline
from wrapper.log import timestamp
from wrapper.text import fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from wrapper.config.transaction import Stood
    from wrapper.service.service import Service
    from wrapper.settings.settings import Settings

    Files = dict[str, Stood]

VERSIONS_MAX = 20
HISTORY_BYTES, MEMORY_BYTES = 64 * 1024 * 1024, 8 * 1024 * 1024  # of all together; the newest stays whatever its size
DISK_SHARE = 4  # and no more than a fourth of its file system, as journald.conf(5) bounds journals by a share
DIFF_BYTES = 128 * 1024  # of two files that are compared line by line
DIFF_LINES = 1000  # of one file

REPAIR_INTERVAL = 60.0  # seconds between two repairs: another program that insists would have us restart for ever

# Guards the making of histories: two would lock each other out of the folder.
_making = threading.Lock()


def folder_of(settings: Settings, *, make: bool = False) -> str | None:
    """Where one wrapper's histories are: in --config-history, else in a folder for wrappers of these very words."""
    if settings.config_history is not None:
        return settings.config_history
    folder = journal.own_folder(journal.HISTORY, make=make)
    words = [str(settings.listen), settings.command, settings.config_file, settings.sidecar, settings.folder]
    return None if folder is None else os.path.join(folder, fingerprint(words))


def of(service: Service) -> History:
    """The history of a service; the same one every time."""
    with _making:
        if service.history is None:
            service.history = History(service)
        history: History = service.history
        return history


def recall(service: Service) -> None:
    """Before the first start: the environment that was in force when the wrapper ended is in force again."""
    settings = service.around.settings
    newest = of(service).newest() if settings.config_env or settings.sidecar else None
    if newest is not None:
        service.variables = newest.environment


# All files by path, the environment, and the action for them. `before`: what stood where this version was the first to
# put something. `skipped`: the hash of each source that is not to be applied, because an operator went back. `placed`:
# the paths of the files in it that came from a --config-source folder.
Version = namedtuple("Version", "number at reason action files before environment skipped placed", defaults=((),))


class Draft:
    """The version that a change becomes, once its transaction knows the rights of its files."""

    def __init__(self, history: History, reason: str, action: Any, environment: Mapping[str, str | None],
                 skipped: Mapping[str, str], placed: Iterable[str] | None) -> None:
        """`placed`: None where the change has none of these files to place, so that all stay."""
        self.number, self.path = history.next_number()
        self.packed = b""
        self._history = history
        self._version = Version(self.number, timestamp(time.time()), reason, action, {}, {}, dict(environment), skipped,
                                placed)

    def content(self, before: Files, after: Files) -> bytes:
        """The version as bytes. To be called once what a crash left is mended: the newest version is in force then."""
        newest, draft = self._history.newest(), self._version
        known: Files = {} if newest is None else newest.files
        action = draft.action if isinstance(draft.action, str) else "restart" if draft.action else "none"
        version = draft._replace(
            action=action, files={**known, **after},
            before={path: stood for path, stood in before.items() if path not in known},
            skipped={**({} if newest is None else newest.skipped), **draft.skipped},
            placed=sorted((newest.placed if newest is not None else ()) if draft.placed is None else draft.placed))
        text = json.dumps(version._asdict(), default=_packed, ensure_ascii=False)
        self.packed = text.encode("utf-8", "surrogatepass")
        return self.packed


class History:
    """Versions by number, for one service. It is written under the lock of the service's changes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._memory: dict[int, bytes] = {}
        self._folder: str | None = None
        self._file = -1  # the lock of the folder, until the process ends
        self._seen: dict[str, object] | None = None  # the state of each managed file, where all were as they should be
        self._next_repair = Deadline(0.0)
        self._open(make=False)

    def _open(self, *, make: bool) -> None:
        """Take the folder, where there is one or `make`; another wrapper may have it."""
        around = self._service.around
        if self._folder is not None and not os.path.exists(self._folder):  # as by what tidies /tmp up
            os.close(self._file)
            self._file, self._folder = -1, None
        is_open = self._folder is not None or self._memory or not around.keeps_history
        folder = None if is_open else folder_of(around.settings, make=make)
        if folder is None:
            return
        path = os.path.join(folder, self._service.name)
        try:
            if make:
                os.makedirs(path, 0o700, exist_ok=True)
            self._file, self._folder = _own(path), path
        except FileNotFoundError:
            pass  # there was no change yet
        except OSError as error:
            around.board.report("history", f"earlier versions are kept in memory only: {path}: {error.strerror}; "
                                "choose a folder with --config-history", self._service.name)

    # To look at

    def _path(self, number: int) -> str:
        return os.path.join(self._folder or "", f"{number}.json")

    def next_number(self) -> tuple[int, str]:
        """The number of the next version, and the path it is to be written to; "" for memory."""
        self._open(make=True)
        number = max(self.numbers(), default=0) + 1
        return number, "" if self._folder is None else self._path(number)

    def numbers(self) -> list[int]:
        """The numbers of all versions, the newest last."""
        names, folder = [], self._folder  # which another thread's change may give up meanwhile
        with contextlib.suppress(FileNotFoundError):  # it was removed: the next change makes it anew
            names = [] if folder is None else os.listdir(folder)
        on_disk = [int(name[:-len(".json")]) for name in names if re.fullmatch(r"[0-9]+\.json", name)]
        return sorted({*on_disk, *self._memory})

    def newest(self) -> Version | None:
        return next(self._readable(), None)

    def _readable(self) -> Iterator[Version]:
        """The versions that can be read, the newest first."""
        for number in reversed(self.numbers()):
            with contextlib.suppress(LookupError):
                yield self.version(number)

    def version(self, number: int) -> Version:
        """Raises: LookupError where there is none of that number, or no good one."""
        if number not in self.numbers():
            raise LookupError(f"no version {number}; there are {', '.join(map(str, self.numbers())) or 'none'}")
        try:
            facts = json.loads(self._content(number), object_hook=_unpacked)
            return Version(**{**facts, "files": _files(facts["files"]), "before": _files(facts["before"])})
        except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise LookupError(f"version {number} cannot be read: {type(error).__name__}") from error

    def _content(self, number: int) -> bytes:
        if number in self._memory:
            return self._memory[number]
        with open(self._path(number), "rb") as file:
            return file.read()

    def state(self, number: int) -> Version:
        """A version with all files that there are: of those that came later, what stood there before.

        0 is what was there before the first. Raises: LookupError.
        """
        numbers = self.numbers()
        found = Version(0, "", "", "restart", {}, {}, {}, {}) if number == 0 and 1 in numbers else self.version(number)
        files: Files = {}
        for later in reversed([each for each in numbers if each > number]):
            files.update(self.version(later).before)
        return found._replace(files={**files, **found.files})

    def outline(self) -> list[dict[str, Any]]:
        """What may be listed of each version, the newest first: no content and no value."""
        return [{"version": version.number, "at": version.at, "reason": version.reason, "files": sorted(version.files),
                 "environment": sorted(version.environment)} for version in self._readable()]

    def diff(self, number: int) -> dict[str, Any]:
        """From a version to what stands there now; of the environment only names. Raises: LookupError, OSError."""
        version = self.state(number)
        environment, now = version.environment, self._service.variables
        both = now.keys() & environment.keys()
        lines = {path: difference(stood, standing(path)) for path, stood in sorted(version.files.items())}
        return {"version": number, "files": {path: found for path, found in lines.items() if found},
                "environment": {"added": sorted(now.keys() - environment.keys()),
                                "removed": sorted(environment.keys() - now.keys()),
                                "changed": sorted(name for name in both if now[name] != environment[name])}}

    # To change

    def commit(self, draft: Draft) -> None:
        """Make the draft, which is in force now, the newest version, and forget the oldest over the limits."""
        self._seen = None
        if not draft.path:
            self._memory[draft.number] = draft.packed
        with contextlib.suppress(OSError):  # the change is in force: the next one tidies up
            for number in self._surplus():
                if self._memory.pop(number, None) is None:
                    os.unlink(self._path(number))

    def _surplus(self) -> list[int]:
        """The numbers of the oldest versions, as far as all are too many or too large."""
        size, numbers = 0, self.numbers()
        disk = os.statvfs(self._folder or "/")
        share = disk.f_blocks * disk.f_frsize // DISK_SHARE or HISTORY_BYTES  # a tmpfs may have no size
        most = MEMORY_BYTES if self._memory else min(HISTORY_BYTES, share)
        for count, number in enumerate(reversed(numbers)):
            content = self._memory.get(number)
            size += len(content) if content is not None else os.stat(self._path(number)).st_size
            if count == VERSIONS_MAX or (count and size > most):
                return numbers[:len(numbers) - count]
        return []

    def drifted(self) -> Files:
        """The files that something else has changed since they were put in place, as they should be.

        Raises: OSError.
        """
        if self._seen is not None and all(_state(path) == state for path, state in self._seen.items()):
            return {}
        newest = self.newest()
        seen, found = {}, {}
        for path, should in newest.files.items() if newest else ():
            seen[path], now = _state(path), standing(path)
            if (now and now.content) != (should and should.content):
                found[path] = should
        self._seen = None if found else seen  # where all was as it should be; else all is read the next time
        return found

    def may_repair(self) -> bool:
        """True once in REPAIR_INTERVAL."""
        if not self._next_repair.has_passed():
            return False
        self._next_repair = Deadline(REPAIR_INTERVAL)
        return True


def _own(path: str) -> int:
    """Open a folder that is for us alone, and lock it. Raises: OSError."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(file)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(errno.EPERM, "it must be ours alone, with mode 0700")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # some file systems have no locks
            if error.errno == errno.EWOULDBLOCK:
                raise BlockingIOError(error.errno, "another wrapper has it") from None
    except OSError:
        os.close(file)
        raise
    return file


def _state(path: str) -> object:
    """A value that differs when the file at `path` has changed; None where there is none."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return None


def standing(path: str) -> Stood:
    with contextlib.suppress(FileNotFoundError):
        return kept(*find(path))
    return None


def difference(old: Stood, new: Stood) -> list[str]:
    """Lines as diff(1) -u writes them; one that says so where the two cannot be compared that way."""
    contents = [b"" if stood is None else stood.content for stood in (old, new)]
    if contents[0] == contents[1] and (old is None) == (new is None):
        return []
    names = ["nothing" if stood is None else name for stood, name in ((old, "then"), (new, "now"))]
    try:
        then, now = [content.decode().splitlines() for content in contents]
    except UnicodeDecodeError:
        then = now = []
    is_too_much = sum(map(len, contents)) > DIFF_BYTES
    found = [] if is_too_much else list(difflib.unified_diff(then, now, names[0], names[1], lineterm=""))
    return found[:DIFF_LINES] or [f"{names[0]} {len(contents[0])} bytes, {names[1]} {len(contents[1])} bytes"]


# In JSON bytes are an object with one member, whose name can be that of no path, variable or attribute.


def _packed(content: bytes) -> dict[str, str]:
    return {"\0": content.decode("latin-1")}


def _unpacked(found: dict[str, Any]) -> Any:
    return found["\0"].encode("latin-1") if "\0" in found else found


def _files(found: dict[str, Any]) -> Files:
    return {path: stood and Kept(stood[0], Rights(*stood[1])) for path, stood in found.items()}
