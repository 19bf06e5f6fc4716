"""Finds the sidecars that `--sidecar` names: a module, or a file. The wrapper does not wait for it.

Imports run authors' code, so each has a thread of its own: one that fails or hangs is a problem, and nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading

from wrapper import threads
from wrapper.deadline import Deadline
from wrapper.log import log
from wrapper.sidecar.extension import Sidecar
from wrapper.sidecar.host import Host
from wrapper.sidecar.isolation import Guard, numbered
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from wrapper.sidecar.site import Site

END_TIMEOUT = 0.5  # seconds to hear of the last exit and to end: the container's stop waits for it
LOAD_TIMEOUT = 30.0  # seconds after which an import that has not ended is a problem


class Loader:
    """Brings sidecars to life at a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        # Guards the sidecars that live, all their names so far, and whether more may come.
        self._lock = threading.Lock()
        self._living: list[tuple[Sidecar, Host]] = []
        self._names: list[str] = []
        self._is_over = False

    def start(self, words: Iterable[str]) -> None:
        """Load what the words name; returns at once."""
        for word in words:
            guard = Guard(word, self._site.around.board)
            try:
                threads.start(f"load {word}", self._load, word, guard)
            except NoThread as error:
                self._give_up(word, guard, f"cannot import {word}: {error}")

    def announce_end(self) -> None:
        """The wrapper shuts down: tasks and watches have as long to end as the service has. Returns at once."""
        with self._lock:
            self._is_over, living = True, list(self._living)
        for _, host in living:
            host.announce_end()

    def stop(self) -> None:
        """Await the end of tasks and hooks, those of all sidecars together within `END_TIMEOUT`."""
        self.announce_end()
        self._site.around.feed.publish("end")
        deadline = Deadline(END_TIMEOUT)
        with self._lock:
            living, self._living = self._living, []
        for sidecar, host in living:
            host.stop(deadline)
            sidecar.retire()

    def _load(self, word: str, guard: Guard) -> None:
        timer = threads.start_watchdog(f"load-watch {word}", LOAD_TIMEOUT, self._give_up, word, guard,
                                       f"the import of {word} has not ended after {LOAD_TIMEOUT:g} s")
        is_loaded = guard.attempt("the import", lambda: self.load(word), is_import=True, watchdog=timer)
        self._site.note_loaded(word, is_loaded)
        if is_loaded:
            log.info("sidecar loaded", sidecar=word)

    def _give_up(self, word: str, guard: Guard, fault: str) -> None:
        self._site.note_loaded(word, False)
        guard.report("the import", fault)

    def load(self, word: str) -> None:
        """Load what `word` names, in this thread.

        Raises: ImportError for a module without a sidecar, and all that an import may.
        """
        folder = self._site.around.settings.folder
        found = sidecars(_from_file(os.path.join(folder, word)) if is_file(word) else importlib.import_module(word))
        if not found:
            raise ImportError(f"{word} holds no Sidecar; it needs a line such as: sidecar = Sidecar()")
        for variable, sidecar in found:
            name = sidecar.name or (title(word) if len(found) == 1 else f"{title(word)}.{variable}")
            self.bring_to_life(sidecar, name)

    def bring_to_life(self, sidecar: Sidecar, name: str) -> None:
        """Raises: ValueError where it lives already."""
        with self._lock:
            if self._is_over:
                return
            name = numbered(name, self._names)
            host = Host(name, self._site)
            self._living.append((sidecar, host))
        sidecar.go_live(host)
        self._site.around.feed.publish("sidecar", name=name)


def title(word: str) -> str:
    """What a sidecar is called that has no name of its own: the last part of its module's name."""
    return os.path.basename(word)[:-3] if is_file(word) else word.rpartition(".")[2]


def is_file(word: str) -> bool:
    return word.endswith(".py") or os.sep in word


def _from_file(path: str) -> ModuleType:
    full = os.path.abspath(path)
    name = f"sidecar_{os.path.basename(full)[:-3]}".replace(".", "_")
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    if os.path.dirname(full) not in sys.path:
        sys.path.append(os.path.dirname(full))  # what lies beside it can be imported, as for a script; never first
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, pickle and the like look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def sidecars(module: ModuleType) -> list[tuple[str, Sidecar]]:
    """Every sidecar of a module, with the name of its variable."""
    found: dict[int, tuple[str, Sidecar]] = {}
    for variable, value in vars(module).items():
        if isinstance(value, Sidecar):
            found.setdefault(id(value), (variable, value))
    return list(found.values())
