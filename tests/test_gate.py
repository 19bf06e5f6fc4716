"""gate.py: admit, hold, drain. No socket, no process."""

from __future__ import annotations

import threading

import pytest

from tests.loop.driving import held
from tests.running import drain, wait_until
from wrapper.deadline import Deadline
from wrapper.errors import GatewayTimeout, Refusal, Unavailable
from wrapper.gate import BATCH_INTERVAL, FIRST_BATCH, Gate
from wrapper.loop.loop import Loop
from wrapper.loop.workers import Workers
from wrapper.settings.address import tcp

PLACE = tcp("127.0.0.1", 1)


@pytest.fixture(scope="module", autouse=True)
def loop():
    Traveller.loop = Loop("test", Workers("test", 1))
    Traveller.loop.start()
    yield
    Traveller.loop.stop()


class Road:
    def __init__(self, address):
        self.address = address
        self.is_closed = False

    def close(self):
        self.is_closed = True


class Traveller:
    may_last = False

    def __init__(self, gate, name="", order=None):
        """`order` gets the names of those that are let in."""
        self.gate = gate
        self.name = name
        self.order = [] if order is None else order
        self.over = threading.Event()
        self.warned = []
        self.was_cut = False
        self.lane = self.refusal = None

    def proceed(self):
        self.order.append(self.name)
        try:
            self.lane = self.gate.collect(self, 0.0)
        except Refusal as refusal:
            self.refusal = refusal
        self.over.set()

    def warn(self, going):
        self.warned.append(going)

    def cut(self):
        self.was_cut = True
        self.gate.leave(self.lane, self)

    def go(self):
        self.lane = self.gate.admit(self)
        return self


def gate(hold=30.0, most=1000):
    return Gate(Road, hold, most)


def test_a_new_gate_is_shut():
    with pytest.raises(Unavailable):
        gate().admit(Traveller(None))


def test_an_open_gate_admits_and_counts():
    subject = gate()
    subject.open(PLACE)
    one = Traveller(subject).go()
    assert one.lane.upstream.address is PLACE
    assert subject.in_flight == 1
    subject.leave(one.lane, one)
    assert subject.in_flight == 0


def test_the_held_go_through_in_order_when_the_gate_opens():
    subject = gate()
    subject.hold("test")
    order = []
    waiting = [Traveller(subject, n, order).go() for n in range(100)]
    assert subject.held == 100
    assert all(each.lane is None for each in waiting)
    subject.open(PLACE)
    assert all(each.over.wait(5) for each in waiting)
    assert order == list(range(100))
    assert subject.in_flight == 100


def test_those_that_may_last_go_through_behind_the_others():
    """A restart that thousands of WebSockets answer by coming back at once keeps no plain request waiting for them."""
    subject = gate()
    subject.hold("test")
    order = []
    waiting = [Traveller(subject, n, order) for n in range(4 * FIRST_BATCH)]
    for each in waiting:
        each.may_last = each.name % 4 != 3
        each.go()
    subject.open(PLACE)
    assert all(each.over.wait(5) for each in waiting)
    assert order == sorted(range(4 * FIRST_BATCH), key=lambda n: n % 4 != 3)


def test_the_held_are_paced():
    """All at once would knock the fresh service over: a few at first, then twice as many each time."""
    subject, clock = gate(), Clock()
    subject.hold("test")
    waiting = [Traveller(subject) for _ in range(FIRST_BATCH * 3 + 1)]
    for each in waiting:
        each.loop = clock
        each.go()
    subject.open(PLACE)
    counts = []
    for _ in range(5):
        clock.advance(0.6 * BATCH_INTERVAL)
        counts.append(sum(each.over.is_set() for each in waiting))
    assert counts == [FIRST_BATCH, FIRST_BATCH * 3, FIRST_BATCH * 3, FIRST_BATCH * 3 + 1, FIRST_BATCH * 3 + 1]


def test_newcomers_queue_behind_the_held():
    subject = gate()
    subject.hold("test")
    waiting = [Traveller(subject).go() for _ in range(FIRST_BATCH * 4)]
    with held(Traveller.loop):
        subject.open(PLACE)
        late = Traveller(subject).go()
        assert late.lane is None
    assert late.over.wait(5)
    assert all(each.over.is_set() for each in waiting)


