"""Own paths: the thread that answers and the task of its client, and what each waits for."""

from __future__ import annotations

import sys
import threading

import pytest

from tests.loop.driving import PATIENCE, begin, done, settle, told
from tests.proxy.road import EndedError, Road, answering, echoing, field
from tests.running import wait_until
from wrapper.errors import BadRequest, NotFound
from wrapper.front import own as own_room
from wrapper.front.own import QUEUED_BYTES, SHORT_INTERVAL, SwitchInterval, Talk
from wrapper.http1.message import Response
from wrapper.loop.loop import NEVER
from wrapper.loop.stream import ClientGone

REQUEST = b"GET /sidecar/x HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def own():
    """A port that answers /sidecar/x with what the handler returns."""
    roads = []

    def make(handler, **settings):
        made = Road(answering(), **settings)
        made.site.answers["/sidecar/x"] = handler
        roads.append(made)
        return made

    yield make
    for made in roads:
        made.close()


def upload(size, expects=b""):
    return b"PUT /sidecar/x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n%b\r\n" % (size, expects)


# The talk


@pytest.fixture
def talk(loop):
    return Talk(loop)


def messages(talk, count):
    got = []
    while len(got) < count:
        got.append((yield from talk.next(None, NEVER)))
    return got


def test_what_the_thread_says_is_heard_in_order_and_once(loop, talk):
    for number in range(3):
        talk.tell("piece", number)
    settle(loop)
    answer = begin(loop, messages(talk, 5))[1]
    settle(loop)
    talk.tell("piece", 3)
    talk.tell("end")
    assert answer.get() == [*(("piece", number) for number in range(4)), ("end", None)]


def test_silence_ends_at_the_deadline(loop, talk, clock):
    answer = begin(loop, talk.next(None, clock.now + 5))[1]
    settle(loop)
    clock.pass_by(6)
    assert answer.get() is None
    talk.tell("end")
    assert done(loop, talk.next(None, NEVER)) == ("end", None)


def in_thread(call):
    """What becomes of `call` in a thread."""
    got = []

    def run():
        try:
            got.append(call())
        except Exception as error:  # noqa: BLE001  the test is to see it
            got.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, got


def test_a_thread_waits_until_its_client_has_taken_most_of_what_it_said(loop, talk):
    piece = b"x" * (QUEUED_BYTES // 2)
    said = []

    def put():
        for number in range(5):
            talk.put(piece)
            said.append(number)

    thread, _ = in_thread(put)
    wait_until(lambda: len(said) == 2)
    assert done(loop, messages(talk, 2)) == [("piece", piece)] * 2
    assert said == [0, 1]
    told(loop, talk.took, len(piece))
    wait_until(lambda: len(said) == 3)
    told(loop, talk.took, len(piece) // 2)
    wait_until(lambda: len(said) == 4)
    told(loop, talk.took, 10 * len(piece))
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_an_empty_piece_says_nothing(loop, talk):
    talk.put(b"")
    settle(loop)
    assert not talk.messages


def test_the_end_of_the_talk_frees_a_thread_that_waits_to_speak(loop, talk):
    thread, got = in_thread(lambda: [talk.put(b"x" * QUEUED_BYTES) for _ in range(2)])
    while not talk.messages:
        settle(loop)
    told(loop, talk.close)
    thread.join(PATIENCE)
    assert isinstance(got[0], ClientGone)
    with pytest.raises(ClientGone):
        talk.put(b"x")


def test_the_end_of_the_talk_frees_a_thread_that_waits_for_the_body(loop, talk):
    thread, got = in_thread(lambda: list(talk.pieces()))
    assert done(loop, talk.next(None, NEVER)) == ("more", None)
    told(loop, talk.close)
    thread.join(PATIENCE)
    assert isinstance(got[0], ClientGone)
    with pytest.raises(ClientGone):
        list(talk.pieces())


def test_a_body_is_asked_for_piece_by_piece_as_far_as_it_is_wanted(loop, talk):
    told(loop, talk.give, b"ahead")
    pieces = talk.pieces()
    assert next(pieces) == b"ahead"
    settle(loop)
    assert not talk.messages, "what had come was there without asking"
    thread, got = in_thread(lambda: list(pieces))
    for piece in (memoryview(b"more"), b""):
        assert done(loop, talk.next(None, NEVER)) == ("more", None)
        told(loop, talk.give, piece)
    thread.join(PATIENCE)
    assert got == [[b"more"]]


def test_what_spoils_a_body_is_raised_where_it_is_read(loop, talk):
    told(loop, talk.give, BadRequest("a chunk is malformed"))
    with pytest.raises(BadRequest):
        list(talk.pieces())


def test_the_interpreter_switches_more_often_until_a_long_call_is_done(loop, talk):
    before = sys.getswitchinterval()
    for _ in range(2):
        told(loop, talk.grow_long)
    assert sys.getswitchinterval() < before / 2
    talk.finish()
    assert sys.getswitchinterval() == pytest.approx(before)
    told(loop, talk.grow_long)
    assert sys.getswitchinterval() == pytest.approx(before), "it is over: nothing would take it back"


# The body, on demand


@pytest.mark.parametrize("body", [
    b"Content-Length: 5\r\n\r\nhello", b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000,
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
])
def test_a_body_reaches_the_service_where_its_path_is_none_of_ours_after_all(road, body):
    """What looked like an own path: the route knows another method, or a sidecar that may know it still loads."""
    made = road(echoing)
    made.site.prefixes = ("/",)
    seen = made.ask(b"POST /things HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + body).partition(b"\r\n\r\n")[2]
    assert seen.partition(b"\r\n\r\n")[2] == body.partition(b"\r\n\r\n")[2]
    assert made.site.wait_ended().received >= 5


def test_a_body_that_nothing_reads_is_not_waited_for(own):
    made = own(lambda request: Response(b"unread"))
    line = made.connect().send(upload(10_000_000))
    head, body = line.message()
    assert body == b"unread" and field(head, b"Connection") == b"close"


def test_a_body_is_read_as_it_comes(own):
    got, read = [], threading.Semaphore(0)

    def handler(request):
        stream = request.stream()
        while piece := stream.read(100_000):
            got.append(len(piece))
            read.release()
        return Response(b"all")

    made = own(handler)
    line = made.connect().send(upload(300_000))
    for _ in range(3):
        line.send(b"x" * 100_000)
        assert read.acquire(timeout=PATIENCE)
    assert line.message()[1] == b"all" and got == [100_000] * 3
    assert made.site.wait_ended().received == 300_000


def test_a_body_in_the_smallest_of_chunks_is_read_whole_and_leaves_the_others_their_turn(own):
    count = 150_000

    made = own(lambda request: Response(b"%d" % len(request.body(count))))
    line = made.connect()
    line.send(b"PUT /sidecar/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    line.send(b"1\r\nx\r\n" * count + b"0\r\n\r\n")
    assert line.message()[1] == b"%d" % count
    assert line.send(REQUEST).message()[1] == b"0"
    assert made.site.wait_ended().received == 6 * count + 5


def test_continue_is_said_when_the_body_is_asked_for_and_no_sooner(own):
    go_on, began = threading.Event(), threading.Event()

    def handler(request):
        began.set()
        assert go_on.wait(PATIENCE)
        return Response(request.body())

    line = own(handler).connect().send(upload(2, b"Expect: 100-continue\r\n"))
    assert began.wait(PATIENCE)
    go_on.set()
    assert line.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert line.send(b"hi").message()[1] == b"hi"


def test_continue_is_not_said_where_the_body_is_not_wanted(own):
    line = own(lambda request: Response(b"no")).connect().send(upload(2, b"Expect: 100-continue\r\n"))
    head, body = line.message()
    assert head.startswith(b"HTTP/1.1 200 ") and body == b"no" and field(head, b"Connection") == b"close"


def test_a_client_that_leaves_in_its_body_is_told_to_the_handler(own):
    got, began = [], threading.Event()

    def handler(request):
        began.set()
        try:
            return Response(request.body())
        except ClientGone as error:
            got.append(error)
            raise

    made = own(handler)
    line = made.connect().send(upload(5) + b"he")
    assert began.wait(PATIENCE)
    line.close()
    assert made.site.wait_ended().status == 499
    wait_until(lambda: got)


# The time that an answer may take


def limited(seconds, late, handler):
    def limit(request):
        request.limit_time(seconds, late)
        return handler(request)

    return limit


def test_a_call_past_its_time_is_504_and_told_in_another_thread(own):
    go_on, late = threading.Event(), []
    reported = threading.Event()

    def report():
        late.append(threading.current_thread().name)
        reported.set()

    made = own(limited(0.02, report, lambda request: go_on.wait(PATIENCE) and Response(b"too late")))
    line = made.connect().send(REQUEST)
    assert line.message()[0].startswith(b"HTTP/1.1 504 ")
    assert reported.wait(PATIENCE) and late == ["exposed path"]
    made.site.answers["/sidecar/x"] = lambda request: Response(b"next")
    assert line.send(REQUEST).message()[1] == b"next", "the connection goes on, and hears nothing of what came too late"
    go_on.set()
    assert line.send(REQUEST).message()[1] == b"next"


def test_a_call_past_its_time_is_504_where_no_thread_can_be_had_to_tell(own, monkeypatch):
    began, go_on = threading.Event(), threading.Event()

    def handler(request):
        monkeypatch.setattr(made.server.workers, "_most", made.server.workers.count)
        monkeypatch.setattr(made.server.workers, "_idle", [])
        began.set()
        request.limit_time(0.05, bool)
        assert go_on.wait(PATIENCE)

    made = own(handler)
    line = made.connect().send(REQUEST)
    assert line.message()[0].startswith(b"HTTP/1.1 504 ") and began.is_set()
    go_on.set()


def test_a_call_within_its_time_is_no_late_one(own):
    made = own(limited(PATIENCE, lambda: pytest.fail("it was in time"), lambda request: Response(b"in time")))
    assert made.connect().send(REQUEST).message()[1] == b"in time"


def test_a_body_that_does_not_come_within_that_time_is_408(own, clock):
    late = []
    made = own(limited(5.0, lambda: late.append(1), lambda request: Response(request.body())))
    line = made.connect().send(upload(5, b"Expect: 100-continue\r\n") + b"he")
    assert line.head().startswith(b"HTTP/1.1 100 ")  # the rest of the body is awaited from here on
    clock.now += 6
    settle(made.server.loop)
    assert line.message()[0].startswith(b"HTTP/1.1 408 ") and late == []


def test_an_answer_after_the_client_has_heard_504_is_closed(own):
    go_on, closed = threading.Event(), threading.Event()

    class Body:
        def __iter__(self):
            return iter([b"x" * QUEUED_BYTES] * 3)

        def close(self):
            closed.set()

    made = own(limited(0.02, bool, lambda request: go_on.wait(PATIENCE) and Response(Body())))
    assert made.connect().send(REQUEST).message()[0].startswith(b"HTTP/1.1 504 ")
    go_on.set()
    assert closed.wait(PATIENCE)


# What goes wrong


@pytest.mark.parametrize(("error", "status"), [
    (NotFound("no such thing"), b"404"), (ValueError("oops"), b"500"), (SystemExit(), b"500")])
def test_what_a_handler_raises_is_an_answer(own, error, status):
    def handler(request):
        raise error

    line = own(handler).connect().send(REQUEST)
    head, body = line.message()
    assert head.startswith(b"HTTP/1.1 " + status) and b'"status": ' + status in body
    assert line.send(REQUEST).message()[0].startswith(b"HTTP/1.1 " + status)


def test_where_no_thread_can_be_had_the_answer_is_503(own, monkeypatch):
    made = own(lambda request: Response(b"own"))
    monkeypatch.setattr(made.server.workers, "submit", refuse)
    line = made.connect().send(REQUEST)
    head, _ = line.message()
    assert head.startswith(b"HTTP/1.1 503 ") and field(head, b"Retry-After")
    quick = line.send(b"GET /sidecar/healthz HTTP/1.1\r\nHost: h\r\n\r\n").message()
    assert quick[1] == b"own", "what is quick needs none"


def refuse(job, **words):
    raise own_room.NoThread("none")


def broken_off():
    yield b"part"
    raise SystemExit


def test_a_stream_that_breaks_off_is_reset(own):
    line = own(lambda request: Response(broken_off())).connect().send(REQUEST)
    line.until(b"part")
    assert line.is_reset()


def test_a_stream_that_fails_before_its_first_piece_is_reset_too(own):
    """Its head is out by then."""
    def nothing():
        yield from ()
        raise ValueError

    line = own(lambda request: Response(nothing())).connect().send(REQUEST)
    assert line.head().startswith(b"HTTP/1.1 200 ")
    with pytest.raises((EndedError, ConnectionResetError)):
        line.until(b"0\r\n\r\n")


def test_a_silent_stream_beats_and_its_client_is_watched(own, monkeypatch):
    go_on, closed = threading.Event(), threading.Event()

    class Silent(Response):
        heartbeat = b": beat\n\n"
        heartbeat_interval = 0.01

        def close(self):
            closed.set()

    def silent():
        yield b"first"
        assert go_on.wait(PATIENCE)
        yield b"last"

    made = own(lambda request: Silent(silent()))
    line = made.connect().send(REQUEST)
    line.until(b"first")
    for _ in range(3):
        line.until(b"8\r\n: beat\n\n\r\n")
    line.close()
    assert made.site.wait_ended().status == 200
    go_on.set()
    assert closed.wait(PATIENCE)


# Its share of the loop


MUCH = b"x" * 20_000_000


@pytest.mark.parametrize("body", [lambda: MUCH, lambda: iter([MUCH])])
def test_an_answer_of_any_size_leaves_the_others_their_turn(own, body):
    """A copy of what is left for every piece that the client takes would keep the loop for seconds."""
    made = own(lambda request: Response(body()))
    line = made.connect().send(REQUEST)
    line.head()
    left = len(MUCH) - len(line.rest)
    while left > 0:
        left -= len(line.sock.recv(100_000))


def test_a_port_that_stops_meanwhile_says_so_in_the_answer(own):
    """Else the client would send its next request to what is closed."""
    made = own(lambda request: made.server.stop() or Response(b"last"))
    line = made.connect().send(REQUEST)
    head, body = line.message()
    assert body == b"last" and field(head, b"Connection") == b"close"
    assert line.is_at_end()


def test_the_interval_is_short_until_the_last_that_asked_is_done():
    before, interval = sys.getswitchinterval(), SwitchInterval()
    interval.shorten()
    interval.shorten()
    interval.lengthen()
    assert sys.getswitchinterval() == pytest.approx(SHORT_INTERVAL)
    interval.lengthen()
    assert sys.getswitchinterval() == pytest.approx(before)


def test_an_interval_that_is_shorter_already_stays(monkeypatch):
    chosen = []
    monkeypatch.setattr(sys, "getswitchinterval", lambda: SHORT_INTERVAL / 2)
    monkeypatch.setattr(sys, "setswitchinterval", chosen.append)
    interval = SwitchInterval()
    interval.shorten()
    interval.lengthen()
    assert chosen == [SHORT_INTERVAL / 2, SHORT_INTERVAL / 2]
