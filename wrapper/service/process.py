"""One run of the service as the kernel sees it: spawn, signal its group, wait, kill.

The only room that knows pids, beside procfs's. Nothing polls: a thread sleeps in the kernel until the process ends.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time

from wrapper import threads
from wrapper.errors import CannotStart, Refusal
from wrapper.log import log
from wrapper.service import procfs
from wrapper.service.reaper import Reaper
from wrapper.settings import address
from wrapper.signals import END_SIGNALS
from wrapper.threads import NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Callable

    from wrapper.settings.address import Address

NOW, NEVER = 0.0, math.inf  # when something is due, on the monotonic clock
STDIN = 0
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # POSIX shell, section 2.8.2: exit status for commands
# What ends a service goes to its whole group, as a terminal's signal does; any other to the one process, as without a
# wrapper: gunicorn's workers die of the HUP that its master takes as a reload.
GROUP_SIGNALS = END_SIGNALS | {signal.SIGKILL}
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.005, 0.1  # seconds between two polls of what is about to end
KILL_TIMEOUT = 5.0  # seconds for what was killed to be seen to end; a process in the kernel may take longer
REST_TIMEOUT = 2.0  # seconds for what a service that fell has left behind; others wait for the next start
HELPER_VARIABLE = "WRAPPER_HELPER"  # in the environment of a helper and of all it starts
UNKNOWN = 255  # exit status of a run whose own was collected by other code: it may have failed


class Ending:
    """How a run ended, as people and shells say it; `returncode` is Popen's, None before the end."""

    returncode: int | None
    left_behind = 0  # processes of it that ran on when its first one had ended without being told to

    @property
    def exit_status(self) -> int:
        """What a shell would report: the status, or 128+n where signal n ended it."""
        assert self.returncode is not None
        return 128 - self.returncode if self.returncode < 0 else self.returncode

    @property
    def exit_signal(self) -> int | None:
        assert self.returncode is not None
        return -self.returncode if self.returncode < 0 else None

    def has_fallen(self) -> bool:
        """True once its first process is gone."""
        return self.returncode is not None

    @property
    def fault(self) -> str:
        """The end of the process, as the reason why something that needed it alive has failed."""
        return f"it ended with status {self.exit_status}"


