"""shortage.py: what is done, and said, where descriptors run short."""

import threading

import pytest

from tests.proxy.road import GET, OK, field
from tests.running import wait_until
from wrapper import sockets


@pytest.fixture
def few_left(monkeypatch):
    """An event: while it is set, every descriptor is one of the last."""
    is_set = threading.Event()
    monkeypatch.setattr(sockets, "is_reserved", lambda *_: is_set.is_set())
    return is_set


def test_clients_leave_a_few_descriptors_to_the_wrapper(road, few_left):
    """Without one, ctl and health are not answered, and no run of the service is started."""
    has_come, go_on = threading.Event(), threading.Event()

    def script(line):
        while True:
            line.head()
            has_come.set()
            assert go_on.wait(10)
            line.send(OK)

    made = road(script)
    made.service.closed = True  # its scripts end with the test
    line = made.connect().send(GET)
    assert has_come.wait(10)  # in flight it is before it has its descriptor to the service
    few_left.set()
    newcomer = made.connect().send(GET)
    head = newcomer.head()
    assert head.startswith(b"HTTP/1.1 503 ") and field(head, b"Retry-After")
    wait_until(lambda: made.site.short == {"descriptors": True})
    go_on.set()
    assert line.message()[1] == b"ok", "what is there already goes on"
    few_left.clear()
    assert made.connect().send(GET).message()[1] == b"ok"


def test_the_longest_idle_make_room_for_newcomers_where_descriptors_run_short(road, few_left):
    """As nginx does: a connection that carries nothing loses nothing."""
    made = road()
    idle = []
    for count in range(12):
        idle.append(made.connect().send(GET))
        idle[-1].message()
        wait_until(lambda count=count: len(made.server.idle) == count + 1)
    wait_until(lambda: len(made.server.idle) == 12)
    few_left.set()
    made.service.closed = True
    newcomer = made.connect()
    wait_until(lambda: made.server.connections == 5)
    assert [line.is_at_end() for line in idle[:8]] == [True] * 8
    few_left.clear()
    assert newcomer.send(GET).message()[0].startswith(b"HTTP/1.1 200 ")
    assert idle[8].send(GET).message()[0].startswith(b"HTTP/1.1 200 ")
