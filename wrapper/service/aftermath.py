"""What follows when the service cannot be started or ends by itself: somebody mends it, another start, or the end."""

from __future__ import annotations

from wrapper.deadline import Deadline
from wrapper.service.state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.gate import Gate
    from wrapper.problems import Board
    from wrapper.service.policy import Policy
    from wrapper.service.state import Life


class Aftermath:
    """Only the controller's thread comes here, but for `is_on_trial`.

    What goes wrong on trial, whoever asked for it, leaves the service failed and requests held, for whoever tries
    something out to mend it; the policy decides once the trial is over.
    """

    def __init__(self, life: Life, gate: Gate, policy: Policy, board: Board, source: str) -> None:
        self.next_try: Deadline | None = None
        self.is_on_trial = False  # True from `Controller.begin_trial` or a tentative action up to `end_trial`
        self.last_status: int | None = None  # the exit status of what the policy gave up on
        self._life = life
        self._gate = gate
        self._policy = policy
        self._board = board
        self._source = source
        self._undecided: int | None = None  # the exit status of what went wrong on trial

    def forget(self) -> None:
        """Somebody starts or stops the service: what went wrong before needs no decision any more."""
        self.next_try = self._undecided = self.last_status = None

    @property
    def is_due(self) -> bool:
        """True where a trial is over that left the service ended."""
        return self._undecided is not None and not self.is_on_trial

    def report(self, fault: str) -> str:
        self._board.report(self._source, fault)
        return fault

    def fail(self, fault: str) -> None:
        """The service is not as it should be, whether it runs or not."""
        self.report(fault)
        if self.is_on_trial:
            self._gate.hold(f"the service is being mended: {fault}")
        else:
            self._gate.refuse(f"the service failed: {fault}")
        self._life.turn(State.FAILED, fault)

    def stay_late(self) -> None:
        """The service runs and still is not ready; those who were held for its mending wait in vain."""
        if not self.is_on_trial:
            self._gate.refuse(f"the service failed: {self._life.reason}")

    def fall(self, fault: str, exit_status: int, ready_seconds: float) -> None:
        """No run is left, and nobody had asked for that."""
        if self.is_on_trial:
            self._undecided = exit_status
            self.fail(fault)
        else:
            self.report(fault)
            self._decide(fault, exit_status, ready_seconds)

    def decide(self) -> None:
        """The trial is over."""
        assert self._undecided is not None
        self._decide(self._life.reason, self._undecided, 0.0)

    def _decide(self, fault: str, exit_status: int, ready_seconds: float) -> None:
        self._undecided = None
        pause = self._policy.pause(exit_status, ready_seconds)
        if pause is None:
            self._gate.refuse(fault)
            if self._life.state is not State.FAILED:
                self._life.turn(State.FAILED, fault)
            self.last_status = exit_status
            return
        self.next_try = Deadline(pause)
        self._gate.hold(f"{fault} and is started again")
        self._life.turn(State.BACKOFF, f"{fault}; next start in {pause:.1f} s")
