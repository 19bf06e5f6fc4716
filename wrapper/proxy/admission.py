"""How an exchange, or an h2c passthrough, is admitted at the gate, and what the gate tells it after that."""

from __future__ import annotations

from wrapper.loop.poller import Notice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.gate import Gate, Lane
    from wrapper.loop.loop import Steps, Task
    from wrapper.loop.stream import Stream


class Cut(Exception):
    """The time to drain is over."""


class Travelling:
    """Something on its way through `gate` to a run of the service, for the client at `client`."""

    may_last = True  # see `gate.Traveller`
    lane: Lane | None = None
    held = 0.0  # seconds it has waited at the gate
    going = ""  # why it should end soon
    _verdict: Notice | None = None
    _warning: Notice | None = None

    def __init__(self, task: Task, client: Stream, gate: Gate) -> None:
        self.loop = client.loop
        self.client = client
        self.gate = gate
        self._task = task

    # For the gate, from any thread

    def proceed(self) -> None:
        self.loop.post(self._hear_verdict)

    def warn(self, going: str) -> None:
        self.loop.post(self._hear_warning, going)

    def cut(self) -> None:
        """Raise Cut where it waits."""
        self.loop.post(self._hear_cut)

    def _hear_verdict(self) -> None:
        if self._verdict is not None:
            self._verdict.give_now()

    def _hear_warning(self, going: str) -> None:
        self.going = going
        if self._warning is not None:
            self._warning.give_now()

    def _hear_cut(self) -> None:
        if self.lane is not None:
            self._task.interrupt(Cut())

    # For the road

    def enter(self) -> Steps:
        """The lane to take, after a wait where that is needed. Raises: the gate's refusal; ClientGone."""
        self.lane = self.gate.admit(self) or (yield from self._wait_at_gate())
        return self.lane

    def _wait_at_gate(self) -> Steps:
        began, self._verdict = self.loop.now, Notice(self.loop)
        try:
            yield from self.client.watch(began + self.gate.hold_timeout - self.held, self._verdict)
        except BaseException:
            if (lane := self.gate.forget(self)) is not None:
                self.gate.leave(lane, self)
            raise
        finally:
            self.held += self.loop.now - began
        return self.gate.collect(self, self.held)

    def mark_lasting(self, is_deaf: bool = False) -> None:
        """Tell the gate that this may last for hours from here on; `is_deaf`: its client cannot be told to leave."""
        if self.lane is not None:
            self.gate.mark_lasting(self.lane, self, is_deaf)

    def leave(self) -> None:
        """Leave the lane, however the exchange ended; nothing happens where it has none."""
        lane, self.lane = self.lane, None
        if lane is not None:
            self.gate.leave(lane, self)

    def warning(self) -> Notice:
        """A notice that is given as soon as `going` is set."""
        if self._warning is None:
            self._warning = Notice(self.loop)
            self._warning.is_given = bool(self.going)
        return self._warning
