"""Where configuration comes from: a URL, a file, a folder, or any callable. All answer `fetch()`, all are bounded."""

from __future__ import annotations

import os
import stat
import time

from wrapper import cause
from wrapper.config.folder import content_of
from wrapper.config.snapshot import CannotFetch, Snapshot
from wrapper.config.url import Url
from wrapper.threads import BoundedCall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol, Union

    class Source(Protocol):
        """One place to look at. `name` is fit to be shown: it holds no credentials."""

        name: str

        def fetch(self, within: float | None = None) -> Snapshot:
            """What is there now, `within` seconds where the source's own time is longer. Raises: CannotFetch."""

        def forget(self) -> None:
            """What was seen last was no good: look at it anew, even where it is the same."""

    Origin = Union[str, Callable[[], Any]]

MAX_BYTES = 16 * 1024 * 1024  # of one document, or of all files of a folder together
LOOK_TIMEOUT = 10.0  # seconds
DEPTH_MAX = 8  # folders in folders; a link to a parent folder ends with it
YOUNG_SECONDS = 2.0  # the coarsest clock of a file system in use: FAT's
ATTEMPTS = 5  # to read a folder that does not change meanwhile


def of(origin: Origin, *, timeout: float = LOOK_TIMEOUT, max_bytes: int = MAX_BYTES,
       token_file: str | None = None) -> Source:
    """The source for an `http(s)://` URL, a path of a file or folder, or a callable.

    Raises: ValueError for a text that is none of them.
    """
    if callable(origin):
        return Callback(origin, timeout)
    if origin.startswith(("http://", "https://")):
        return Url(origin, timeout, max_bytes, token_file)
    if "://" in origin and not origin.startswith("file://"):
        raise ValueError(f"no such kind of source: {origin.partition('://')[0]}://; there are http, https and paths")
    return Path(origin.partition("file://")[2] or origin, max_bytes)


# A path


class Path:
    """A file, or a folder with all its files. Which of them it is may change between two fetches."""

    def __init__(self, path: str, max_bytes: int) -> None:
        self.name = self._path = path
        self._max_bytes = max_bytes
        self._seen: object = None
        self._last: object = None  # the state at the last fetch
        self._filled: set[str] = set()  # the files that were not empty then

    def fetch(self, within: float | None = None) -> Snapshot:  # a disk knows no timeout
        try:
            for _ in range(ATTEMPTS):
                before = self._state()
                if before == self._seen:
                    return Snapshot(None, None, False)
                contents = self._contents()
                if self._state() == before:
                    return self._found(before, contents)
        except OSError as error:
            raise CannotFetch(f"{error.filename or self._path}: {error.strerror}") from error
        raise CannotFetch(f"{self._path}: changes all the time")

    def forget(self) -> None:
        self._seen = None

    def _found(self, state: tuple[str | None, Any], contents: dict[str, bytes]) -> Snapshot:
        """What stands there now; still where the last fetch saw it too, or where all of it changed in one step."""
        newest = max((modified for _, _, _, modified, _ in state[1]), default=0)  # nanoseconds
        is_young = time.time() - newest / 1e9 < YOUNG_SECONDS
        is_still = state == self._last or state[0] is not None or (self._last is None and not is_young)
        self._last = state
        self._refuse_emptied(contents)
        # Like git's index: what changed within the clock's grain might change again and look the same.
        self._seen = state if is_still and not is_young else None
        return Snapshot(contents.get(".", contents), True if self._path.endswith(".json") else None, True, is_still)

    def _refuse_emptied(self, contents: dict[str, bytes]) -> None:
        """Raises: CannotFetch: a file that is written anew is empty at first, and a full disk leaves it so."""
        emptied = [name for name, content in contents.items() if not content and name in self._filled]
        if emptied or (self._filled and not contents):
            place = os.path.normpath(os.path.join(self._path, *emptied[:1]))
            raise CannotFetch(f"{place}: is empty, and was not before")
        self._filled = {name for name, content in contents.items() if content}

    def _state(self) -> tuple[str | None, Any]:
        """What differs when anything has changed: Kubernetes changes all files at once, by swapping `..data`."""
        swap = os.path.join(self._path, "..data")
        link = os.readlink(swap) if os.path.islink(swap) else None
        return link, [(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                      for path, status in self._files()]

    def _contents(self) -> dict[str, bytes]:
        """By name; a single file's name is "."."""
        contents, size = {}, 0
        for path, _ in self._files():
            contents[os.path.relpath(path, self._path)] = content = content_of(path, self._max_bytes)
            size += len(content)
            if size > self._max_bytes:
                raise CannotFetch(f"{self._path}: over {self._max_bytes} bytes")
        return contents

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        status = os.stat(self._path)
        if stat.S_ISDIR(status.st_mode):
            yield from _files_under(self._path, DEPTH_MAX)
        elif stat.S_ISREG(status.st_mode):
            yield self._path, status
        else:  # a pipe would block for ever
            raise CannotFetch(f"{self._path}: neither a file nor a folder")


def _files_under(folder: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    """Regular files in order of name, see `is_passing`."""
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if is_passing(name):
            continue
        try:
            status = os.stat(path)
        except FileNotFoundError:  # a link that leads nowhere, as editors make for a lock
            continue
        if stat.S_ISDIR(status.st_mode) and depth > 0:
            yield from _files_under(path, depth - 1)
        elif stat.S_ISREG(status.st_mode):
            yield path, status


def is_passing(name: str) -> bool:
    """True for what is no configuration: hidden names (Kubernetes' `..data` among them) and what editors leave.

    `name~` and `#name#` are Emacs', `name.swp` and `4913` vim's, which tries with that whether it can write.
    """
    return name.startswith(".") or name.endswith(("~", ".swp", ".tmp")) or name == "4913" or (
        name.startswith("#") and name.endswith("#"))


# A callable


class Callback:
    """Whatever a callable returns."""

    def __init__(self, callback: Callable[[], Any], timeout: float) -> None:
        self._callback = callback
        self._timeout = timeout
        self._call: BoundedCall | None = None
        self.name = getattr(callback, "__qualname__", type(callback).__name__)

    def fetch(self, within: float | None = None) -> Snapshot:
        timeout = self._timeout if within is None else min(self._timeout, within)
        if self._call is not None and not self._call.is_over:
            raise CannotFetch(f"{self.name}: has not come back from an earlier fetch")
        self._call = call = BoundedCall(f"source-{self.name}", self._callback, (), timeout)
        if not call.is_over:
            raise CannotFetch(f"{self.name}: did not come back within {timeout:.3g} s")
        if call.error is not None:
            raise CannotFetch(cause.tell(self.name, call.error)) from call.error
        return Snapshot(call.value, False, True)

    def forget(self) -> None:
        """Nothing is remembered."""