class Process(Ending):
    """One run of a command, in a process group of its own. `ended` is set once its status is known and all is gone.

    `on_leader_end(self)`, which only services have, is called once the first process is gone; others of the run that
    live on then get some time to end, and are killed at once without it. `left_by(self, table)`: the run's orphans.
    """

    def __init__(self, popen: subprocess.Popen[bytes], on_end: Callable[[Process], None],
                 left_by: Callable[[Process, Mapping[int, procfs.Stat]], set[int]], *, is_helper: bool = False,
                 on_leader_end: Callable[[Process], None] | None = None) -> None:
        self.pid = popen.pid
        self.ended = threading.Event()
        self.returncode: int | None = None
        self.is_helper = is_helper
        self.is_service = on_leader_end is not None
        self.started = _stat(self.pid).started
        self._popen = popen
        self._on_end = on_end
        self._on_leader_end = on_leader_end
        self._left_by = left_by
        self._seen: dict[int, int] = {}  # when those of its family started: a later process of that number is another
        self._told: set[int] = set()  # those of its family that had a signal to end
        self._deadline = NEVER  # for all to be gone, once it is being stopped
        # Held while the pid is used: the kernel may give it to another process once the status is collected.
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Wait for the end in a thread, then call `on_end(self)` there."""
        threads.start(f"process-{self.pid}", self._await_end)

    def _await_end(self) -> None:
        # WNOWAIT leaves the zombie: while it stands, its number is not given away and its group can be killed.
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:  # other code in this process waited for any child, as os.wait() does
            found = None
        if self._on_leader_end is not None:
            self._on_leader_end(self)
            self.left_behind = 0 if self.is_stopping else len(self.family())
            self._end_family(time.monotonic() + REST_TIMEOUT)
        self._send(signal.SIGKILL, to_group=True)
        with self._lock:
            self._popen.wait()  # 0 where other code has collected it meanwhile, so its answer does not count
            if found is None:
                self.returncode = UNKNOWN
            else:
                self.returncode = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        self.ended.set()
        self._on_end(self)

    def has_fallen(self) -> bool:
        """The kernel knows so before the thread above does. Returns at once."""
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:  # collected already
            return True
        return found is not None or self.ended.is_set()

    def family(self) -> set[int]:
        """The pids of the run that are alive, but for the first; none where no descriptor can be had to read /proc."""
        try:
            table = procfs.processes()
            orphans = self._left_by(self, table)
        except OSError:
            return set()
        roots = {pid for pid, known in table.items()
                 if self.pid in (pid, known.group) or self._seen.get(pid) == known.started}
        family = procfs.with_descendants(table, roots | orphans)
        running = {pid for pid in family & table.keys() if table[pid].state not in "ZX"} - {self.pid}
        self._seen.update({pid: table[pid].started for pid in running})
        return running

    def _end_family(self, grace: float) -> None:
        """End what the run left behind: TERM to each once, SIGKILL at the stop's deadline, without one at `grace`."""
        pause, killed = SHORTEST_INTERVAL, NEVER
        while (rest := self.family()) and (now := time.monotonic()) < killed + KILL_TIMEOUT:
            if now >= (self._deadline if self.is_stopping else grace):
                killed = min(killed, now)
                _send_each(rest, signal.SIGKILL)
            else:
                _send_each(rest - self._told, signal.SIGTERM)
                _send_each(_suspended(rest - self._told), signal.SIGCONT)
                self._told |= rest
            time.sleep(pause)  # not all of them are our children, so nothing tells of their end
            pause = min(pause * 1.5, LONGEST_INTERVAL)
        if rest:
            log.warning("what the service left behind cannot be ended", pids=" ".join(map(str, sorted(rest))))

    @property
    def is_stopping(self) -> bool:
        return self._deadline < NEVER

    def listening(self) -> list[Address]:
        """The addresses at which processes of the run listen."""
        return procfs.listening({self.pid} | self.family())

    def signal(self, number: int) -> None:
        """Send a signal: one that ends goes to the whole group, any other to the service's own process.

        Where that is gone nothing happens. Raises: Refusal where the kernel does not let us.
        """
        self._send(number, to_group=number in GROUP_SIGNALS)

    def _send(self, number: int, *, to_group: bool) -> None:
        with self._lock:
            if self.returncode is not None:
                return
            refused = None
            for target in self._targets(to_group):
                try:
                    os.kill(target, number)
                    refused = None
                except ProcessLookupError:
                    pass
                except PermissionError as error:
                    refused = error
            # macOS and some kernels say EPERM for a group of zombies.
            if refused is not None and _stat(self.pid).state not in ("Z", ""):
                raise Refusal(f"cannot signal the service: {refused.strerror}; the wrapper needs CAP_KILL, or to run "
                              "as the same user") from refused

    def _targets(self, to_group: bool) -> tuple[int, ...]:
        """The pids for kill(2), negative for the group; the process comes last where it is in another (setpgid(2))."""
        with contextlib.suppress(ProcessLookupError):
            if to_group and os.getpgid(self.pid) != self.pid:
                return -self.pid, self.pid
        return (-self.pid if to_group else self.pid,)

    def refusal(self) -> str | None:
        """Why this process cannot be signalled, None where it can."""
        try:
            self._send(0, to_group=False)
            return None
        except Refusal as error:
            return error.message

    def begin_stop(self, number: int, timeout: float) -> None:
        """Send `number` to the group; the whole family has `timeout` seconds to end. A later call only shortens that.

        Raises: Refusal.
        """
        is_late, self._deadline = self.is_stopping, min(self._deadline, time.monotonic() + timeout)
        if is_late:
            return
        members = self.family()  # those that are not in the group are found again once the first process is gone
        if number in GROUP_SIGNALS:
            self._told = {pid for pid in members if _stat(pid).group == self.pid}
        try:
            self._send(number, to_group=True)
        except Refusal:
            self._deadline = NEVER
            raise
        if _suspended(members | {self.pid}):
            self._send(signal.SIGCONT, to_group=True)

    def await_stop(self) -> bool:
        """Wait for the end, up to SIGKILL and a moment more; True where the signal was enough. Raises: Refusal."""
        while (left := self._deadline - time.monotonic()) > 0:
            if self.ended.wait(min(left, LONGEST_INTERVAL)):
                return True
        self._send(signal.SIGKILL, to_group=True)
        if not self.ended.wait(KILL_TIMEOUT):
            self._deadline = NEVER
        return False

    def stop(self, number: int, timeout: float) -> bool:
        """`begin_stop`, then `await_stop`."""
        self.begin_stop(number, timeout)
        return self.await_stop()


