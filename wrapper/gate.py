"""Who may be on the road to the service: admit, hold, drain. The only meeting point of `proxy/` and `service/`.

A request asks once. Either it is admitted to a lane, or it is refused, or it waits: then it costs no thread, only a
slot in one queue, and is told later how it went. Lanes let two runs of the service overlap: new requests go to the
new lane, the old one drains.
"""

from __future__ import annotations

import threading

from wrapper.deadline import Deadline
from wrapper.errors import GatewayTimeout, Refusal, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Protocol

    from wrapper.loop.loop import Loop, Steps
    from wrapper.settings.address import Address

    class Connections(Protocol):
        """Connections to one address of the service; `close` drops the kept ones."""

        def close(self) -> None: ...
        def doubt_kept(self) -> None: ...

    class GatedRun(Protocol):
        """One run of the service; its end is told with `lose`, after `has_fallen` is true."""

        def has_fallen(self) -> bool: ...

    class Traveller(Protocol):
        """One exchange as the gate sees it. Every method returns at once and never raises, in any thread."""

        loop: Loop
        may_last: bool  # it may be on the road for hours: a WebSocket

        def proceed(self) -> None:
            """The wait is over: `Gate.collect` says how."""

        def warn(self, going: str) -> None:
            """This lane ends soon, because of a "restart" or a "shutdown": tell your client what it can hear."""

        def cut(self) -> None:
            """The time to drain is over: break the connections of this exchange."""


FIRST_BATCH = 8  # held requests let through at once when the gate opens; every further batch is twice as large
BATCH_INTERVAL = 0.010  # seconds between two batches: 1,000 held requests are through after 70 ms
CUT_TIMEOUT = 1.0  # seconds that exchanges whose connections were cut get to leave


class Lane:
    """The road to one run of the service: its upstream, and who is on it."""

    __slots__ = ("deaf", "inside", "lasting", "run", "untold", "upstream")

    def __init__(self, upstream: Connections, run: GatedRun | None) -> None:
        self.upstream = upstream
        self.run = run
        self.inside: set[Traveller] = set()
        self.lasting: set[Traveller] = set()  # those of them that may stay for hours: tunnels, streams of events
        self.deaf: set[Traveller] = set()  # those of them that cannot be told to leave: only the service can end them
        self.untold: set[Traveller] | None = None  # once it is to end: those inside that have not heard of it yet

    @property
    def is_empty(self) -> bool:
        """True where nothing is inside that would leave by itself."""
        return len(self.inside) == len(self.deaf)


class Peaks:
    """Since a moment: the most in flight and held at a time, how many waits ended, and the longest in seconds."""

    __slots__ = ("held", "in_flight", "longest_wait", "waits")

    def __init__(self, in_flight: int = 0, held: int = 0) -> None:
        self.in_flight, self.held = in_flight, held
        self.waits, self.longest_wait = 0, 0.0


