"""The way back to an earlier version, and what to do where something else has changed a managed file."""

from __future__ import annotations

import contextlib

from wrapper.config import history
from wrapper.config.apply import apply
from wrapper.config.history import difference, standing
from wrapper.errors import Busy, NotFound
from wrapper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from wrapper.config.history import Files
    from wrapper.config.subscription import Subscription
    from wrapper.problems import Problem
    from wrapper.service.service import Service

SHOWN_LINES = 50  # of a difference, in a problem


def roll_back(service: Service, number: int, subscriptions: Iterable[Subscription]) -> list[Problem]:
    """Bring an earlier version into force as any other change; what the sources hold now is skipped until it changes.

    Raises: NotFound where there is no such version, Busy while a source's change is being applied.
    """
    try:
        files, environment, action = history.of(service).state(number)
    except LookupError as error:
        raise NotFound(str(error.args[0])) from None
    with contextlib.ExitStack() as stack:
        watched = list(subscriptions)
        for subscription in watched:
            if not subscription.bringing.acquire(blocking=False):
                raise Busy(f"cannot go back: a change from {subscription.name} is under way")
            stack.callback(subscription.bringing.release)
        seen = {each: each.hash_seen for each in watched}
        problems = apply(service, files, action=action, environment=environment, reason=f"version {number} again",
                         skipped={each.name: which for each, which in seen.items() if which is not None})
        for each, which in seen.items() if not problems else ():
            each.skip(which, f"version {number} is in force again")
    return problems


def keep_skipped(service: Service, subscription: Subscription) -> None:
    """What was skipped before the wrapper's restart still is."""
    newest = history.of(service).newest()
    if newest is not None and subscription.name in newest.skipped:
        subscription.skip(newest.skipped[subscription.name], f"version {newest.number} is in force again")


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