def test_a_wait_ends_with_504_and_the_reason():
    subject = gate()
    subject.hold("the service restarts: test")
    one = Traveller(subject).go()
    with pytest.raises(GatewayTimeout, match="the service restarts: test; this request was held for 2.5 s"):
        subject.collect(one, 2.5)
    assert subject.held == 0


def test_hold_0_refuses_at_once():
    subject = gate(hold=0)
    subject.hold("the service is starting")
    with pytest.raises(Unavailable, match="starting"):
        subject.admit(Traveller(subject))


def test_a_gate_that_is_full_says_so_and_nothing_of_an_earlier_start():
    subject = Gate(Road, 0.0, 1000, 1)
    subject.open(PLACE)
    subject.admit(Traveller(subject))
    with pytest.raises(Unavailable, match="the service is busy"):
        subject.admit(Traveller(subject))
    subject.pause("a deployment")
    with pytest.raises(Unavailable, match="a deployment"):
        subject.admit(Traveller(subject))


def test_too_many_are_refused_with_retry_after():
    subject = gate(most=2)
    subject.hold("test")
    Traveller(subject).go()
    Traveller(subject).go()
    with pytest.raises(Unavailable) as refusal:
        subject.admit(Traveller(subject))
    assert ("Retry-After", "1") in refusal.value.headers


def test_one_who_leaves_frees_the_place_and_hears_nothing_more():
    subject = gate(most=1)
    subject.hold("test")
    one = Traveller(subject).go()
    assert subject.forget(one) is None
    other = Traveller(subject).go()
    subject.open(PLACE)
    assert other.over.wait(5)
    assert not one.over.is_set()


def test_one_who_leaves_while_it_is_let_in_hears_which_lane_to_leave():
    subject = gate()
    subject.hold("test")

    class Deaf(Traveller):
        def proceed(self):
            self.over.set()

    one = Deaf(subject).go()
    subject.open(PLACE)
    assert one.over.wait(5)
    lane = subject.forget(one)
    assert one in lane.inside and subject.forget(one) is None
    subject.leave(lane, one)
    assert subject.in_flight == 0


def test_refuse_answers_those_who_wait():
    subject = gate()
    subject.hold("test")
    one = Traveller(subject).go()
    subject.refuse("the service is stopped")
    assert one.over.wait(5)
    assert isinstance(one.refusal, Unavailable)
    with pytest.raises(Unavailable, match="stopped"):
        subject.admit(Traveller(subject))


def test_drain_waits_for_those_inside():
    class Leaving(Traveller):
        def warn(self, going):
            super().warn(going)
            threading.Timer(0.05, subject.leave, (lane, self)).start()

    subject = gate()
    subject.open(PLACE)
    one = Leaving(subject).go()
    lane = subject.hold("restart")
    assert drain(subject, lane, Deadline(60), "restart") is True
    assert one.warned == ["restart"]
    assert one.was_cut is False
    assert lane.upstream.is_closed


def test_drain_cuts_who_is_still_there_at_the_end():
    subject = gate()
    subject.open(PLACE)
    one = Traveller(subject).go()
    lane = subject.hold("restart")
    assert drain(subject, lane, Deadline(0.05), "restart") is False
    assert one.was_cut
    assert subject.in_flight == 0


def test_a_drain_can_be_hurried():
    subject = gate()
    subject.open(PLACE)
    one = Traveller(subject).go()
    lane = subject.refuse("shutdown")
    found = []
    draining = threading.Thread(target=lambda: found.append(drain(subject, lane, Deadline(None), "shutdown")))
    draining.start()
    subject.hurry()
    draining.join(20)
    assert found == [False]
    assert one.was_cut


def test_two_lanes_overlap():
    """New ones take the new lane while the old one drains; both count as in flight."""
    subject = gate()
    subject.open(PLACE)
    old = Traveller(subject).go()
    before = subject.open(tcp("127.0.0.1", 2))
    assert before is old.lane
    new = Traveller(subject).go()
    assert new.lane is not old.lane
    drained = threading.Thread(target=drain, args=(subject, before, Deadline(5), "restart"))
    drained.start()
    wait_until(lambda: old.warned)
    assert subject.in_flight == 2
    subject.leave(old.lane, old)
    drained.join(5)
    assert not drained.is_alive()
    assert new.warned == []


