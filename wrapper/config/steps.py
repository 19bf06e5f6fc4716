"""What authors say of a change, judged and carried out: the check, the action, their own code, and the environment.

Each raises ValueError for words that make no sense, and Fault for what does not go well.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
from collections import namedtuple
from collections.abc import Mapping
from functools import partial
from subprocess import DEVNULL, SubprocessError

from wrapper import cause, poll, threads
from wrapper.config.connection import TimedConnection
from wrapper.config.transaction import Fault
from wrapper.deadline import Deadline
from wrapper.errors import CannotStart
from wrapper.service.probe import reload_by_signal
from wrapper.settings import values
from wrapper.threads import BoundedCall, NoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, Union

    from wrapper.service.process import Spawner
    from wrapper.service.service import Service
    from wrapper.settings.address import Address

    Command = Union[str, Sequence[str]]
    Check = Union[Command, Mapping[str, Command], Callable[[dict[str, str]], Any], None]
    Action = Union[str, Callable[..., Any], None]

PLACEHOLDER = "{file}"
CHECK_TIMEOUT = 30.0  # seconds one check may take
KILL_TIMEOUT = 2.0  # seconds from TERM to KILL for a check that took too long
LAST_LINES = 20  # of a check's output, or of the response to a call
KEPT_BYTES = 16 * 1024
READ_BYTES = 64 * 1024
LAST_WORDS_TIMEOUT = 1.0  # seconds for what is still in the pipe
CALL_TIMEOUT = 30.0  # seconds the service may take for one call; Prometheus reads all its rules within it
RESPONSE_BYTES = 16 * 1024  # of a response that says what is wrong
SIGNAL_SETTLE = 1.0  # seconds in which a service that a signal kills is seen to fall; a signal has no response
CALL_SETTLE = 0.2  # the same, behind a call that was answered
LONGEST = 128 * 1024 - 2  # bytes of a variable's name and value, beside "=" and NUL (execve(2), MAX_ARG_STRLEN)


def judge(step: str, code: Callable[..., Any], argument: Any, timeout: float, service: Service) -> None:
    """Call an author's code with its argument; None, True and an empty list mean that nothing was wrong.

    Raises: Fault of that step, where it says so, raises anything, or has not come back within `timeout` seconds.
    """
    what = f"the {step}"
    call = BoundedCall(what, code, (argument,), timeout, service)
    if not call.is_over:
        raise Fault(step, f"{what} has not come back within {timeout:.3g} s")
    if call.error is not None:
        raise Fault(step, cause.tell(what, call.error))
    said = call.value[0] if isinstance(call.value, (list, tuple)) and call.value else call.value
    if said is not None and said is not True and not isinstance(said, (list, tuple)):
        raise Fault(step, f"{what} failed: " + ("it says no" if said is False else str(getattr(said, "message", said))))


# The check command: may these new files be used? Only the wrapper's own spawner can run it and see its status.


def commands(check: Check, staged: Mapping[str, str]) -> Iterator[list[str]]:
    """The commands that must exit 0: one for each new file where `{file}` is named, else one for all.

    A command is a list of words, or a text that is split as a shell splits it. A mapping has a command for each path
    that needs one. `{file}` is the new file, beside its place, so that relative names in it mean what they will mean,
    under a hidden name without its suffix; one that does not change is in its place.

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


def run_check(command: Sequence[str], environment: Mapping[str, str], spawner: Spawner,
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
        raise Fault("check", f"{name} was ended by {values.signal_name(process.exit_signal)}", listener.lines(),
                    retry=True)
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
        """The last lines; a daemon that the check left behind with its end of the pipe is listened to no more."""
        self._thread.join(LAST_WORDS_TIMEOUT)
        self._is_left = True
        return self._rest.decode("utf-8", "replace").splitlines()[-LAST_LINES:]


# The action: what makes the service take its files.


class Unsent(Exception):
    """Nothing of a request was sent: whatever is wrong, the files are not to blame."""


class Act(namedtuple("Act", "kind settle reload work", defaults=(None, None))):
    """One way to make the service take its files: `kind` of job for its controller; None: it looks at them by itself.

    `settle`: seconds the service must live on before it counts as ready. `reload`: how to reload a service that is up,
    in the controller's thread. `work`: the same in the caller's thread, as it may take long, once a "barrier" has said
    that no job runs and the service is up. It raises Fault.
    """

    __slots__ = ()
    settle: float


def act_of(action: Action, service: Service, handle: Any, ready_timeout: float) -> Act:
    """The act for an author's word: "restart", "reload", "signal:HUP", "POST /path", "none", None or a callable.

    Raises: ValueError for any other word.
    """
    if callable(action):
        return Act("barrier", CALL_SETTLE, work=partial(judge, "action", action, handle, ready_timeout, service))
    if action is None or action == "none":
        return Act(None, SIGNAL_SETTLE)
    if action == "restart":
        return Act("restart", 0.0)
    if action == "reload":  # the way that --reload names
        return Act("reload", SIGNAL_SETTLE)
    try:
        kind, argument = values.action_parts(str(action))
    except ValueError as error:
        raise ValueError(f"no such action: {action!r}; {error}") from error
    if kind == "signal":
        return Act("reload", SIGNAL_SETTLE, reload_by_signal(argument))
    return Act("barrier", CALL_SETTLE, work=partial(_call, service, kind, argument))


def _call(service: Service, method: str, path: str) -> None:
    what = f"{method} {path.partition('?')[0]}"  # a query may hold a token
    address = service.controller.address
    if address is None:
        raise Fault("action", f"{what}: the service has ended", retry=True)
    try:
        status, answer = call(address, method, path)
    except Unsent as error:
        raise Fault("action", f"{what}: {error}", retry=True) from error
    except (OSError, http.client.HTTPException) as error:  # what it asked for may be what ended the service
        raise Fault("action", f"{what}: {error}") from error
    if not 200 <= status < 300:
        raise Fault("action", f"{what} answers {status}", answer.splitlines()[-LAST_LINES:])


def call(address: Address, method: str, path: str) -> tuple[int, str]:
    """Status and the beginning of the body of one request without a body, straight to the service.

    Raises: Unsent where it was not even begun; OSError, http.client.HTTPException.
    """
    connection = TimedConnection(address, Deadline(CALL_TIMEOUT))
    try:
        try:
            connection.connect()
        except OSError as error:
            raise Unsent(error.strerror or str(error)) from error
        connection.request(method, path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read(RESPONSE_BYTES).decode("utf-8", "replace")
    finally:
        connection.close()


# The environment: the variables of the service's next run.


def variables_of(environment: Any) -> dict[str, str | None]:
    """Variables as the service gets them; None takes one away that it would inherit.

    A text stays as it is, a number is spelled as JSON spells it, a boolean is `true` or `false`.

    Raises: ValueError that names the variable and never its value.
    """
    if not isinstance(environment, Mapping):
        raise ValueError("the variables of the environment are members of an object, and what is there is none")  # noqa: TRY004
    return {_name(name): _value(name, value) for name, value in environment.items()}


def _name(name: Any) -> str:
    """Any text without "=" and NUL, as Docker takes it and POSIX bears it (Base Definitions, 8.1)."""
    if not isinstance(name, str) or not name or not _is_text(name) or "=" in name:
        raise ValueError(f"{name!r} is no name of a variable: it must be text without = and NUL")
    return name


def _value(name: str, value: Any) -> str | None:
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        text = None
    if text is None or not isinstance(value, (str, int, float)):
        raise ValueError(f"the variable {name} is a {type(value).__name__} that is none of text, number, true, false "
                         "and null")
    if not _is_text(text):
        raise ValueError(f"the variable {name} holds NUL, or what is no Unicode text")
    if len(name.encode()) + len(text.encode()) > LONGEST:
        raise ValueError(f"the variable {name} is too long: the kernel takes {LONGEST} bytes with its name")
    return text


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
