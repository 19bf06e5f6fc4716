"""Requests that authors' code answers: so many at a time, and each only so long.

A call past its time is a 504 and a problem. It goes on, since nothing can end it safely, and its place is taken until
it returns.
"""

from __future__ import annotations

import threading

from wrapper import cause
from wrapper.errors import Refusal, Unavailable
from wrapper.log import log
from wrapper.loop.stream import ClientGone
from wrapper.sidecar.isolation import close

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from wrapper.http1.message import Request, Response
    from wrapper.sidecar.isolation import Guard

MOST_CALLS = 100  # of one sidecar at a time; also how many threads its hanging handlers can cost


class Calls:
    """Requests that one sidecar's code answers, each in a thread that has nothing else to do meanwhile."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        # Guards how many calls are under way.
        self._lock = threading.Lock()
        self._under_way = 0

    def run(self, what: str, request: Request, work: Callable[[], Response],
            timeout: float | None) -> Response:
        """What `work` returns; the client of `request` waits `timeout` seconds for it, None as long as it takes.

        Raises: the refusals that the work itself chose; Refusal (500) where it failed; Unavailable.
        """
        with self._lock:
            if self._under_way >= MOST_CALLS:
                raise Unavailable(f"{MOST_CALLS} requests keep the sidecar's code busy already")
            self._under_way += 1
        try:
            return self._run(Call(self._guard, what, timeout), request, work)
        finally:
            with self._lock:
                self._under_way -= 1

    def _run(self, call: Call, request: Request, work: Callable[[], Response]) -> Response:
        request.limit_time(call.timeout, call.report_late)
        try:
            result = work()
        except (Refusal, ClientGone):
            call.end()
            raise
        except BaseException as error:  # noqa: BLE001  sys.exit() too
            call.end()
            self._guard.failed(call.what, error)
            raise Refusal("the sidecar's code failed") from None
        if call.end():
            close(result)
        elif not getattr(result, "is_streamed", False):  # a stream has only begun; it says itself how it went
            self._guard.went_well(call.what)
        return result


class Call:
    """One call under way, in the thread that made it."""

    def __init__(self, guard: Guard, what: str, timeout: float | None) -> None:
        self._guard = guard
        self.what = what
        self.timeout = timeout
        self._thread = threading.current_thread()
        # Guards both: a call is either over in time or late.
        self._lock = threading.Lock()
        self._is_over = False
        self._is_late = False

    def report_late(self) -> None:
        """Its client has been told 504; called in another thread."""
        with self._lock:
            if self._is_over:
                return
            self._is_late = True
            stack = cause.place_of(self._thread)
        self._guard.report(self.what, f"{self.what} did not answer within {self.timeout:g} s")
        log.error(f"{self.what} hangs", sidecar=self._guard.name, timeout=self.timeout, stack=stack)

    def end(self) -> bool:
        """True where that was too late: nothing waits for the result."""
        with self._lock:
            self._is_over = True
        if self._is_late:
            log.info(f"{self._guard.name} {self.what} has ended after all")
        return self._is_late