class Clock:
    """A loop whose time is the test's."""

    def __init__(self):
        self.now, self.tasks = 100.0, []

    def spawn(self, steps, name):
        self.tasks.append([self.now, steps])

    def advance(self, seconds):
        end = self.now + seconds
        while self.tasks and (first := min(self.tasks, key=lambda task: task[0]))[0] <= end:
            self.now = max(self.now, first[0])
            try:
                (first[0],) = next(first[1])
            except StopIteration:
                self.tasks.remove(first)
        self.now = end


@pytest.fixture
def leaving():
    """A lane that is no longer the open one, with ten that last, one that does not, and one that cannot be told."""
    subject, clock = gate(), Clock()
    subject.open(PLACE)
    travellers = [Traveller(subject).go() for _ in range(12)]
    for each in travellers:
        each.loop = clock
    for each in travellers[:11]:
        subject.mark_lasting(each.lane, each, is_deaf=each is travellers[10])
    return subject, subject.open(tcp("127.0.0.1", 2)), clock, travellers[:10], travellers[10:]


def test_those_that_last_are_told_one_after_the_other(leaving):
    """Their clients come back as soon as they are told, and not as one crowd."""
    subject, lane, clock, lasting, others = leaving
    subject.warn(lane, "restart", 10.0)
    assert [each.warned for each in others] == [["restart"]] * 2
    counts = []
    for _ in range(10):
        clock.advance(0.5)
        counts.append(sum(len(each.warned) for each in lasting))
        clock.advance(0.5)
    assert counts == list(range(1, 11))
    assert not clock.tasks


def test_the_end_tells_those_at_once_that_were_to_be_told_later(leaving):
    subject, lane, clock, lasting, others = leaving
    subject.warn(lane, "restart", 10.0)
    clock.advance(3.5)
    subject.warn(lane, "shutdown")
    clock.advance(20)
    assert sorted(word for each in lasting for word in each.warned) == ["restart"] * 4 + ["shutdown"] * 6
    assert [len(each.warned) for each in lasting + others] == [1] * 12
    assert not clock.tasks


def test_a_refusal_is_each_request_s_own():
    """One exception raised for many would gather all their tracebacks, and keep what they hold."""
    subject = gate()
    refusals = []
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            subject.admit(Traveller(subject))
        refusals.append(caught.value)
    assert refusals[0] is not refusals[1]


def test_storm():
    """Travellers come, wait, leave and give up while the gate opens and shuts: every one hears exactly once."""
    subject = gate()
    subject.hold("test")
    heard, lock = [0] * 800, threading.Lock()

    class Counted(Traveller):
        def proceed(self):
            with lock:
                if (lane := subject.forget(self)) is not None:
                    heard[self.name] += 1
                    subject.leave(lane, self)

    def travel(first):
        for name in range(first, first + 200):
            one = Counted(subject, name)
            lane = subject.admit(one)
            if lane is not None:
                heard[name] += 1
                subject.leave(lane, one)
            elif name % 7 == 0:
                with lock:
                    if not heard[name]:
                        heard[name] += 1
                        if (lane := subject.forget(one)) is not None:
                            subject.leave(lane, one)

    threads = [threading.Thread(target=travel, args=(first,)) for first in range(0, 800, 200)]
    for thread in threads:
        thread.start()
    for number in range(50):
        subject.open(tcp("127.0.0.1", number + 1))
        drain(subject, subject.hold("again"), Deadline(5), "restart")
    for thread in threads:
        thread.join(30)
    subject.open(PLACE)
    wait_until(lambda: not subject.held)
    wait_until(lambda: all(count == 1 for count in heard))


class Run:
    is_over = False

    def has_fallen(self):
        return self.is_over


def test_a_run_that_has_ended_before_the_gate_opens_is_lost_too():
    subject, run = gate(), Run()
    run.is_over = True
    subject.lose(run)
    subject.open(PLACE, run)
    assert not subject.is_open


