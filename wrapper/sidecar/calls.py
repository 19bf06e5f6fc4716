"""Requests that authors' code answers: in threads of their own, for which whoever asked waits only so long.

A call that hangs is evicted where that can be done; those that are left count, and too many of them refuse further
ones.
"""

from __future__ import annotations

import queue
import threading

from wrapper import cause
from wrapper.errors import GatewayTimeout, Refusal, RequestTimeout, Unavailable
from wrapper.log import log
from wrapper.sidecar.eviction import Overdue, Stay
from wrapper.sidecar.isolation import close
from wrapper.sidecar.turns import turns
from wrapper.stream import ClientGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.sidecar.isolation import Guard

IDLE_TIMEOUT = 10.0  # seconds a thread without a call stays
LONG_CALL = 0.005  # seconds after which a call may be one that computes, for which the others must not wait long
MOST_CALLS = 100  # of one sidecar at a time; also how many threads its hanging handlers can cost


class Calls:
    """Requests that one sidecar's code answers, each in a thread that has nothing else to do meanwhile."""

    def __init__(self, guard: Guard, most: int = MOST_CALLS) -> None:
        self._guard = guard
        self._most = most
        # Guards both: how many calls are under way, and the threads without one, the last one in on top.
        self._lock = threading.Lock()
        self._under_way = 0
        self._idle: list[tuple[threading.Thread, queue.SimpleQueue[Call]]] = []

    def run(self, what: str, work: Callable[[], Any], timeout: float | None,
            awaits_client: Callable[[], bool] = bool) -> Any:
        """What `work` returns within `timeout` seconds; None waits for ever.

        `awaits_client`: whether it is the client that the work waits for.
        Raises: the refusals that the work itself chose; Refusal (500), GatewayTimeout, RequestTimeout or Unavailable.
        """
        call = Call(f"{self._guard.name} {what}", work)
        self._start(call)
        if not call.wait(timeout):
            if awaits_client():
                self._show_out(call)
                raise RequestTimeout(f"the request's body did not come within {timeout:g} s")
            self._guard.report(what, f"{what} did not answer within {timeout:g} s")
            log.error(f"{what} hangs", sidecar=self._guard.name, timeout=timeout,
                      stack=cause.place_of(call.stay.thread))
            self._show_out(call)
            raise GatewayTimeout(f"the sidecar did not answer within {timeout:g} s")
        if isinstance(call.error, (Refusal, ClientGone)):
            raise call.error
        if call.error is not None:
            self._guard.failed(what, call.error)
            raise Refusal("the sidecar's code failed")
        if not getattr(call.result, "is_streamed", False):  # a stream has only begun; it says itself how it went
            self._guard.went_well(what)
        return call.result

    def _start(self, call: Call) -> None:
        with self._lock:
            if self._under_way >= self._most:
                raise Unavailable(f"{self._most} requests keep the sidecar's code busy already")
            self._under_way += 1
            idle = self._idle.pop() if self._idle else None
        if idle is not None:
            call.stay.thread, inbox = idle
            inbox.put(call)
            return
        call.stay.thread = threading.Thread(target=self._serve, args=(call,), name=call.name, daemon=True)
        try:
            call.stay.thread.start()
        except RuntimeError as error:  # "can't start new thread"
            with self._lock:
                self._under_way -= 1
            raise Unavailable(f"no thread can be had for the sidecar: {error}") from None

    def _serve(self, first: Call) -> None:
        try:
            self._serve_calls(first)
        except Overdue:
            pass  # it came while an abandoned call was ending by itself

    def _serve_calls(self, first: Call) -> None:
        """One thread: call after call, until none came for a while."""
        inbox: queue.SimpleQueue[Call] = queue.SimpleQueue()
        thread = threading.current_thread()
        call: Call | None = first
        while call is not None:
            thread.name = call.name
            call.run()
            if call.is_abandoned:
                return  # what is left to do is done by whoever waits for the thread's end
            call = None  # its result is the waiter's alone
            thread.name = f"{self._guard.name} idle"
            with self._lock:
                self._under_way -= 1
                self._idle.append((thread, inbox))
            call = self._next(inbox)

    def _show_out(self, call: Call) -> None:
        """See to it that a call nobody waits for ends, and count it no longer once it has."""

        def wait() -> None:
            call.stay.evict()
            call.end_turns()  # it has ended, or waits in the kernel and computes nothing
            call.stay.thread.join()
            close(call.result)
            log.info(f"{call.name} has ended after all")
            with self._lock:
                self._under_way -= 1

        try:
            threading.Thread(target=wait, name=f"{call.name} eviction", daemon=True).start()
        except RuntimeError as error:  # "can't start new thread": it stays and counts
            log.warning("no thread can be had to end a call that hangs", cause=error)

    def _next(self, inbox: queue.SimpleQueue[Call]) -> Call | None:
        try:
            return inbox.get(timeout=IDLE_TIMEOUT)
        except queue.Empty:
            with self._lock:
                mine = (threading.current_thread(), inbox)
                if mine in self._idle:
                    self._idle.remove(mine)
                    return None
            return inbox.get()  # taken off the list this very moment


class Call:
    """One call under way; `name` is its thread's meanwhile. One that is abandoned is its thread's last."""

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        self.name = name
        self._work = work
        # Held until the work is done: whoever waits for that waits for this. Cheaper than an Event.
        self._done = threading.Lock()
        self._done.acquire()
        # Guards the result, whether somebody waits for it (one that nobody takes has to be closed), and whether the
        # call took so long that others take short turns.
        self._lock = threading.Lock()
        self._is_long = False
        self.is_abandoned = False
        self.stay = Stay()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        result, error = None, None
        self.stay.arrive()
        try:
            result = self._work()
        except BaseException as raised:  # noqa: BLE001  # sys.exit() too
            error = raised
        self.stay.leave()
        with self._lock:
            self.result, self.error = result, error
            self._done.release()
        if not self.is_abandoned:
            self.end_turns()

    def wait(self, timeout: float | None) -> bool:
        """False where the work took too long; then nobody waits for it any more."""
        if self._done.acquire(timeout=LONG_CALL if timeout is None else min(timeout, LONG_CALL)):
            return True
        self._grow_long()
        if self._done.acquire(timeout=-1 if timeout is None else max(0.0, timeout - LONG_CALL)):
            return True
        with self._lock:
            self.is_abandoned = self._done.locked()
            return not self.is_abandoned

    def _grow_long(self) -> None:
        with self._lock:
            self._is_long = self._done.locked()
            if self._is_long:
                turns.shorten()

    def end_turns(self) -> None:
        if self._is_long:
            turns.lengthen()