class Gate:
    """Shut at first. `hold_timeout` in seconds (0: nothing waits), `hold_max` how many may wait.

    `in_flight_max`: how many the service gets at a time, the lasting ones not counted; None as many as come. `doubt`
    is called, and returns at once, where a traveller finds that the service does not listen.
    """

    def __init__(self, make_upstream: Callable[[Address], Connections], hold_timeout: float, hold_max: int,
                 in_flight_max: int | None = None, doubt: Callable[[], None] = lambda: None) -> None:
        self._make_upstream = make_upstream
        self.hold_timeout = hold_timeout
        self._hold_max = hold_max
        self._in_flight_max = in_flight_max
        self.doubt = doubt
        self.paused = ""  # why everything is held though the lane may be open; empty where it is not
        self._pauses = 0
        # Guards everything below; held only for a few lines, never over a call out of this room.
        self._lock = threading.Lock()
        # Notified when the number inside changed in a way that a drain waits for.
        self._changed = threading.Condition(self._lock)
        self._lane: Lane | None = None
        self._draining: set[Lane] = set()
        self._refusal = "the service has not been started"  # why nothing may even wait; empty where it may
        self._reason = "the service is starting"
        # In order of arrival, see `_begin_release`. A dict, so that one that leaves is forgotten in one step.
        self._held: dict[Traveller, None] = {}
        self._verdicts: dict[Traveller, Lane | Refusal] = {}  # of those that have been told to proceed
        self._is_releasing = False
        self._hurried = False
        self._peaks = Peaks()

    # For travellers

    def admit(self, traveller: Traveller) -> Lane | None:
        """The lane to take now, or None: then `traveller.proceed` is called once, later, for it to `collect`.

        Raises: Unavailable where nothing may wait, or too many do already.
        """
        with self._lock:
            lane = self._lane
            if lane is not None and not self._held and self._has_room(lane):
                lane.inside.add(traveller)
                if len(lane.inside) > self._peaks.in_flight:  # noqa: PLR1730  max() takes longer, for each request
                    self._peaks.in_flight = len(lane.inside)
                return lane
            self._hold_traveller(traveller)
        return None

    def _has_room(self, lane: Lane) -> bool:
        assert self._lock.locked()
        if self.paused:
            return False
        return self._in_flight_max is None or len(lane.inside) - len(lane.lasting) < self._in_flight_max

    def _hold_traveller(self, traveller: Traveller) -> None:
        assert self._lock.locked()
        if self._refusal:
            raise Unavailable(self._refusal)
        if self.hold_timeout <= 0:
            raise Unavailable(self._why_held())
        if len(self._held) >= self._hold_max:
            raise Unavailable(f"{self._why_held()}, and {self._hold_max} requests wait already")
        self._held[traveller] = None
        self._peaks.held = max(self._peaks.held, len(self._held))

    def _why_held(self) -> str:
        assert self._lock.locked()
        return self.paused or (self._reason if self._lane is None else "the service is busy")

    def collect(self, traveller: Traveller, held: float) -> Lane:
        """How the wait of `held` seconds ended. Raises: the refusal; GatewayTimeout where it has not ended yet."""
        with self._lock:
            self._held.pop(traveller, None)
            self._peaks.waits += 1
            self._peaks.longest_wait = max(self._peaks.longest_wait, held)
            verdict = self._verdicts.pop(traveller, None)
            if isinstance(verdict, Lane):
                return verdict
            raise verdict or GatewayTimeout(f"{self._why_held()}; this request was held for {held:.1f} s")

    def forget(self, traveller: Traveller) -> Lane | None:
        """End the wait of `traveller`; returns the lane it was admitted to meanwhile, which it is to leave."""
        with self._lock:
            self._held.pop(traveller, None)
            verdict = self._verdicts.pop(traveller, None)
        return verdict if isinstance(verdict, Lane) else None

    def mark_lasting(self, lane: Lane, traveller: Traveller, is_deaf: bool) -> None:
        """The traveller may be on the road for hours: it takes no other's place meanwhile."""
        with self._lock:
            lane.lasting.add(traveller)
            if is_deaf:
                lane.deaf.add(traveller)
        self._let_in(1)

    def leave(self, lane: Lane, traveller: Traveller) -> None:
        """The exchange is over, however it ended."""
        with self._lock:
            lane.inside.discard(traveller)
            lane.lasting.discard(traveller)
            lane.deaf.discard(traveller)
            if lane in self._draining and lane.is_empty:
                self._changed.notify_all()
            is_awaited = bool(self._held) and self._in_flight_max is not None
        if is_awaited:
            self._let_in(1)

    @property
    def in_flight(self) -> int:
        with self._lock:
            return self._count_inside()

    def _count_inside(self) -> int:
        assert self._lock.locked()
        lanes = self._draining if self._lane is None else self._draining | {self._lane}
        return sum(len(lane.inside) for lane in lanes)

    def take_peaks(self) -> Peaks:
        """The peaks since the last call; what is in flight and held now counts in the next ones too."""
        with self._lock:
            now = Peaks(self._count_inside(), len(self._held))
            peaks, self._peaks = self._peaks, now
        peaks.in_flight = max(peaks.in_flight, now.in_flight)
        return peaks

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def upstream(self) -> Connections | None:
        """The connections of the lane that is open."""
        lane = self._lane
        return None if lane is None else lane.upstream

    @property
    def is_open(self) -> bool:
        return self._lane is not None

    def doubt_kept(self) -> None:
        """The service is about to be told something, upon which it may close connections that carry nothing."""
        if (upstream := self.upstream) is not None:
            upstream.doubt_kept()

    # For operators

    def pause(self, reason: str) -> int:
        """Hold every request from now on, whatever the service does; returns the number to `resume` with."""
        with self._lock:
            self._pauses += 1
            self.paused = reason
            return self._pauses

    def resume(self, number: int | None = None) -> bool:
        """End a pause, with its number only where it is still the latest one; True where there was one to end."""
        with self._lock:
            is_end = bool(self.paused) and number in (None, self._pauses)
            if is_end:
                self.paused = ""
        self._begin_release()
        return is_end

    # For the controller

    def open(self, address: Address, run: GatedRun | None = None) -> Lane | None:
        """Send all requests to this run of the service from now on; returns the lane that was open before."""
        lane = Lane(self._make_upstream(address), run)
        with self._lock:
            before, self._lane, self._refusal = self._lane, lane, ""
        self._begin_release()
        if run is not None and run.has_fallen():
            self.lose(run)  # that may have been told before the lane was open
        return before

    def hold(self, reason: str) -> Lane | None:
        """Let newcomers wait from now on; returns the lane that was open."""
        with self._lock:
            before, self._lane, self._refusal = self._lane, None, ""
            self._reason = reason
        return before

    def lose(self, run: GatedRun) -> None:
        """The run has ended: if the open lane leads there, it is shut and newcomers wait.

        Nothing needs to be drained: the exchanges on that lane see their connections break.
        """
        with self._lock:
            lane = self._lane
            if lane is None or lane.run is not run:
                return
            self._lane, self._refusal, self._reason = None, "", "the service has ended"
        lane.upstream.close()

    def refuse(self, reason: str) -> Lane | None:
        """Answer newcomers and those who wait with 503 from now on; returns the lane that was open."""
        with self._lock:
            before, self._lane, self._refusal = self._lane, None, reason
            held, self._held = self._held, {}
            self._verdicts.update((traveller, Unavailable(reason)) for traveller in held)
        for traveller in held:
            traveller.proceed()
        return before

    def warn(self, lane: Lane, going: str, spread: float = 0.0) -> None:
        """Begin to drain a lane, which must not be the open one any more: tell its exchanges, drop what is kept idle.

        `going` is "restart" or "shutdown". The clients of those that last connect again as soon as they are told, so
        they are told at moments spread over `spread` seconds; a later call without it tells the rest at once.
        """
        with self._lock:
            assert lane is not self._lane
            if lane.untold is None:
                self._draining.add(lane)
                lane.untold = lane.inside
            later = lane.untold & lane.lasting - lane.deaf if spread else set()
            at_once, lane.untold = lane.untold - later, later
        lane.upstream.close()
        for traveller in at_once:
            traveller.warn(going)
        if later:
            loop = next(iter(later)).loop
            loop.spawn(self._warn_later(loop, lane, going, spread), "gate")

    def _warn_later(self, loop: Loop, lane: Lane, going: str, spread: float) -> Steps:
        begin, count, told = loop.now, len(lane.untold or ()), 0
        while True:
            with self._lock:
                traveller = lane.untold.pop() if lane.untold else None
            if traveller is None:
                return
            traveller.warn(going)
            told += 1
            yield (begin + spread * told / count,)

    def await_empty(self, lane: Lane, deadline: Deadline) -> bool:
        """Wait until all exchanges have left the lane; False where some are left at the deadline or after `hurry`."""
        with self._changed:
            self._changed.wait_for(lambda: lane.is_empty or self._hurried, deadline.remaining())
            return lane.is_empty

    def cut(self, lane: Lane) -> None:
        """End a drain: break what is left on the lane."""
        with self._lock:
            inside = list(lane.inside)
        for traveller in inside:
            traveller.cut()
        with self._changed:
            self._changed.wait_for(lambda: not lane.inside, CUT_TIMEOUT)
            self._draining.discard(lane)

    def hurry(self) -> None:
        """End every drain now, and those to come: the wrapper was told to end a second time."""
        with self._lock:
            self._hurried = True
            self._changed.notify_all()

    # The release of those that were held: a task on the loop of the first of them

    def _begin_release(self) -> None:
        with self._lock:
            if self._is_releasing or not self._held or self._lane is None:
                return
            self._is_releasing = True
            # Thousands of WebSockets that come back would keep each plain request waiting.
            self._held = dict.fromkeys(sorted(self._held, key=lambda traveller: traveller.may_last))
            loop = next(iter(self._held)).loop
        loop.spawn(self._release(loop), "gate")

    def _release(self, loop: Loop) -> Steps:
        """Let those that are held in, in order, a few at first: all in one instant would knock a fresh service over."""
        batch = FIRST_BATCH
        while self._let_in(batch, is_release=True):
            batch *= 2
            yield (loop.now + BATCH_INTERVAL,)

    def _let_in(self, batch: int, *, is_release: bool = False) -> bool:
        """True while there may be more to let in."""
        with self._lock:
            lane = self._lane
            admitted: list[Traveller] = []
            while lane is not None and self._held and len(admitted) < batch and self._has_room(lane):
                traveller = next(iter(self._held))
                del self._held[traveller]
                self._verdicts[traveller] = lane
                lane.inside.add(traveller)
                self._peaks.in_flight = max(self._peaks.in_flight, len(lane.inside))
                admitted.append(traveller)
            if is_release:
                self._is_releasing = bool(admitted)
        for traveller in admitted:
            traveller.proceed()
        return bool(admitted)
