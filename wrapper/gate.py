"""Who may be on the road to the service: admit, hold, drain. The only meeting point of `proxy/` and `service/`.

A request asks once. Either it is admitted to a lane, or it is refused, or it waits: then it costs no thread, only a
place in one queue, and is told later how it went. Lanes let two runs of the service overlap: new requests go to the
new lane, the old one drains.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from wrapper.deadline import Deadline
from wrapper.errors import GatewayTimeout, Refusal, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Protocol

    from wrapper.address import Address

    class Upstream(Protocol):
        """Connections to one address of the service; `close` drops the kept ones."""

        def close(self) -> None: ...

    class Run(Protocol):
        """One run of the service; its end is told with `lose`, after `ended` was set."""

        ended: threading.Event

    class Traveller(Protocol):
        """One exchange as the gate sees it. Every method returns at once and never raises."""

        def proceed(self, lane: Lane | None, refusal: Refusal | None, held: float) -> None:
            """The end of a wait of `held` seconds: a lane to travel, or the refusal to answer with."""

        def warn(self, going: str) -> None:
            """This lane ends soon, because of a "restart" or a "shutdown": tell your client what it can hear."""

        def cut(self) -> None:
            """The time to drain is over: break the connections of this exchange."""


FIRST_BATCH = 8  # held requests let through at once when the gate opens; every further batch is twice as large
BATCH_INTERVAL = 0.010  # seconds between two batches: 1,000 held requests are through after 70 ms
CUT_TIMEOUT = 1.0  # seconds that exchanges whose connections were cut get to leave


class Lane:
    """The road to one run of the service: its upstream, and who is on it."""

    __slots__ = ("inside", "run", "upstream")

    def __init__(self, upstream: Upstream, run: Run | None) -> None:
        self.upstream = upstream
        self.run = run
        self.inside: set[Traveller] = set()


class Gate:
    """Shut at first. `hold_timeout` in seconds (0: nobody waits), `hold_max` how many may wait."""

    def __init__(self, make_upstream: Callable[[Address], Upstream], hold_timeout: float, hold_max: int) -> None:
        self._make_upstream = make_upstream
        self._hold_timeout = hold_timeout
        self._hold_max = hold_max
        # Guards everything below; held only for a few lines, never over a call out of this room.
        self._lock = threading.Lock()
        # Notified when the queue, the lane or the number inside changed in a way somebody waits for.
        self._changed = threading.Condition(self._lock)
        self._lane: Lane | None = None
        self._draining: set[Lane] = set()
        self._refusal: Refusal | None = Unavailable("the service has not been started")
        self._reason = "the service is starting"
        # (traveller, since) in order of arrival. A dict, so that one who leaves is forgotten in one step.
        self._held: dict[Traveller, float] = {}
        self._usher: threading.Thread | None = None
        self._hurried = False

    # For those who travel

    def admit(self, traveller: Traveller, may_wait: bool = True) -> Lane | None:
        """The lane to take now, or None: then `traveller.proceed` is called once, later, from another thread.

        `may_wait` False: never None. Raises: Unavailable where nobody may wait or too many do already.
        """
        with self._lock:
            lane = self._lane
            if lane is not None and not (self._held and may_wait):
                lane.inside.add(traveller)
                return lane
            if not may_wait:
                raise self._refusal or Unavailable(self._reason)
            self._hold_traveller(traveller)
        return None

    def _hold_traveller(self, traveller: Traveller) -> None:
        assert self._lock.locked()
        if self._refusal is not None:
            raise self._refusal
        if self._hold_timeout <= 0:
            raise Unavailable(self._reason)
        if len(self._held) >= self._hold_max:
            raise Unavailable(f"{self._reason}, and {self._hold_max} requests wait already")
        if self._usher is None:
            self._call_usher()
        self._held[traveller] = time.monotonic()

    def _call_usher(self) -> None:
        """Raises: Unavailable where no thread can be had."""
        usher = threading.Thread(target=self._usher_in, name="gate", daemon=True)
        try:
            usher.start()  # it waits for our lock, and finds somebody held
        except RuntimeError as error:
            raise Unavailable(f"{self._reason}, and nobody can wait: {error}") from None
        self._usher = usher

    def leave(self, lane: Lane, traveller: Traveller) -> None:
        """The exchange is over, however it ended."""
        with self._lock:
            lane.inside.discard(traveller)
            if lane in self._draining and not lane.inside:
                self._changed.notify_all()

    def forget(self, traveller: Traveller) -> bool:
        """True where the traveller still waited: its place is free again, and `proceed` will not be called."""
        with self._lock:
            return self._held.pop(traveller, None) is not None

    @property
    def in_flight(self) -> int:
        with self._lock:
            lanes = self._draining if self._lane is None else self._draining | {self._lane}
            return sum(len(lane.inside) for lane in lanes)

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def upstream(self) -> Upstream | None:
        """The connections of the lane that is open."""
        lane = self._lane
        return None if lane is None else lane.upstream

    @property
    def is_open(self) -> bool:
        return self._lane is not None

    # For the controller

    def open(self, address: Address, run: Run | None = None) -> Lane | None:
        """Send everybody to this run of the service from now on; returns the lane that was open before."""
        lane = Lane(self._make_upstream(address), run)
        with self._lock:
            before, self._lane, self._refusal = self._lane, lane, None
            self._changed.notify_all()
        if run is not None and run.ended.is_set():
            self.lose(run, "the service has ended")  # whoever said so may have come before us
        return before

    def hold(self, reason: str) -> Lane | None:
        """Let newcomers wait from now on; returns the lane that was open."""
        with self._lock:
            before, self._lane, self._refusal = self._lane, None, None
            self._reason = reason
        return before

    def lose(self, run: Run, reason: str) -> None:
        """The run has ended: if the open lane leads there, it is shut and newcomers wait.

        Nothing needs to be drained: whoever is on that lane sees its connection break.
        """
        with self._lock:
            lane = self._lane
            if lane is None or lane.run is not run:
                return
            self._lane, self._refusal, self._reason = None, None, reason
        lane.upstream.close()

    def refuse(self, reason: str) -> Lane | None:
        """Answer newcomers and those who wait with 503 from now on; returns the lane that was open."""
        with self._lock:
            before, self._lane, self._refusal = self._lane, None, Unavailable(reason)
            self._changed.notify_all()
        return before

    def warn(self, lane: Lane, going: str) -> None:
        """Begin to drain a lane, which must not be the open one any more: tell its exchanges, drop what is kept idle.

        `going` is "restart" or "shutdown".
        """
        with self._lock:
            assert lane is not self._lane
            self._draining.add(lane)
            inside = list(lane.inside)
        lane.upstream.close()
        for traveller in inside:
            traveller.warn(going)

    def await_empty(self, lane: Lane, deadline: Deadline) -> bool:
        """Wait until all exchanges have left the lane; False where some are left at the deadline or after `hurry`."""
        with self._changed:
            self._changed.wait_for(lambda: not lane.inside or self._hurried, deadline.remaining())
            return not lane.inside

    def cut(self, lane: Lane) -> None:
        """End a drain: break what is left on the lane."""
        with self._lock:
            inside = list(lane.inside)
        for traveller in inside:
            traveller.cut()
        with self._changed:
            self._changed.wait_for(lambda: not lane.inside, CUT_TIMEOUT)
            self._draining.discard(lane)

    def drain(self, lane: Lane, deadline: Deadline, going: str) -> bool:
        """All three; True if all left by themselves, False if some had to be cut."""
        self.warn(lane, going)
        in_time = self.await_empty(lane, deadline)
        self.cut(lane)
        return in_time

    def hurry(self) -> None:
        """End every drain now, and those to come: whoever asked us to end has asked again."""
        with self._lock:
            self._hurried = True
            self._changed.notify_all()

    # The usher: one thread, alive only while somebody waits

    def _usher_in(self) -> None:
        batch = FIRST_BATCH
        while True:
            with self._changed:
                if not self._held:
                    self._usher = None
                    return
                verdicts = self._verdicts(batch)
                if not verdicts:
                    batch = FIRST_BATCH
                    self._changed.wait(self._next_expiry())
            for traveller, lane, refusal, held in verdicts:
                traveller.proceed(lane, refusal, held)
            if verdicts and verdicts[-1][1] is not None:
                time.sleep(BATCH_INTERVAL)  # the pace itself, not a wait for something
                batch *= 2

    def _next_expiry(self) -> float:
        assert self._lock.locked()
        return max(0.0, next(iter(self._held.values())) + self._hold_timeout - time.monotonic())

    def _verdicts(self, batch: int) -> deque[tuple[Traveller, Lane | None, Refusal | None, float]]:
        """Take those out of the queue whose wait ends now."""
        assert self._lock.locked()
        now = time.monotonic()
        verdicts: deque[tuple[Traveller, Lane | None, Refusal | None, float]] = deque()
        for traveller, since in list(self._held.items()):
            held = now - since
            if self._refusal is not None:
                verdicts.append((traveller, None, self._refusal, held))
            elif self._lane is not None and len(verdicts) < batch:
                self._lane.inside.add(traveller)
                verdicts.append((traveller, self._lane, None, held))
            elif self._lane is None and held >= self._hold_timeout:
                verdicts.append((traveller, None, self._too_long(held), held))
            else:
                break
        for traveller, *_ in verdicts:
            del self._held[traveller]
        return verdicts

    def _too_long(self, held: float) -> Refusal:
        return GatewayTimeout(f"{self._reason}; this request was held for {held:.1f} s")
