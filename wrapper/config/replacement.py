"""One file of a transaction: the new one beside its place, the old one under a second name, and which of them it is.

An early room: a repair puts old files back before the service starts.
"""

from __future__ import annotations

import os

from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.config.folder import Folder

STAGED, SAVED = ".wrapper-new", ".wrapper-old"


class Replacement:
    """One file of a transaction: its folder, its name there, and the names of the new and of the old file meanwhile.

    Neither keeps its suffix: a service that reads `*.yml` must take neither for a file of its own, and Go's patterns,
    unlike a shell's, match a dot in front too.
    """

    __slots__ = ("existed", "folder", "is_replaced", "name", "path", "saved", "staged")

    def __init__(self, folder: Folder, name: str, token: str, existed: bool) -> None:
        self.folder = folder
        self.name = name
        self.path = os.path.join(folder.path, name)
        self.existed = existed
        self.is_replaced = False  # by this process
        self.staged = f".{name}.{token}{STAGED}"
        self.saved = f".{name}.{token}{SAVED}"

    def save(self) -> None:
        """Have the old file itself under a second name, where the file system has hard links."""
        if self.existed:
            try:
                self.folder.link(self.name, self.saved)
            except OSError as error:
                log.debug(f"no second name for {self.path}: it is moved aside", reason=error.strerror)

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
