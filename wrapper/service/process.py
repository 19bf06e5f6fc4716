"""One run of the service as the kernel sees it: spawn, signal its group, wait, kill.

The only room that knows pids, beside the reaper's. Nothing polls: a thread sleeps in the kernel until the process ends.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time

from wrapper.errors import CannotStart
from wrapper.service.reaper import Reaper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Callable

STDIN = 0
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # POSIX shell, section 2.8.2: exit status for commands
UNKNOWN = 255  # exit status of a run whose own was taken by somebody else: it may have failed


class Ending:
    """How a run ended, as people and shells say it; `returncode` is Popen's, None before the end."""

    returncode: int | None

    @property
    def exit_status(self) -> int:
        """What a shell would report: the status, or 128+n where signal n ended it."""
        assert self.returncode is not None
        return 128 - self.returncode if self.returncode < 0 else self.returncode

    @property
    def exit_signal(self) -> int | None:
        assert self.returncode is not None
        return -self.returncode if self.returncode < 0 else None

    @property
    def fault(self) -> str:
        """Its end as what went wrong with whatever needed it alive."""
        return f"it ended with status {self.exit_status}"


class Process(Ending):
    """One run of a command, in a process group of its own. `ended` is set once its status is known."""

    def __init__(self, popen: subprocess.Popen[bytes], on_end: Callable[[Process], None]) -> None:
        self.pid = popen.pid
        self.started = time.monotonic()
        self.ended = threading.Event()
        self.returncode: int | None = None
        self._popen = popen
        self._on_end = on_end
        # Held while the pid is used: the kernel may give it to somebody else once the status is collected.
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Wait for the end in a thread, then call `on_end(self)` there."""
        threading.Thread(target=self._await_end, name=f"process-{self.pid}", daemon=True).start()

    def _await_end(self) -> None:
        # WNOWAIT leaves the zombie: while it stands, its number is nobody else's and its group can be killed.
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:  # somebody else in this process waited for any child, as os.wait() does
            found = None
        # What is left of the group ends with its leader, as everything ends with PID 1 of a container.
        self.signal(signal.SIGKILL)
        with self._lock:
            self._popen.wait()  # 0 where somebody else has collected it meanwhile, so its answer does not count
            self.returncode = UNKNOWN if found is None else _returncode(found)
        self.ended.set()
        self._on_end(self)

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; to a group that is gone nothing happens."""
        with self._lock:
            if self.returncode is not None:
                return
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                # macOS and some kernels say EPERM for a group of zombies.
                pass

    def stop(self, number: int, timeout: float) -> bool:
        """Send `number`, wait up to `timeout` seconds, then SIGKILL; True where the signal was enough."""
        self.signal(number)
        if self._is_suspended():
            self.signal(signal.SIGCONT)  # it could not act on the signal before (signal(7))
        if self.ended.wait(timeout):
            return True
        self.signal(signal.SIGKILL)
        self.ended.wait()
        return False

    def _is_suspended(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] == b"T"
        except OSError:
            return False