def test_a_run_that_ended_is_lost_at_once_and_only_its_own_lane():
    subject = gate()
    old, new = Run(), Run()
    subject.open(PLACE, old)
    lane = subject.open(PLACE, new)
    subject.lose(old)
    assert subject.is_open
    subject.lose(new)
    assert not subject.is_open
    waiting = Traveller(subject).go()
    assert waiting.lane is None
    subject.refuse("for good")
    subject.lose(new)
    assert waiting.over.wait(5)
    assert lane is not None


# A pause, and a service that gets only so many at a time


def test_a_pause_holds_everything_until_it_is_over():
    subject = gate()
    subject.open(PLACE)
    number = subject.pause("a migration")
    one = Traveller(subject).go()
    assert one.lane is None and subject.paused == "a migration"
    subject.open(tcp("127.0.0.1", 2))
    later = Traveller(subject).go()
    assert later.lane is None, "a restart does not end the pause"
    subject.resume(number)
    assert one.over.wait(5) and later.over.wait(5)
    assert one.lane.upstream.address.port == 2 and not subject.paused


def test_the_end_of_an_earlier_pause_does_not_end_a_later_one():
    subject = gate()
    subject.open(PLACE)
    first = subject.pause("one")
    subject.pause("two")
    assert not subject.resume(first)
    assert subject.paused == "two"
    assert subject.resume()
    assert not subject.resume(), "there is none any more, and its end is told once"
    assert subject.admit(Traveller(subject)) is not None


def test_only_so_many_are_on_the_road_and_the_others_wait_in_order():
    subject = Gate(Road, 30.0, 1000, 2)
    subject.open(PLACE)
    inside = [Traveller(subject).go() for _ in range(2)]
    waiting = [Traveller(subject).go() for _ in range(3)]
    assert [each.lane for each in waiting] == [None] * 3 and subject.in_flight == 2
    subject.leave(inside[0].lane, inside[0])
    assert waiting[0].over.wait(5) and not waiting[1].over.is_set()
    subject.leave(waiting[0].lane, waiting[0])
    assert waiting[1].over.wait(5) and not waiting[2].over.is_set()


def test_what_lasts_takes_no_place_of_those_on_the_road():
    subject = Gate(Road, 30.0, 1000, 1)
    subject.open(PLACE)
    tunnel, one = Traveller(subject).go(), Traveller(subject).go()
    assert one.lane is None
    subject.mark_lasting(tunnel.lane, tunnel, False)
    assert one.over.wait(5) and subject.in_flight == 2


def test_a_wait_for_a_busy_service_says_so():
    subject = Gate(Road, 30.0, 1000, 1)
    subject.open(PLACE)
    Traveller(subject).go()
    with pytest.raises(GatewayTimeout, match="the service is busy"):
        subject.collect(Traveller(subject).go(), 1.0)


def test_a_drain_does_not_wait_for_what_cannot_be_told_to_leave():
    """HTTP/2 that is passed through: the service says goodbye to it, when the signal has come."""
    subject = gate()
    subject.open(PLACE)
    deaf = Traveller(subject).go()
    subject.mark_lasting(deaf.lane, deaf, True)
    lane = subject.hold("restart")
    subject.warn(lane, "restart")
    assert subject.await_empty(lane, Deadline(30))
    subject.cut(lane)
    assert deaf.was_cut


def test_the_peaks_since_the_last_look_are_kept():
    """A second in which a hundred came and went must not look empty at its end."""
    gate = Gate(Road, 10.0, 10)
    gate.hold("a test")
    held = [Traveller(gate) for _ in range(3)]
    for each in held:
        gate.admit(each)
    gate.forget(held.pop())
    with pytest.raises(GatewayTimeout):
        gate.collect(held.pop(), 3.5)
    gate.open(PLACE)
    assert held[0].over.wait(5)
    for _ in range(2):
        passing = Traveller(gate)
        gate.leave(gate.admit(passing), passing)
    peaks = gate.take_peaks()
    assert (peaks.held, peaks.in_flight, peaks.waits, peaks.longest_wait) == (3, 2, 2, 3.5)
    again = gate.take_peaks()
    assert (again.held, again.in_flight, again.waits, again.longest_wait) == (0, 1, 0, 0.0)
