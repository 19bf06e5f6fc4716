"""One end of a connection on the loop: what comes in, what goes out, and the other side that leaves."""

import socket

import pytest

from tests.loop.driving import PATIENCE, End, done, settle, told
from wrapper.loop.loop import NEVER
from wrapper.loop.poller import Notice
from wrapper.loop.stream import LEAVE_TIMEOUT, ClientGone, Gone, ServiceGone, Stream

MUCH = bytes(range(256)) * 20_000  # more than the buffers of a socket take


@pytest.fixture(params=[ClientGone, ServiceGone])
def ends(loop, request):
    made = End(loop, request.param)
    made.gone = request.param
    yield made
    made.close()


# In


def test_what_has_come_is_taken_at_most_so_much_at_a_time(ends):
    assert ends.tell(ends.stream.receive) is None
    ends.theirs.send(b"hello")
    assert ends.tell(ends.stream.receive, 3) == b"hel"
    assert ends.tell(ends.stream.receive) == b"lo"
    assert ends.tell(ends.stream.receive) is None
    assert not ends.stream.has_unseen() and ends.stream.shake_hands() and not ends.stream.is_secure
    ends.theirs.shutdown(socket.SHUT_WR)
    assert [ends.tell(ends.stream.receive) for _ in range(2)] == [b"", b""]


def test_what_has_come_is_put_into_a_view(ends):
    view = memoryview(bytearray(3))
    assert ends.tell(ends.stream.receive_into, view) is None
    ends.theirs.send(b"hello")
    assert ends.tell(ends.stream.receive_into, view) == 3 and view == b"hel"
    assert ends.tell(ends.stream.receive_into, view) == 2 and view[:2] == b"lo"
    ends.theirs.shutdown(socket.SHUT_WR)
    assert ends.tell(ends.stream.receive_into, view) == 0


@pytest.mark.parametrize("step", [
    lambda stream: stream.receive(), lambda stream: stream.receive_into(memoryview(bytearray(9))),
    lambda stream: [stream.send(b"x") for _ in range(2)]])
def test_a_break_is_told_as_the_side_that_it_was(ends, step):
    ends.tell(ends.stream.send, b"unread, so that the close is a reset")
    ends.theirs.close()
    with pytest.raises(ends.gone) as caught:
        ends.tell(step, ends.stream)
    assert isinstance(caught.value, (Gone, OSError))


# Out


def test_what_the_socket_has_no_room_for_is_kept_and_goes_first(ends):
    assert ends.tell(ends.stream.send, b"small")
    assert not ends.tell(ends.stream.send, MUCH)
    assert 0 < len(ends.stream.unsent) < len(MUCH)
    buffer = bytearray(b", then this")
    assert not ends.tell(ends.stream.send, memoryview(buffer))
    buffer[:] = b"overwritten"
    assert not ends.tell(ends.stream.send, b", and this")
    answer = ends.begin(ends.stream.flush())
    whole = b"small" + MUCH + b", then this, and this"
    assert ends.take(len(whole)) == whole
    answer.get()
    assert ends.stream.unsent == b"" and ends.tell(ends.stream.send, b"x") and ends.take(1) == b"x"


def test_nothing_to_send_is_sent_at_once(ends):
    assert ends.tell(ends.stream.send, b"") and ends.tell(ends.stream.send, memoryview(b""))
    assert done(ends.loop, ends.stream.flush()) is None


def test_who_takes_nothing_has_left(ends, clock):
    """The time is of each step: who takes a little at a time may take as long as it likes."""
    ends.tell(ends.stream.send, MUCH)
    answer = ends.begin(ends.stream.flush(10))
    for _ in range(3):
        clock.pass_by(9)
        before = len(ends.stream.unsent)
        while len(ends.stream.unsent) == before:
            ends.theirs.recv(65536)
            settle(ends.loop)
    clock.pass_by(9)
    settle(ends.loop)
    assert ends.stream.unsent
    clock.pass_by(2)
    with pytest.raises(ends.gone, match="too long"):
        answer.get()


def test_who_breaks_while_something_waits_to_be_sent_has_left(ends):
    ends.tell(ends.stream.send, MUCH)
    answer = ends.begin(ends.stream.flush())
    ends.theirs.close()
    with pytest.raises(ends.gone):
        answer.get()


# The other side is watched


def test_what_is_waited_for_comes_while_the_other_side_stays(ends):
    notice = Notice(ends.loop)
    answer = ends.begin(ends.stream.watch(NEVER, notice))
    ends.theirs.send(b"more, which is none of its business")
    settle(ends.loop)
    notice.give()
    assert answer.get() is notice


def test_a_deadline_passes_while_the_other_side_stays(ends, clock):
    answer = ends.begin(ends.stream.watch(clock.now + 5, Notice(ends.loop)))
    clock.pass_by(6)
    assert answer.get() is None


def test_a_side_that_has_ended_gets_a_moment_and_what_comes_in_it(ends, clock):
    """It may only have half-closed (`nc -N`)."""
    notice = Notice(ends.loop)
    ends.theirs.shutdown(socket.SHUT_WR)
    answer = ends.begin(ends.stream.watch(NEVER, notice))
    clock.pass_by(LEAVE_TIMEOUT / 2)
    notice.give()
    assert answer.get() is notice


def test_a_side_that_has_ended_has_left_after_that_moment(ends, clock):
    answer = ends.begin(ends.stream.watch(NEVER, Notice(ends.loop)))
    ends.theirs.shutdown(socket.SHUT_WR)
    settle(ends.loop)
    clock.pass_by(LEAVE_TIMEOUT + 0.01)
    with pytest.raises(ends.gone):
        answer.get()


def test_a_deadline_within_that_moment_is_a_deadline(ends, clock):
    ends.theirs.shutdown(socket.SHUT_WR)
    answer = ends.begin(ends.stream.watch(clock.now + LEAVE_TIMEOUT / 2, Notice(ends.loop)))
    clock.pass_by(LEAVE_TIMEOUT * 0.75)
    assert answer.get() is None


def test_a_side_that_is_broken_has_left_at_once(ends, clock):
    answer = ends.begin(ends.stream.watch(NEVER, Notice(ends.loop)))
    ends.theirs.close()
    with pytest.raises(ends.gone):
        answer.get()


def test_a_break_that_came_before_anything_waited_is_seen(ends, clock):
    """By then the loop has left it out."""
    ends.theirs.close()
    settle(ends.loop)
    with pytest.raises(ends.gone):
        done(ends.loop, ends.stream.watch(NEVER, Notice(ends.loop)))


# The end


def test_the_end_of_our_side_leaves_the_other_one_open(ends):
    ends.tell(ends.stream.finish_writing)
    assert ends.theirs.recv(1) == b""
    ends.theirs.send(b"still")
    assert ends.tell(ends.stream.receive) == b"still"
    ends.theirs.close()
    ends.tell(ends.stream.finish_writing)  # twice, and of what is broken


def test_a_close_forgets_the_descriptor(ends):
    number = ends.stream.link.fd
    assert number in ends.loop.links
    ends.tell(ends.stream.close)
    ends.tell(ends.stream.close)
    assert number not in ends.loop.links and ends.theirs.recv(1) == b""
    ends.tell(ends.stream.reset)


def test_a_reset_is_seen_as_one(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as theirs:
        stream = told(loop, Stream, listener.accept()[0], loop, ClientGone)
        told(loop, stream.send, b"x")
        assert theirs.recv(1) == b"x"
        told(loop, stream.reset)
        told(loop, stream.close)
        theirs.settimeout(PATIENCE)
        with pytest.raises(ConnectionResetError):
            theirs.recv(1)