class Spawner:
    """Starts processes as the wrapper itself was started, and reaps orphans without stealing a status.

    `mask`: the signals it must find blocked. `ignored`: those it must find ignored.
    """

    def __init__(self, mask: frozenset[int] = frozenset(), ignored: frozenset[int] = frozenset()) -> None:
        self._mask = mask
        self._ignored = ignored
        self._terminal = _holds_terminal()
        self._folder, self._umask = _folder(), _umask()  # sidecar code may change ours, and means itself
        self._foreground: Process | None = None  # the run that has the terminal, guarded by the lock below
        # Held across Popen() and registering its pid: a process that ends at once must not be taken for an orphan.
        self._lock = threading.Lock()
        self._pids: set[int] = set()
        self._reaper = Reaper()  # guarded by the same

    def spawn(self, command: Sequence[str], environment: Mapping[str, str], on_end: Callable[[Process], None], *,
              is_background: bool = False, **streams: Any) -> Process:
        """Run a command; `streams` are Popen's stdin, stdout, stderr and cwd. In the background it gets no terminal.

        Raises: CannotStart with exit status 127 (not found) or 126 (found, but cannot be executed); OSError,
        RuntimeError or SubprocessError where something that every process needs is not to be had.
        """

        def ended(process: Process) -> None:
            self._forget(process)
            on_end(process)

        gets_terminal = self._terminal and not is_background
        with self._lock:
            popen = self._popen(command, environment, {**self._group(gets_terminal), **streams})
            self._pids.add(popen.pid)
            process = Process(popen, ended)
            if gets_terminal:
                self._foreground = process
        try:
            process.watch()
        except RuntimeError:  # no thread to be had: nobody would ever hear of its end
            process.signal(signal.SIGKILL)
            popen.wait()
            self._forget(process)
            raise
        return process

    def _forget(self, process: Process) -> None:
        with self._lock:
            self._pids.discard(process.pid)
            if self._foreground is process:
                self._foreground = None
                _try_to_give_terminal(os.getpgrp())  # Ctrl-C must reach somebody

    def _popen(self, command: Sequence[str], environment: Mapping[str, str],
               streams: dict[str, Any]) -> subprocess.Popen[bytes]:
        assert self._lock.locked()
        # The child inherits this thread's mask.
        before = signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        try:
            # close_fds=False: what Python opened itself is not inheritable (PEP 446); what came with us goes on.
            return subprocess.Popen(command, env=environment, close_fds=False, **{**self._place(), **streams})
        except OSError as error:
            raise _cannot_start(command[0], error) from error
        except ValueError as error:  # a NUL byte in a word of the command
            raise _refused(command[0], str(error), NOT_EXECUTABLE) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _place(self) -> dict[str, Any]:
        """Working folder and umask as they came. The folder stays unsaid while it is ours: not every path to one may
        be walked again.
        """
        has_moved = self._folder is not None and _folder() not in (None, self._folder)
        return {"umask": self._umask, **({"cwd": self._folder} if has_moved else {})}

    def _group(self, gets_terminal: bool) -> dict[str, Any]:
        """How the process gets a group of its own.

        setpgid, not setsid: the terminal stays, and a group whose parent is in the session can be stopped by TSTP.
        Code between fork and exec is avoided where it can be; a terminal must change hands before the program looks.
        """
        if not gets_terminal and not self._ignored and sys.version_info >= (3, 11):
            return {"process_group": 0}
        return {"preexec_fn": lambda: self._before_exec(gets_terminal)}

    def _before_exec(self, gets_terminal: bool) -> None:
        os.setpgid(0, 0)
        for number in self._ignored:
            signal.signal(number, signal.SIG_IGN)
        if gets_terminal:
            _try_to_give_terminal(os.getpid())

    def bring_to_foreground(self, process: Process) -> None:
        """Give the terminal to a run that was started in the background."""
        with self._lock:
            if self._terminal and process.pid in self._pids:
                self._foreground = process
                _try_to_give_terminal(process.pid)

    def take_terminal_back(self) -> None:
        """Be the foreground again, so that whoever called us from a shell finds it as it was."""
        if self._terminal:
            _try_to_give_terminal(os.getpgrp())

    def reap_orphans(self) -> float | None:
        """Collect every zombie that is nobody's; seconds until that is to be done again, None: at the next CHLD."""
        with self._lock:
            return self._reaper.look(self._pids)


def _cannot_start(name: str, error: OSError) -> CannotStart:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        is_quoted = " " in name.strip()  # a command line in one word, as a shell would take it
        return _refused(name, "not found" + ("; give its words without quotes" if is_quoted else ""), NOT_FOUND)
    if os.path.isdir(name):
        return _refused(name, "it is a directory", NOT_EXECUTABLE)
    return _refused(name, error.strerror or str(error), NOT_EXECUTABLE)


def _refused(name: str, cause: str, exit_status: int) -> CannotStart:
    return CannotStart(f"cannot run {name!r}: {cause}", exit_status, f"the command cannot be run: {cause}")


def _returncode(found: Any) -> int:
    """Popen's, from what waitid(2) says: the status, or the negative number of the signal."""
    status: int = found.si_status
    return status if found.si_code == os.CLD_EXITED else -status


def cannot_start(error: Exception) -> CannotStart:
    """Any other cause: no descriptor, no memory, no thread."""
    return CannotStart(f"cannot start the service: {error}", NOT_EXECUTABLE)


def _folder() -> str | None:
    """The working folder, None where it has no name any more."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _umask() -> int:
    """Only setting it tells what it was; a strict one, for what others may create this very moment."""
    found = os.umask(0o077)
    os.umask(found)
    return found


def _holds_terminal() -> bool:
    """True where stdin is our controlling terminal and we are its foreground."""
    try:
        return os.tcgetpgrp(STDIN) == os.getpgrp()
    except OSError:
        return False


def _try_to_give_terminal(group: int) -> None:
    """Make `group` the terminal's foreground; one that was hung up is nobody's.

    A background process that does so gets TTOU unless it is blocked (tcsetpgrp(3)).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        os.tcsetpgrp(STDIN, group)
    except OSError:
        pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
