"""The family of a process: all that it has started, in its group or not, and what is left of that once it has ended."""

from __future__ import annotations

import os
import signal
import threading

from wrapper.deadline import Deadline
from wrapper.log import log
from wrapper.service import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Callable

    from wrapper.service.procfs import Stat

# A signal that ends goes to the whole group, as a terminal's does; any other to the one process, as without a wrapper:
# gunicorn's workers die of the HUP that its master takes as a reload.
ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL})
SHORTEST_LOOK, LONGEST_LOOK = 0.005, 0.1  # seconds between two looks at what is about to end
KILL_TIMEOUT = 5.0  # seconds for what was killed to be seen to end; a process in the kernel may take longer


class Family:
    """`leader` is the first process, whose number is the group's. `adopted(table)`: orphans that it has left behind."""

    def __init__(self, leader: int, adopted: Callable[[Mapping[int, Stat]], set[int]]) -> None:
        self.leader = leader
        self._adopted = adopted
        self._started: dict[int, int] = {}  # of those that were seen: a later process of that number is another one
        self._told: set[int] = set()  # those that had a signal to end

    def members(self) -> set[int]:
        """All that run, but for the leader; nothing where no descriptor can be had for a look."""
        try:
            table = procfs.processes()
        except OSError:
            return set()
        roots = {pid for pid, known in table.items()
                 if self.leader in (pid, known.group) or self._started.get(pid) == known.started}
        family = procfs.with_descendants(table, roots | self._adopted(table))
        running = {pid for pid in family & table.keys() if table[pid].state not in "ZX"} - {self.leader}
        self._started.update({pid: table[pid].started for pid in running})
        return running

    def prepare_stop(self, number: int) -> None:
        """The group is about to get this signal. Those that are not in it are found again once the leader is gone."""
        members = self.members()
        if number in ENDING:
            self._told = {pid for pid in members if (known := procfs.stat(pid)) and known.group == self.leader}

    def end_rest(self, deadline: Callable[[], Deadline]) -> None:
        """End what the leader has left: TERM to what was not told yet, SIGKILL at the deadline, which may move."""
        pause, killed = SHORTEST_LOOK, None
        while (rest := self.members()) and not (killed is not None and killed.has_passed()):
            if deadline().has_passed():
                killed = killed or Deadline(KILL_TIMEOUT)
                _send_each(rest, signal.SIGKILL)
            else:
                _send_each(rest - self._told, signal.SIGTERM)
                self._told |= rest
            threading.Event().wait(pause)  # the pace of the look: not all of them are our children
            pause = min(pause * 1.5, LONGEST_LOOK)
        if rest:
            log.warning("what the service left behind cannot be ended", pids=" ".join(map(str, sorted(rest))))


def _send_each(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass
