"""One change of configuration as a transaction: check, replace, act, verify; where any of it fails, all is put back.

Whatever happens, the files are wholly the old ones or wholly the new ones, also after a crash of the wrapper, and the
service goes on with what worked before. The way back to an earlier version is such a change too, and so is the repair
of a file that something else has changed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from os import PathLike

from wrapper import cause
from wrapper.config import history, journal, steps
from wrapper.config.history import Draft, difference, standing
from wrapper.config.steps import Act
from wrapper.config.subscription import Subscription
from wrapper.config.transaction import Fault, Transaction
from wrapper.deadline import Deadline
from wrapper.errors import Busy, NotFound
from wrapper.log import log
from wrapper.problems import Problem
from wrapper.service.launcher import changed
from wrapper.service.state import State
from wrapper.threads import matter_of_caller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from wrapper.config.history import Files
    from wrapper.config.source import Snapshot, Source
    from wrapper.config.steps import Action, Check
    from wrapper.config.subscription import Pace
    from wrapper.config.transaction import Content
    from wrapper.service.service import Service

SHOWN_LINES = 50  # of a difference, in a problem
WORDS_TIMEOUT = 0.2  # seconds in which the output of a run that lives on arrives
LAST_WORDS_TIMEOUT = 2.0  # seconds in which that of a run that ended does: mostly at once, and then nothing is awaited
UNDER_WAY = (State.STARTING, State.DRAINING, State.STOPPING)  # of an action that ends by itself
FIRST_PROBE, LONGEST_PROBE = 0.1, 2.0  # seconds between two of the author's probes


def apply(service: Service, files: Mapping[str, Content], check: Check = None, **how: Any) -> list[Problem]:
    """Bring `files` (content by path; None: there must be no such file) into force; an empty list says that they are.

    `check`: see `steps.commands`; a callable gets {path: new file}. For the rest, all that is said of `how`, see
    `Change`.

    One transaction of a service at a time: the next one waits. Never raises: what went wrong is in the list. What a
    crash of an earlier one left beside these files is put back first; before the start of the service only where the
    index of journals outlived the crash, see `journal.PLACES`.
    """
    if matter_of_caller() is service:
        return [Problem("a change cannot be made from within the check, action or probe of another one",
                        step="settings")]
    with service.changing:
        try:
            problems, change = _prepared(service, files, check, Deadline(None), **how)
            return problems if change is None else change.bring_into_force()
        except Exception as error:  # noqa: BLE001  a fault of ours; the change is undone where it had begun
            return [Problem(cause.tell("the change", error, service=service.name), step="internal", retry=True)]


def _prepared(service: Service, files: Mapping[str, Content], check: Check, deadline: Deadline,
              **how: Any) -> tuple[list[Problem], Change | None]:
    """Files that are checked and in place, or why not; neither where they are in force already."""
    change = None
    try:
        change = Change(service, files, **how)
        if change.is_in_force:
            return [], None
        change.prepare(check, deadline)
    except (Fault, ValueError) as error:
        return [_problem(error, change)], None
    return [], change


def apply_first(service: Service, files: Mapping[str, Content], check: Check, deadline: Deadline,
                **how: Any) -> tuple[list[Problem], Change | None]:
    """Check files and put them in place before the first start; `Change.settle` then waits for the start.

    A check that is not done at the `deadline` is done again later.
    """
    with service.changing:
        return _prepared(service, files, check, deadline, **how)


class Change:
    """One transaction with one service.

    `action`: "restart", "reload", "signal:HUP", "POST /path", None or a callable. `probe`: called when the service is
    ready, until it returns None or True, or `ready_timeout` (seconds; None: --ready-timeout) is over. Callables get
    `handle`; default: the service. `mode`: of files that are new; default 0o644. `environment`: all variables over
    what the service inherits, in place of those of the last change; a None takes one away, and no environment at all
    leaves them as they are. A change of them is a restart, whatever the `action`. `skipped`, `placed`: see
    `history.Version` and `history.Draft`; `is_repair`: no new version.

    Raises: Fault where a file cannot be read; ValueError for no good argument.
    """

    def __init__(self, service: Service, files: Mapping[str, Content], action: Action = "restart",
                 ready_timeout: float | None = None, probe: Callable[..., Any] | None = None, *, handle: Any = None,
                 reason: str = "configuration", mode: int | None = None, environment: Mapping[str, Any] | None = None,
                 skipped: Mapping[str, str] | None = None, placed: Iterable[str] | None = None,
                 is_repair: bool = False) -> None:
        _refuse_unknown(files, ready_timeout, probe, mode)
        self._service = service
        self._life = service.life
        self._reason = reason
        self._ready_timeout = ready_timeout
        self._timeout = ready_timeout or service.around.settings.ready_timeout
        self._handle = service if handle is None else handle
        self._act = steps.act_of(action, service, self._handle, self._timeout)
        self._before = service.variables
        self._variables = self._before if environment is None else steps.variables_of(environment)
        if self._variables != self._before:
            self._act = Act("restart", 0.0)
        self._is_bare = not files and environment is None  # only the action
        self._draft = None if self._is_bare or is_repair else Draft(
            history.of(service), reason, action, self._variables, skipped or {}, placed)
        self.transaction = Transaction(files, journal.own_folder(journal.INDEX, make=True), mode, self._draft)
        self._probe = probe
        self._first_run = self._life.generation

    @property
    def is_in_force(self) -> bool:
        """True where files and variables are like this already, and the service has not failed with them."""
        is_change = self._is_bare or self.transaction.is_change or self._variables != self._before
        return not is_change and self._life.state not in (State.FAILED, State.BACKOFF)

    def prepare(self, check: Check, deadline: Deadline) -> None:
        """Check the new files and move them to their places. Raises: Fault, and then all is as it was."""
        if self._is_bare:
            return
        staged = self.transaction.stage()
        try:
            self._check(check, staged, deadline)
            if check is not None:
                self.transaction.must_be_as_staged()
        except BaseException:
            self._undo()
            raise
        # From here on the service may see the files by itself, and fall: that is ours to mend.
        self._service.controller.begin_trial()
        self._service.variables = self._variables
        try:
            self.transaction.replace()
        except BaseException:
            self._undo()
            self._service.controller.end_trial()
            raise

    def _undo(self) -> None:
        """Raises: Fault."""
        self._service.variables = self._before
        self.transaction.undo()

    def _check(self, check: Check, staged: dict[str, str], deadline: Deadline) -> None:
        around = self._service.around
        if callable(check):
            steps.judge("check", check, staged, steps.CHECK_TIMEOUT, self._service)
            return
        environment = changed(around.environment, self._variables)
        for command in steps.commands(check, staged):
            steps.run_check(command, environment, around.spawner, deadline.sooner(steps.CHECK_TIMEOUT))

    def bring_into_force(self) -> list[Problem]:
        """Act and verify; keep the files, or put them back. A stopped service reads them when it is started again."""
        self._service.controller.begin_trial()
        try:
            return self._keep() if self._life.state is State.STOPPED else self._conclude(self._fault())
        except BaseException:
            self._conclude(Fault("internal", "a fault of the wrapper"))
            raise
        finally:
            self._service.controller.end_trial()

    def settle(self) -> list[Problem]:
        """As `bring_into_force`, where the act is the service's first start, which is waited for."""
        with self._service.changing:
            if self._life.generation == 0:
                self._await_states(State.STOPPED)  # not started yet; later STOPPED is for an operator to end
            self._await_states(*UNDER_WAY)
            self._act = Act(None, steps.SIGNAL_SETTLE)
            return self.bring_into_force()

    def _conclude(self, fault: Fault | None) -> list[Problem]:
        if fault is None:
            return self._keep()
        if self._is_bare:
            return [_problem(fault, self)]
        log.warning(f"the change is undone: {fault.message}", service=self._service.name)
        problems = [_problem(fault, self)]
        try:
            self._undo()
            problems = [_problem(fault, self, rolled_back=True)]
            self._mend()
        except Fault as second:
            problems.append(_problem(second, None))
        return problems

    def _keep(self) -> list[Problem]:
        try:
            self.transaction.keep()
            if self._draft is not None:
                history.of(self._service).commit(self._draft)
            return []
        except Fault as fault:
            return [_problem(fault, self)]

    def _fault(self) -> Fault | None:
        """Act, and see whether the service lives with it; None where it does."""
        try:
            self._verify(self._carry_out())
            return None
        except Fault as fault:
            fault.output = fault.output or self._last_output()
            return fault

    def _carry_out(self) -> float:
        """Tell the service, and wait until it has taken its files; returns for how long it must live on with them.

        Raises: Fault.
        """
        if self._act.kind is None:
            return self._act.settle
        try:
            job = self._service.controller.ask(self._act.kind, self._reason, reload=self._act.reload,
                                               ready_timeout=self._ready_timeout)
        except Busy as error:
            raise Fault("action", error.message, retry=True) from error
        job.wait()
        if job.error is not None:
            raise Fault("action", job.error)
        if job.has_started_run:  # which has read its files
            return 0.0
        if self._act.work is not None:
            self._act.work()
            self._service.gate.doubt_kept()  # again, behind the barrier's: it may have taken long
        return self._act.settle

    def _verify(self, settle: float) -> None:
        """Raises: Fault."""
        deadline, pause = Deadline(self._timeout), FIRST_PROBE
        self._must_be_ready(settle, deadline)
        while self._probe is not None:
            try:
                steps.judge("probe", self._probe, self._handle, deadline.remaining() or 0.001, self._service)
                return
            except Fault:
                if not deadline.has_passed():
                    self._must_be_ready(deadline.sooner(pause), deadline)
                if deadline.has_passed():
                    raise  # not what one more would say that has no time
            pause = min(pause * 1.5, LONGEST_PROBE)

    def _must_be_ready(self, settle: float, deadline: Deadline) -> None:
        """Wait until the service is ready. Where it restarts meanwhile its next run counts; a stopped one passes.

        Raises: Fault.
        """
        run = self._life.generation
        while (fault := self._service.controller.verify(settle, deadline.remaining() or 0.001)) is not None:
            self._await_states(*UNDER_WAY)
            if self._life.state is State.STOPPED:
                return
            run, before = self._life.generation, run
            if run == before:
                raise Fault("ready", fault)
            settle = 0.0

    def _await_states(self, *passing: State) -> None:
        """Wait for the end of states that pass by themselves."""
        feed = self._service.around.feed
        while not self._service.controller.over.is_set():
            known = feed.last  # before the look, so that no transition in between is missed
            if self._life.state not in passing:
                return
            feed.after(known, 1.0)

    def _last_output(self) -> list[str]:
        output = self._service.output
        timeout = LAST_WORDS_TIMEOUT if self._life.run is None else WORDS_TIMEOUT
        return [] if output is None else output.last_lines(timeout)

    def _mend(self) -> None:
        """Have the service go on with the files that are back. Raises: Fault."""
        if self._life.state is State.STOPPED:
            return
        is_same_run = self._life.generation == self._first_run and self._life.state is State.RUNNING
        if is_same_run and self._act.kind == "restart":
            return  # the run that goes on never saw the new files
        with contextlib.suppress(Fault):
            if is_same_run:
                self._must_be_ready(self._carry_out(), Deadline(self._timeout))
                return
        try:
            job = self._service.controller.ask("restart", "the configuration that worked before is back")
        except Busy:
            return  # it is being stopped, or the wrapper ends: the next start reads the files that are back
        job.wait()
        if job.error is not None:
            raise Fault("rollback", f"the service does not start with the files that were there before: {job.error}")


def _refuse_unknown(files: Any, ready_timeout: Any, probe: Any, mode: Any) -> None:
    """Raises: ValueError for what is no mapping of paths, no span of time, what cannot be called, and no mode."""
    if not isinstance(files, Mapping) or not all(isinstance(path, (str, PathLike)) for path in files):
        raise ValueError("files is a mapping from paths, each a str or os.PathLike, to contents")
    is_span = isinstance(ready_timeout, (int, float)) and 0 <= ready_timeout <= threading.TIMEOUT_MAX
    if ready_timeout is not None and not is_span:
        raise ValueError(f"ready_timeout is a number of seconds, not {ready_timeout!r}")
    if probe is not None and not callable(probe):
        raise ValueError(f"no probe: {probe!r}; a probe is a callable")
    if mode is not None and not (isinstance(mode, int) and 0 <= mode <= 0o777):
        raise ValueError(f"mode is a number from 0 to 0o777, not {mode!r}")


def _problem(error: Fault | ValueError, change: Change | None, rolled_back: bool = False) -> Problem:
    if not isinstance(error, Fault):
        return Problem(str(error), step="settings")
    details: dict[str, Any] = {"step": error.step, "output": error.output, "rolled_back": rolled_back,
                               "retry": error.retry}
    message = ("the new configuration is undone: " if rolled_back else "") + error.message
    if change is not None and change.transaction.contents:
        details.update(rejected=change.transaction.new_hash, kept=change.transaction.old_hash)
        message += change.transaction.doubt if error.step in ("action", "ready") else ""
    return Problem(message, **{name: value for name, value in details.items() if value})


# The way back to an earlier version, and what to do where something else has changed a managed file


def roll_back(service: Service, number: int, subscriptions: Iterable[Subscription]) -> list[Problem]:
    """Bring an earlier version into force as any other change; what the sources hold now is skipped until it changes.

    Raises: NotFound where there is no such version, Busy while a source's change is being applied.
    """
    try:
        version = history.of(service).state(number)
    except LookupError as error:
        raise NotFound(str(error.args[0])) from None
    with contextlib.ExitStack() as stack:
        seen = {}
        for subscription in subscriptions:
            if not subscription.bringing.acquire(blocking=False):
                raise Busy(f"cannot go back: a change from {subscription.name} is under way")
            stack.callback(subscription.bringing.release)
            seen[subscription] = subscription.hash_seen
        problems = apply(service, version.files, action=version.action, environment=version.environment,
                         reason=f"version {number} again", placed=version.placed,
                         skipped={each.name: which for each, which in seen.items() if which is not None})
        for each, which in seen.items() if not problems else ():
            each.skip(which, f"version {number} is in force again")
    return problems


def subscribe(services: Sequence[Service], name: str, source: Source, on_change: Callable[[Any], Any], pace: Pace,
              read: Callable[[Snapshot], Any]) -> Subscription:
    """A subscription that looks for drift behind each fetch; what was skipped before the wrapper's restart still is."""

    def after_fetch() -> None:
        for service in list(services):
            check_drift(service)

    around = services[0].around
    subscription = Subscription(name, source, on_change, pace, around.board, around.feed, read, after_fetch)
    for newest in [history.of(service).newest() for service in list(services)]:
        if newest is not None and name in newest.skipped:
            subscription.skip(newest.skipped[name], f"version {newest.number} is in force again")
    return subscription


def check_drift(service: Service) -> None:
    """See whether something else has changed a managed file: a problem, or put it back, as --config-drift says."""
    if not service.changing.acquire(blocking=False):
        return  # the change that is under way is the next thing to look at
    key = f"drift:{service.name}"
    try:
        past = history.of(service)
        drifted = past.drifted()
        needs_repair = bool(drifted) and service.around.settings.config_drift == "repair" and past.may_repair()
    except OSError as error:
        service.around.board.report(key, f"cannot look at the managed files: {error.strerror}: {error.filename}")
        return
    finally:
        service.changing.release()
    if needs_repair:
        _repair(service, drifted)
    elif drifted:
        service.around.board.report(
            key, "something else has changed what the configuration put in place: " + ", ".join(sorted(drifted)),
            difference=[line for path, should in sorted(drifted.items())
                        for line in (path, *difference(should, standing(path)))][:SHOWN_LINES])
    else:
        service.around.board.resolve(key)


def _repair(service: Service, drifted: Files) -> None:
    newest = history.of(service).newest()
    problems = apply(service, drifted, action=newest.action if newest else "restart", is_repair=True,
                     reason="a file that something else has changed is put back")
    service.around.board.replace(f"drift:{service.name}", problems)
    if not problems:
        log.info("put back what something else has changed", service=service.name, files=", ".join(sorted(drifted)))
