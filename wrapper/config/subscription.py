"""A subscription: looks at a source again and again, and brings what changed into force. Never dies silently.

Only a change of the selected part counts. A rejected one is not tried again until the source changes; going back to
the good one counts as a change. While a change waits for its time, only the newest is remembered.
"""

from __future__ import annotations

import random
import threading
import time
from collections import namedtuple

from wrapper import cause, threads
from wrapper.config.source import CannotFetch, document
from wrapper.deadline import Deadline
from wrapper.log import log, timestamp
from wrapper.problems import Problem
from wrapper.text import fingerprint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wrapper.config.source import Snapshot, Source
    from wrapper.events import Feed
    from wrapper.problems import Board

QUIET_FAILURES = 3  # fetches in a row that may fail before it is a problem; a source may start later than we do
LONGEST_PAUSE = 60.0  # seconds between two fetches of a source that keeps failing, unless its interval is longer
EARLY_PAUSE = 0.1  # seconds between the first two fetches before the start; doubles up to one second
JITTER = 0.1  # of the interval, so that replicas do not all ask at once
SLOW_SECONDS = 300.0  # after which a handler that has not returned is a problem
STILL_SECONDS = 2.0  # after which what may have been half written is looked at again, unless the interval is shorter
RESTLESS_FETCHES = 10  # in a row, after which a source that is always being written has failed
REVIVAL_PAUSE = 1.0  # seconds before a watcher that died is started again; doubles up to LONGEST_PAUSE


# Seconds: between two fetches, the longest wait by chance before a change, and between two changes.
Pace = namedtuple("Pace", "every splay min_interval", defaults=(0.0, 0.0))


class Record:
    """What a subscription has seen and done; moments as text. The watcher writes, any thread reads."""

    def __init__(self) -> None:
        # Guards all the rest, so that a reader never sees half a fetch.
        self.lock = threading.Lock()
        self.began = timestamp()
        self.last_fetch: str | None = None
        self.last_response: str | None = None
        self.last_success: str | None = None
        self.applied_at: str | None = None
        self.hash_seen: str | None = None
        self.hash_applied: str | None = None
        self.hash_rejected: str | None = None
        self.is_unsettled = False  # the last change failed: going back to what was in force is a change, too
        self.result = self._rejection = "never fetched"
        self.failures = 0
        self.failed_fetches = 0  # in a row

    def facts(self) -> dict[str, Any]:
        with self.lock:
            return {"last_fetch": self.last_fetch, "last_success": self.last_success, "hash_seen": self.hash_seen,
                    "hash_applied": self.hash_applied, "hash_rejected": self.hash_rejected,
                    "applied_at": self.applied_at, "stale_since": self.stale_since, "last_result": self.result,
                    "failures": self.failures}

    @property
    def stale_since(self) -> str | None:
        return (self.last_response or self.began) if self.failed_fetches >= QUIET_FAILURES else None

    def answered(self, seen: str | None) -> None:
        """The source answered; None where it said that nothing has changed."""
        with self.lock:
            self.last_response = timestamp()
            self.failed_fetches = 0
            self.hash_seen = seen or self.hash_seen
            if self.hash_seen == self.hash_applied and not self.is_unsettled:
                self.last_success, self.result = timestamp(), "applied"
            elif self.is_unsettled or self.hash_seen == self.hash_rejected:
                self.result = self._rejection
            else:
                self.result = "changed, not in force yet"

    def failed(self, reason: str) -> int:
        """A fetch failed; returns how many did in a row."""
        with self.lock:
            self.failures += 1
            self.failed_fetches += 1
            self.result = f"cannot fetch: {reason}"
            return self.failed_fetches

    def applied(self, which: str) -> None:
        with self.lock:
            self.hash_applied, self.hash_rejected, self.is_unsettled = which, None, False
            self.applied_at = self.last_success = timestamp()
            self.result = "applied"

    def skip(self, which: str | None, reason: str) -> None:
        """Note that what has the hash `which` is not to be applied."""
        with self.lock:
            self.hash_rejected, self.hash_applied, self.is_unsettled = which, None, False
            self.result = self._rejection = f"skipped: {reason}"

    def rejected(self, which: str, reason: str, is_final: bool) -> None:
        with self.lock:
            self.failures += 1
            self.is_unsettled = True
            self.hash_rejected = which if is_final else None
            self.result = self._rejection = f"rejected: {reason}"