class Spawner:
    """Starts processes as the wrapper itself was started, and reaps orphans without stealing a status.

    `mask`: the signals it must find blocked. `ignored`: those it must find ignored. `descriptors`: its RLIMIT_NOFILE,
    None where that is ours. `adopts`: orphans that come to this process are taken for what the services left behind.
    """

    def __init__(self, mask: frozenset[int] = frozenset(), ignored: frozenset[int] = frozenset(),
                 descriptors: tuple[int, int] | None = None, *, adopts: bool = False) -> None:
        self._adopts = adopts
        self._mask = mask
        self._ignored = ignored
        self._descriptors = descriptors
        self._terminal = _holds_terminal()
        self._folder = address.folder()  # sidecar code may change ours, and means itself
        # The same; only setting it tells what it was: a strict one, for what others may create this very moment.
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._foreground: Process | None = None  # the run that has the terminal, guarded by the lock below
        # Held across Popen() and registering its pid: a process that ends at once must not be taken for an orphan.
        self._lock = threading.Lock()
        self._running: dict[int, Process] = {}
        self._reaper = Reaper()  # guarded by the same

    def spawn(self, command: Sequence[str], environment: Mapping[str, str], on_end: Callable[[Process], None], *,
              is_background: bool = False, is_helper: bool = False,
              on_leader_end: Callable[[Process], None] | None = None, **streams: Any) -> Process:
        """Run a command; `streams` are Popen's stdin, stdout, stderr and cwd. In the background it gets no terminal.

        The rest: see `Process`.

        Raises: CannotStart with exit status 127 (not found) or 126 (found, but cannot be executed); OSError,
        RuntimeError or SubprocessError where something that every process needs is not to be had.
        """

        def ended(process: Process) -> None:
            self._forget(process)
            on_end(process)

        gets_terminal = self._terminal and not is_background
        with self._lock:
            popen = self._popen(command, environment, {**self._group(gets_terminal), **streams})
            process = Process(popen, ended, self._left_by, is_helper=is_helper, on_leader_end=on_leader_end)
            self._running[popen.pid] = process
            if gets_terminal:
                self._foreground = process
        try:
            process.watch()
        except NoThread:  # and so its end would never be seen
            process.signal(signal.SIGKILL)
            popen.wait()
            self._forget(process)
            raise
        return process

    def _forget(self, process: Process) -> None:
        with self._lock:
            self._running.pop(process.pid, None)
            if self._foreground is process:
                self._foreground = None
                _try_to_give_terminal(os.getpgrp())  # Ctrl-C must reach a process that heeds it

    def _popen(self, command: Sequence[str], environment: Mapping[str, str],
               how: dict[str, Any]) -> subprocess.Popen[bytes]:
        assert self._lock.locked()
        how = {"umask": self._umask, **how}
        if self._folder and address.folder() not in ("", self._folder):
            how.setdefault("cwd", self._folder)  # unsaid while it is ours: not every path to one may be walked again
        # The child inherits this thread's mask.
        before = signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        try:
            # close_fds=False: what Python opened itself is not inheritable (PEP 446); what came with us goes on.
            return subprocess.Popen(command, env=environment, close_fds=False, **how)
        except OSError as error:
            raise _cannot_start(command, error) from error
        except ValueError as error:  # a NUL byte in a word of the command
            raise _refused(command[0], str(error), NOT_EXECUTABLE) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _group(self, gets_terminal: bool) -> dict[str, Any]:
        """How the process gets a group of its own.

        setpgid, not setsid: the terminal stays, and a group whose parent is in the session can be stopped by TSTP.
        Code between fork and exec is avoided where it can be; a terminal must change hands before the program looks.
        """
        is_plain = not gets_terminal and not self._ignored and self._descriptors is None
        if is_plain and sys.version_info >= (3, 11):
            return {"process_group": 0}
        return {"preexec_fn": lambda: self._before_exec(gets_terminal)}

    def _before_exec(self, gets_terminal: bool) -> None:
        os.setpgid(0, 0)
        for number in self._ignored:
            signal.signal(number, signal.SIG_IGN)
        if self._descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._descriptors)
        if gets_terminal:
            _try_to_give_terminal(os.getpid())

    def bring_to_foreground(self, process: Process) -> None:
        """Give the terminal to a run that was started in the background."""
        with self._lock:
            if self._terminal and process.pid in self._running:
                self._foreground = process
                _try_to_give_terminal(process.pid)

    def take_terminal_back(self) -> None:
        """Be the foreground again, so that the shell that started us finds the terminal as it was."""
        if self._terminal:
            _try_to_give_terminal(os.getpgrp())

    def kill_rest(self) -> None:
        """Leave nothing running that was started here: a service that is not over, a run that never served, a check."""
        with self._lock:
            rest = list(self._running.values())
        for process in rest:
            with contextlib.suppress(Refusal):
                process.signal(signal.SIGKILL)

    def reap_orphans(self) -> float | None:
        """Collect the zombies that no code waits for; seconds until that is due again, None: at the next CHLD."""
        with self._lock:
            return self._reaper.reap(self._running)

    def _left_by(self, process: Process, table: Mapping[int, procfs.Stat]) -> set[int]:
        """The orphans that came to us and that this run, and no later one, has left behind. Raises: OSError."""
        if not self._adopts:
            return set()
        with self._lock:
            others = [each.started for each in self._running.values()
                      if each.is_service and each is not process and each.is_helper is process.is_helper]
        orphans = {pid: table[pid] for pid in procfs.adopted() if pid in table}
        return {pid for pid, known in orphans.items()
                if known.group != os.getpgrp() and pid not in self._running
                and process.started <= known.started
                and not any(process.started < other <= known.started for other in others)
                and procfs.has_variable(pid, HELPER_VARIABLE.encode()) is process.is_helper}


