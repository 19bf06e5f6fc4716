"""Tasks, waits, interrupts and deadlines in any order, beside a model that knows what each is resumed with."""

import contextlib
import socket
import types

from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.loop.driving import settle, told
from wrapper.loop import loop as loop_room, poller as poller_room
from wrapper.loop.loop import NEVER, STALE_MAX, Loop
from wrapper.loop.poller import Link, Notice
from wrapper.loop.workers import Workers

KINDS = ("first notice", "second notice", "readable", "writable", "ended")
LATER = st.sampled_from([NEVER, NEVER, 1.0, 2.0, 5.0, 60.0])


class Interrupt(Exception):
    pass


class Subject:
    """One task that waits as it is told to, and what the model expects of it."""

    def __init__(self, loop):
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)
        self.link = Link(loop, self.ours.fileno())
        self.order = Notice(loop)
        self.notices = {name: Notice(loop) for name in KINDS[:2]}
        self.next = None  # the wait that it is ordered to
        self.seen = []
        self.task = loop.begin(loop.task(self.steps(), "a subject"))
        # The model
        self.expected = []
        self.is_over = False
        self.sources = None  # what it waits for, None where it waits for an order
        self.deadline = NEVER
        self.given = set()
        self.is_readable = False
        self.is_full = False
        self.has_left = False

    def steps(self):
        while True:
            try:
                while (yield NEVER, self.order) is not self.order:
                    self.seen.append("woken without an order")
                self.order.is_given = False
                if self.next is None:
                    return
                self.seen.append(self.name_of((yield self.next)))
            except Interrupt:
                self.seen.append("interrupt")

    def source(self, kind):
        return self.notices.get(kind) or getattr(self.link, kind)

    def name_of(self, fired):
        return None if fired is None else next(kind for kind in KINDS if self.source(kind) is fired)

    def give_order(self, wait):
        self.next = wait
        self.order.give_now()

    # The model

    def fire(self):
        """What is due already ends the wait: notices first, in order, then what the descriptor says."""
        if self.sources is None:
            return
        due = [kind for kind in self.sources if kind in self.given]
        due += [kind for kind in ("readable", "writable", "ended") if kind in self.sources and self.says(kind)]
        if due:
            self.resume(due[0])

    def says(self, kind):
        return {"readable": self.is_readable or self.has_left, "writable": not self.is_full or self.has_left,
                "ended": self.has_left}[kind]

    def resume(self, value):
        self.expected.append(value)
        self.sources, self.deadline = None, NEVER

    def close(self):
        self.link.close()
        self.ours.close()
        self.theirs.close()


class Machine(RuleBasedStateMachine):
    subjects = Bundle("subjects")

    @initialize()
    def start(self):
        self.now = 1000.0
        self.real = loop_room.time
        loop_room.time = poller_room.time = types.SimpleNamespace(monotonic=lambda: self.now)
        self.loop = Loop("a machine's port", Workers("a machine's worker", 1))
        self.loop.start()
        self.made = []

    @rule(target=subjects)
    def make(self):
        self.made.append(told(self.loop, Subject, self.loop))
        return self.made[-1]

    @rule(subject=subjects, later=LATER, kinds=st.lists(st.sampled_from(KINDS), unique=True, max_size=4))
    def wait(self, subject, later, kinds):
        if subject.is_over or subject.sources is not None or not (kinds or later < NEVER):
            return
        deadline = self.now + later
        told(self.loop, subject.give_order, (deadline, *map(subject.source, kinds)))
        subject.sources, subject.deadline = kinds, deadline
        subject.fire()

    @rule(subject=subjects)
    def give_up_its_turn(self, subject):
        if not subject.is_over and subject.sources is None:
            told(self.loop, subject.give_order, loop_room.NEXT_TURN)
            subject.expected.append(None)

    @rule(subject=subjects, kind=st.sampled_from(KINDS[:2]), is_posted=st.booleans())
    def give(self, subject, kind, is_posted):
        notice = subject.notices[kind]
        notice.give() if is_posted else told(self.loop, notice.give_now)
        subject.given.add(kind)
        subject.fire()

    @rule(subject=subjects)
    def send(self, subject):
        if not subject.has_left:
            with contextlib.suppress(BlockingIOError):
                subject.theirs.send(b"x")
            subject.is_readable = True
            subject.fire()

    @rule(subject=subjects)
    def read(self, subject):
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while subject.ours.recv(65536):
                pass
        subject.is_readable = False

    @rule(subject=subjects)
    def fill(self, subject):
        if not subject.has_left:
            with contextlib.suppress(BlockingIOError):
                while True:
                    subject.ours.send(b"x" * 65536)
            subject.is_full = True

    @rule(subject=subjects)
    def empty(self, subject):
        if not subject.has_left:
            with contextlib.suppress(BlockingIOError):
                while subject.theirs.recv(65536):
                    pass
            subject.is_full = False
            subject.fire()

    @rule(subject=subjects)
    def leave(self, subject):
        subject.theirs.close()
        subject.has_left = True
        subject.fire()

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 70.0]))
    def pass_time(self, seconds):
        self.now += seconds
        settle(self.loop)
        for subject in self.made:
            if subject.sources is not None and subject.deadline <= self.now:
                subject.resume(None)

    @rule(subject=subjects, is_posted=st.booleans())
    def interrupt(self, subject, is_posted):
        if is_posted:
            self.loop.post(subject.task.interrupt, Interrupt())
        else:
            told(self.loop, subject.task.interrupt, Interrupt())
        if not subject.is_over:
            subject.resume("interrupt")

    @rule(subject=subjects, later=LATER)
    def interrupt_what_is_about_to_go_on(self, subject, later):
        """In one step: it is given what it waits for, and before its turn comes it is interrupted."""
        if subject.is_over or subject.sources is not None:
            return

        def give_and_interrupt():
            subject.notices[KINDS[0]].is_given = True
            subject.give_order((self.now + later, *map(subject.source, KINDS)))
            subject.task.interrupt(Interrupt())

        told(self.loop, give_and_interrupt)
        subject.given.add(KINDS[0])
        subject.resume("interrupt")

    @rule(subject=subjects)
    def end(self, subject):
        if not subject.is_over and subject.sources is None:
            told(self.loop, subject.give_order, None)
            subject.is_over = True

    @rule(subject=consumes(subjects))
    def forget(self, subject):
        told(self.loop, subject.task.interrupt, KeyError("unheard"))
        subject.is_over, subject.sources = True, None
        told(self.loop, subject.close)

    @rule(count=st.sampled_from([10, STALE_MAX]))
    def crowd_that_ends_before_its_deadline(self, count):
        def steps(notice):
            yield self.now + 60, notice

        def crowd():
            for _ in range(count):
                notice = Notice(self.loop)
                self.loop.begin(self.loop.task(steps(notice), "one of a crowd"))
                notice.give_now()

        told(self.loop, crowd)

    @invariant()
    def each_was_resumed_with_what_the_model_says(self):
        if not hasattr(self, "loop"):
            return
        settle(self.loop)
        for subject in self.made:
            assert subject.seen == subject.expected
            assert subject.task.is_over == subject.is_over == subject.task.ended.is_given
        assert self.loop.tasks == {subject.task for subject in self.made if not subject.is_over}
        assert len(self.loop._deadlines) <= 2 * len(self.made) + STALE_MAX + 3
        assert not self.loop.ready and self.loop.epoll.poll(0) == [], "it would spin"

    def teardown(self):
        if hasattr(self, "loop"):
            self.loop.stop()
            loop_room.time = poller_room.time = self.real
            for subject in self.made:
                subject.close()


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