class Subscription:
    """Watches one source. `on_change(value)` brings a value into force and returns what went wrong, or nothing.

    `read` takes the part that counts out of what a fetch found; default: all of it, as Python sees it.
    """

    def __init__(self, name: str, source: Source, on_change: Callable[[Any], Any], pace: Pace, board: Board, feed: Feed,
                 read: Callable[[Snapshot], Any] = document, after_fetch: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self._source = source
        self._on_change = on_change
        self._pace = pace
        self._board = board
        self._feed = feed
        self._read = read
        self._after_fetch = after_fetch
        self._key = f"source:{name}"
        self._change_key = f"config:{name}"
        self._record = Record()
        # Held while a value is brought into force: what an operator goes back from must not come behind that.
        self.bringing = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        # Written by the watcher alone (by `first` before there is one).
        self._pending: tuple[str, Any] | None = None
        self._restless_fetches = 0  # in a row, in which the source was being written
        self._pending_due = Deadline(0)
        self._next_change = Deadline(0)
        self._before_watching: Callable[[], Any] | None = None

    # For the subscriber

    def first(self, deadline: Deadline, bring: Callable[[Any, Deadline], Any]) -> None:
        """Fetch until the source answers or the deadline has passed, in the caller's thread, and have `bring` apply it.

        `bring(value, deadline)` returns problems, and what is left to be done by the watcher (None: nothing), which
        returns problems too.
        """
        pause = EARLY_PAUSE
        while not deadline.has_passed():
            if self._fetch(deadline):
                self._bring_first(deadline, bring)
                return
            if pause == EARLY_PAUSE:
                log.info("the service waits for its configuration", reason=self._record.result)
            self._wake.wait(deadline.sooner(pause))
            pause = min(pause * 2, 1.0)
        log.warning("the service starts without the configuration of its source", source=self._source.name)

    def _bring_first(self, deadline: Deadline, bring: Callable[[Any, Deadline], Any]) -> None:
        if self._pending is None:
            return
        (which, value), self._pending = self._pending, None
        try:
            problems, rest = bring(value, deadline)
        except Exception as error:  # noqa: BLE001  a fault of ours must not keep the service from starting
            problems, rest = [Problem(cause.tell("the change before the start", error), retry=True)], None
        if rest is None:
            self._conclude(which, problems)
        else:
            self._record.result = "in place, the service starts with it"
            self._before_watching = lambda: self._conclude(which, rest())

    def start(self) -> None:
        """Begin to watch."""
        threads.start(f"config-{self.name}", self._keep_watching)

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def fetch_now(self) -> None:
        """Fetch at once instead of at the next time; returns at once."""
        self._wake.set()

    @property
    def hash_seen(self) -> str | None:
        return self._record.hash_seen

    def skip(self, which: str | None, reason: str) -> None:
        """Do not apply what has the hash `which`, until the source changes."""
        self._record.skip(which, reason)
        self._board.replace(self._change_key, ())

    def status(self) -> dict[str, Any]:
        """The record for /api/config: from memory, without secrets."""
        return {"name": self.name, "source": self._source.name, **self._record.facts(),
                "pending": self._pending is not None}

    # The watcher

    def _keep_watching(self) -> None:
        """Begin anew where an error of ours, or a want of memory, ends the watch: it must never end in silence."""
        pause = REVIVAL_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._watch()
            except BaseException as error:  # noqa: BLE001  sys.exit among them
                said = cause.tell(f"the watcher of {self.name}", error)
                self._board.report(self._key, f"{said}; it is started again", "watcher")
                self._source.forget()  # it may have had a change that it had taken and not brought yet
                pause = REVIVAL_PAUSE if time.monotonic() - began > LONGEST_PAUSE else pause
                self._stopping.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _watch(self) -> None:
        if self._before_watching is not None:
            rest, self._before_watching = self._before_watching, None
            rest()
        due = Deadline(0 if self._record.last_fetch is None else self._pace.every)
        while not self._stopping.is_set():
            if due.has_passed() or self._wake.is_set():
                self._wake.clear()
                self._fetch()
                self._after_fetch()
                due = Deadline(self._pause())
                self._board.resolve(self._key, "watcher")
            self._bring_pending()
            self._wake.wait(self._nap(due))

    def _nap(self, due: Deadline) -> float:
        if self._pending is None:
            return due.remaining() or 0
        return due.sooner(max(self._pending_due.remaining() or 0, self._next_change.remaining() or 0))

    def _pause(self) -> float:
        every: float = self._pace.every
        failures = self._record.failed_fetches
        if self._restless_fetches:
            return min(every, STILL_SECONDS)
        if failures >= QUIET_FAILURES:
            every = min(every * 2.0 ** min(failures - QUIET_FAILURES + 1, 20), max(every, LONGEST_PAUSE))
        return every * (1 + random.uniform(-JITTER, JITTER))

    def _fetch(self, early: Deadline | None = None) -> bool:
        """True where the source answered, and what it said was understood and is not being written right now.

        `early`: by when, before the first start; then a failure does not count, for the source may start with us.
        """
        self._record.last_fetch = timestamp()
        try:
            snapshot = self._source.fetch(None if early is None else early.remaining())
            self._restless_fetches = 0 if snapshot.is_still else self._restless_fetches + 1
            if self._restless_fetches > RESTLESS_FETCHES:
                raise CannotFetch(f"{self._source.name}: changes all the time")
            if not snapshot.is_still:  # what is there may be half written
                self._record.result = "changed, not still yet"
                return False
            if snapshot.changed:
                self._take(self._selected(snapshot))
            else:
                self._record.answered(None)
        except Exception as error:  # noqa: BLE001  an author's values may do anything when they are looked at
            is_plain = isinstance(error, CannotFetch)
            reason = str(error) if is_plain else cause.tell(f"a fetch of {self._source.name}", error)
            self._source.forget()
            if early is None:
                self._report_failure(reason)
            else:
                self._record.result = f"cannot fetch: {reason}"
            return False
        self._board.resolve(self._key, "source")
        return True

    def _selected(self, snapshot: Snapshot) -> Any:
        try:
            return self._read(snapshot)
        except CannotFetch as error:
            raise CannotFetch(f"{self._source.name}: {error}") from error
        except BaseException as error:  # the author's code meets a document it was not written for
            raise CannotFetch(cause.tell(f"the selection of {self.name}", error)) from error

    def _report_failure(self, reason: str) -> None:
        if self._record.failed(reason) >= QUIET_FAILURES:
            since, has_answered = self._record.stale_since, self._record.last_response is not None
            told = f"stale since {since}" if has_answered else f"it has not answered since the start at {since}"
            self._board.report(self._key, f"{reason}; {told}", "source", stale_since=since)

    def _take(self, value: Any) -> None:
        """Remember a value that is neither in force nor rejected; the newest replaces the one that waits."""
        try:
            seen = fingerprint(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise CannotFetch(f"{self._source.name}: what it holds cannot be compared; it must be made of text, bytes, "
                             f"numbers, lists and dicts: {type(error).__name__}") from error
        self._record.answered(seen)
        record = self._record
        if seen == record.hash_rejected or (seen == record.hash_applied and not record.is_unsettled):
            self._pending = None
            return
        if self._pending is None:
            self._pending_due = Deadline(random.uniform(0, self._pace.splay))
        self._pending = seen, value

    # A change

    def _bring_pending(self) -> None:
        if self._pending is None or not self._pending_due.has_passed() or not self._next_change.has_passed():
            return
        (which, value), self._pending = self._pending, None
        with self.bringing:
            if which != self._record.hash_rejected:  # it was skipped meanwhile
                self._conclude(which, self._bring(value))

    def _bring(self, value: Any) -> list[Problem]:
        """Call the handler. A timer watches it: the only thing that can be said of one that hangs is that it does."""
        message = f"the handler of {self.name} has not returned for {SLOW_SECONDS:g} s"
        timer = threads.start_watchdog(f"config-{self.name}-slow", SLOW_SECONDS, self._board.report, self._key, message,
                                       "slow")
        try:
            return problems_of(self._on_change(value))
        except BaseException as error:  # noqa: BLE001  sys.exit in an author's code must not end the watcher
            return [Problem(cause.tell(f"the handler of {self.name}", error), "handler")]
        finally:
            timer.cancel()
            if timer.is_alive():
                timer.join()  # it may be about to say so
            self._board.resolve(self._key, "slow")

    def _conclude(self, which: str, problems: list[Problem]) -> None:
        """Note how a change went. One whose content is not to blame is tried again."""
        self._next_change = Deadline(self._pace.min_interval)
        if not problems:
            self._record.applied(which)
            self._board.replace(self._change_key, ())
            log.info("the configuration is in force", subscription=self.name, hash=which)
            self._feed.publish("config", name=self.name, result="applied", hash=which)
            return
        is_final = not any(problem.details.get("retry") for problem in problems)
        self._record.rejected(which, problems[0].message, is_final)
        self._board.replace(self._change_key, problems)
        self._feed.publish("config", name=self.name, result="rejected", hash=which, reason=problems[0].message)
        if not is_final:
            self._source.forget()


def problems_of(returned: Any) -> list[Problem]:
    """What a handler returned as problems: None, True, a problem, a sentence, or several of them."""
    if returned is None or returned is True:
        return []
    if returned is False:
        return [Problem("the handler says no")]
    if isinstance(returned, (str, Problem)):
        returned = [returned]
    return [one if isinstance(one, Problem) else Problem(str(one)) for one in returned]