def _stat(pid: int) -> procfs.Stat:
    """See `procfs.stat`; GONE also where no descriptor can be had: a signal and an end wait for none."""
    try:
        return procfs.stat(pid)
    except OSError:
        return procfs.GONE


def _suspended(pids: set[int]) -> set[int]:
    """Which of `pids` cannot act on a signal before they are continued (signal(7))."""
    return {pid for pid in pids if _stat(pid).state == "T"}


def _send_each(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _cannot_start(command: Sequence[str], error: OSError) -> CannotStart:
    from wrapper.service.diagnosis import why_not  # start-up: only the road to a fault pays for it

    is_missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    said = "no interpreter is named in its first line, such as #!/bin/sh, and it is no program for this machine" \
        if error.errno == errno.ENOEXEC else why_not(command) or error.strerror or str(error)
    return _refused(command[0], said, NOT_FOUND if is_missing else NOT_EXECUTABLE)


def _refused(name: str, cause: str, exit_status: int) -> CannotStart:
    return CannotStart(f"cannot run {name!r}: {cause}", exit_status, f"the command cannot be run: {cause}")


def cannot_start(error: Exception) -> CannotStart:
    """Any other cause: no descriptor, no memory, no thread."""
    return CannotStart(f"cannot start the service: {error}", NOT_EXECUTABLE)


def _holds_terminal() -> bool:
    """True where stdin is our controlling terminal and we are its foreground."""
    try:
        return os.tcgetpgrp(STDIN) == os.getpgrp()
    except OSError:
        return False


def _try_to_give_terminal(group: int) -> None:
    """Make `group` the terminal's foreground; one that was hung up has none.

    A background process that does so gets TTOU unless it is blocked (tcsetpgrp(3)).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        os.tcsetpgrp(STDIN, group)
    except OSError:
        pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
