"""The check command: may this new file be used? Only the wrapper's own spawner can run it and see its status."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Mapping
from subprocess import DEVNULL, SubprocessError

from wrapper import poll, threads
from wrapper.config.transaction import Fault
from wrapper.errors import CannotStart
from wrapper.threads import NoThread
from wrapper.settings.values import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Union

    from wrapper.service.process import Spawner

    Command = Union[str, Sequence[str]]
    Check = Union[Command, Mapping[str, Command], Callable[[dict[str, str]], Any], None]

PLACEHOLDER = "{file}"
CHECK_TIMEOUT = 30.0  # seconds one check may take
KILL_TIMEOUT = 2.0  # seconds from TERM to KILL for a check that took too long
LAST_LINES = 20
KEPT_BYTES = 16 * 1024
READ_BYTES = 64 * 1024
LAST_WORDS_TIMEOUT = 1.0  # seconds for what is still in the pipe


def commands(check: Check, staged: Mapping[str, str]) -> Iterator[list[str]]:
    """The commands to run: one for each new file where `{file}` is named, else one for all.

    A command is a list of words, or a text that is split as a shell splits it. A mapping has a command for each path
    that needs one. `{file}` is the new file, beside its place, so that relative names in it mean what they will mean,
    under a hidden name without its suffix.

    Raises: ValueError for what is no check.
    """
    if check is None:
        return
    if isinstance(check, Mapping):
        for path, command in check.items():
            words, place = _words(command), os.path.realpath(path)
            if place in staged:
                yield from commands(words, {place: staged[place]})
        return
    words = _words(check)
    if not any(PLACEHOLDER in word for word in words):
        yield words
        return
    for file in staged.values():
        yield [word.replace(PLACEHOLDER, file) for word in words]


def _words(command: Any) -> list[str]:
    words = shlex.split(command) if isinstance(command, str) else command
    if not isinstance(words, (list, tuple)) or not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"no check: {command!r}; a check is a command in words, a callable, or commands by path")
    return list(words)


def run(command: Sequence[str], environment: Mapping[str, str], spawner: Spawner,
        timeout: float = CHECK_TIMEOUT) -> None:
    """Raises: Fault with the last lines of output where the command does not exit 0 in time.

    One that had less than its usual time is worth another try.
    """
    name = os.path.basename(command[0])
    try:
        reading, writing = os.pipe()
    except OSError as error:
        raise Fault("check", f"the check cannot run: {error.strerror}", retry=True) from error
    try:
        listener = Listener(reading)
        process = spawner.spawn(command, environment, lambda _: None, is_background=True,
                                stdin=DEVNULL, stdout=writing, stderr=writing)
    except (CannotStart, OSError, RuntimeError, SubprocessError) as error:
        raise Fault("check", f"the check cannot run: {error}", retry=True) from error
    finally:
        os.close(writing)  # also the end for the listener, where there is no check
    if not process.ended.wait(timeout):
        process.stop(signal.SIGTERM, KILL_TIMEOUT)
        raise Fault("check", f"{name} took longer than {timeout:.3g} s", listener.lines(),
                    retry=timeout < CHECK_TIMEOUT)
    if process.exit_signal is not None:  # as the kernel does for want of memory: it has not judged
        raise Fault("check", f"{name} was ended by {signal_name(process.exit_signal)}", listener.lines(), retry=True)
    if process.exit_status != 0:
        raise Fault("check", f"{name} rejects the new file with status {process.exit_status}", listener.lines())
    listener.lines()


class Listener:
    """Keeps the last of what comes out of a pipe, in a thread, so that no amount of output blocks or fills anything."""

    def __init__(self, reading: int) -> None:
        self._reading = reading
        self._rest = b""
        self._is_left = False
        try:
            self._thread = threads.start("check-output", self._listen)
        except NoThread:
            os.close(reading)
            raise

    def _listen(self) -> None:
        with open(self._reading, "rb", buffering=0) as pipe:
            while not self._is_left:
                if poll.is_ready(self._reading, poll.READABLE, LAST_WORDS_TIMEOUT):
                    piece = pipe.read(READ_BYTES)
                    if not piece:
                        return
                    self._rest = (self._rest + piece)[-KEPT_BYTES:]

    def lines(self) -> list[str]:
        """The last ones; a daemon that the check has left behind, with its end of the pipe, is listened to no more."""
        self._thread.join(LAST_WORDS_TIMEOUT)
        self._is_left = True
        return self._rest.decode("utf-8", "replace").splitlines()[-LAST_LINES:]
