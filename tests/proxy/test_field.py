"""Faults that users of other proxies have reported: what a kept connection, a crash or an odd service must not do."""

import contextlib
import http.server
import threading
import types

import pytest

from tests.proxy.road import GET, OK, PATIENCE, EndedError, GatedRun, Road, Service, answering, field
from tests.running import Wrapper, free_port, service, wait_until
from wrapper import sockets
from wrapper.front import server as front_server
from wrapper.settings import address
from wrapper.settings.address import tcp

POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


# Nobody gets what is another's


@pytest.mark.parametrize(("method", "head"), [
    (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(EVIL)),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n" % len(EVIL)),
    (b"GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
])
def test_a_body_behind_an_answer_that_has_none_is_nobody_elses_answer(road, method, head):
    """Python's http.server with do_HEAD = do_GET sends the file a moment later, when the connection is kept by then."""
    sent = threading.Event()

    def script(line):
        if line.head().startswith(method + b" /file"):
            line.send(head)
            sent.wait(10)  # until the client has its answer
            line.send(EVIL)
        else:
            line.send(OK)
        line.is_at_end()

    made = road(script)
    made.service.closed = True  # a script may end with its connection
    line = made.connect().send(method + b" /file HTTP/1.1\r\nHost: h\r\n\r\n")
    line.head()
    sent.set()
    for _ in range(3):
        assert made.connect().send(GET).message()[1] == b"ok"


def test_what_arrives_on_an_idle_connection_ends_it(road):
    written = threading.Event()

    def script(line):
        line.message()
        line.send(OK)
        if not written.is_set():
            line.send(EVIL)
            written.set()
        line.is_at_end()

    made = road(script)
    assert made.connect().send(GET).message()[1] == b"ok"
    assert written.wait(5), "what comes later than a request cannot be told from its answer"
    wait_until(lambda: not made.gate.upstream.idle)
    assert made.connect().send(GET).message()[1] == b"ok"


@pytest.mark.parametrize(("request_head", "response_head"), [
    (b"Authorization: NTLM TlRM\r\n", b""), (b"AUTHORIZATION: ntlm TlRM\r\n", b""),
    (b"Authorization: Negotiate YII\r\n", b""),
    (b"", b"WWW-Authenticate: NTLM TlRM\r\n"), (b"", b"WWW-Authenticate: Basic, Negotiate\r\n"),
])
def test_a_connection_that_has_been_logged_in_stays_with_its_client(road, request_head, response_head):
    """NTLM and Negotiate log a connection in, not a request (RFC 4559 section 6)."""
    connections = []

    def script(line):
        connections.append(line)
        number = len(connections)
        while True:
            try:
                head = line.message()[0]
            except EndedError:
                return
            line.send(b"HTTP/1.1 401 No\r\n" + (response_head if b"/login" in head else b"")
                      + b"Content-Length: 1\r\n\r\n%d" % number)

    made = road(script)
    alice, bob = made.connect(), made.connect()
    login = b"GET /login HTTP/1.1\r\nHost: h\r\n" + request_head + b"\r\n"
    assert alice.send(login).message()[1] == b"1"
    assert bob.send(GET).message()[1] == b"2"
    assert alice.send(GET).message()[1] == b"1", "her log-in is worth nothing on another connection"
    alice.close()
    wait_until(lambda: connections[0].sock.fileno() < 0)


def test_a_logged_in_connection_that_its_service_ends_harms_no_other_client(road):
    """One request of a stranger with `Authorization: NTLM` ended the loop where no other connection was kept yet."""
    is_over = threading.Event()

    def script(line):
        line.head()
        line.send(OK)
        is_over.wait(10)

    made = road(script)
    alice = made.connect().send(b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: NTLM x\r\n\r\n")
    assert alice.message()[1] == b"ok"
    is_over.set()
    wait_until(lambda: not made.gate.upstream.ends)
    for line in (alice, made.connect()):
        assert line.send(GET).message()[1] == b"ok"


# Nothing starves or hangs for ever


@contextlib.contextmanager
def one_at_a_time(handler):
    """The way to Python's http.server.HTTPServer, which reads on from one connection until that ends."""
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    made = Road(None, service=types.SimpleNamespace(address=tcp(*server.server_address), close=lambda: None))
    try:
        yield made
    finally:
        made.gate.upstream.close()  # the server reads from a kept one
        wait_until(lambda: not made.gate.upstream.idle)
        made.close()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("loops", [1, 2])
def test_a_kept_connection_does_not_hold_the_only_worker_of_a_service(monkeypatch, loops):
    """Python's http.server.HTTPServer speaking HTTP/1.1 reads on from one connection until that ends."""
    monkeypatch.setattr(front_server, "loops", lambda: loops)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *words):
            pass

    with one_at_a_time(Handler) as made:
        lines = [made.connect() for _ in range(4)]
        for _ in range(2):
            for line in lines:
                line.send(GET)
            assert [line.message()[1] for line in lines] == [b"ok"] * 4


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_a_kept_connection_does_not_hold_the_only_worker_from_an_upload(expects):
    """One that is too large for the sockets' buffers, or waits for 100 Continue, does not end before it is read."""
    is_asked, go_on = threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            is_asked.set()
            assert go_on.wait(PATIENCE)
            self.do_POST()

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *words):
            pass

    with one_at_a_time(Handler) as made, contextlib.ExitStack() as stack:
        stack.callback(go_on.set)
        first = made.connect().send(GET)
        assert is_asked.wait(PATIENCE)
        size = 100 if expects else 20_000_000
        line = made.connect().send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n%b\r\n" % (size, expects))
        wait_until(lambda: made.gate.in_flight == 2)
        go_on.set()
        assert first.message()[1] == b"ok"
        assert not expects or line.head().startswith(b"HTTP/1.1 100 ")
        assert line.send(b"x" * size).message()[1] == b"ok"


@pytest.mark.parametrize("loops", [1, 2])
def test_clients_that_ask_without_a_pause_leave_a_worker_to_the_others(road, monkeypatch, loops):
    """No connection was idle at the moment in which a hungry one looked: it waited until the others had enough."""
    monkeypatch.setattr(front_server, "loops", lambda: loops)
    worker = threading.Lock()
    has_enough = threading.Event()

    def script(line):
        with worker:
            while True:
                line.head()
                line.send(OK)

    def ask_on(line):
        while not has_enough.is_set():
            line.send(GET).message()

    made = road(script)
    made.service.closed = True  # its connections end while the script reads
    busy = threading.Thread(target=ask_on, args=(made.connect(),), daemon=True)
    busy.start()
    made.site.wait_ended()
    try:
        for _ in range(3):
            assert made.connect().send(GET).message()[1] == b"ok"
    finally:
        has_enough.set()
        busy.join(10)


def test_no_connection_is_used_twice_where_keeping_is_turned_off(road):
    made = road(answering(OK), kept_for=0.0)
    line = made.connect()
    for _ in range(3):
        assert line.send(GET).message()[1] == b"ok"
    assert len(made.service.lines) == 3


@pytest.mark.parametrize(("seconds", "idle"), [("0", 0), ("1h", 1)])
def test_the_option_for_that_is_heeded(seconds, idle):
    with Wrapper("--upstream-keepalive", seconds, command=service("plain")) as wrapper:
        wrapper.get("/")
        shown = f'wrapper_upstream_connections{{service="service",state="idle"}} {idle}\n'
        wait_until(lambda: shown in wrapper.get("/sidecar/metrics").decode())


def test_a_clients_own_connection_is_not_used_in_the_last_moment_that_the_service_announced(road):
    made = road(answering(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nok"))
    line = made.connect()
    for _ in range(2):
        line.send(b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: NTLM TlRM\r\n\r\n")
        assert line.message()[1] == b"ok"
    assert len(made.service.lines) == 2


def test_posts_to_a_service_that_closes_behind_each_answer_and_does_not_say_so_are_answered(road):
    """uwsgi --http-socket: a kept connection was used again before its end had been seen."""
    def script(line):
        line.message()
        line.send(OK)

    line = road(script).connect()
    for _ in range(50):
        assert line.send(POST).message()[1] == b"ok"


def test_posts_share_a_connection_to_a_service_that_holds_it(road, monkeypatch):
    monkeypatch.setattr("wrapper.proxy.upstream.HOLDS", 0.02)
    made = road(answering(*[OK] * 100))
    line = made.connect()
    for _ in range(50):
        assert line.send(POST).message()[1] == b"ok"
        threading.Event().wait(0.005)  # the idle time itself, in which a service that does not hold has closed
    assert len(made.service.lines) < 50


# What is wrong with a service is said


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_service_that_is_the_wrapper_itself_is_recognised_at_the_first_turn(road, host):
    """Without a field that the service would see: by the connection, which is one of our own."""
    made = road(None, is_open=False, listener=sockets.listen(address.parse(f":{free_port()}")))
    made.gate.open(address.tcp(host, made.place[1]))
    line = made.connect()
    for turn in (1, 2):
        head, body = line.send(GET).message()
        assert head.startswith(b"HTTP/1.1 502 ") and b"leads back to the wrapper itself" in body
        made.site.wait_ended(2 * turn)  # both may end at the same time, each on a loop of its own
        assert sorted(ended.failure for ended in made.site.seen[2 * turn - 2:]) == ["", "loop"]
    assert made.server.accepted <= 3


def test_another_wrapper_in_front_is_no_loop(road):
    inner = road(answering(OK))
    outer = road(None, is_open=False)
    outer.gate.open(address.tcp(*inner.place))
    assert outer.connect().send(GET).message()[1] == b"ok"


def read_by_uwsgi(answer):
    """A script: takes heads of 4096 bytes, its buffer-size, and says `answer` to larger ones, or just closes."""
    def script(line):
        head = line.head()
        line.send(OK if len(head) <= 4096 else answer)
    return script


@pytest.mark.parametrize(("answer", "status"), [(b"", 502), (b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n", 400)])
@pytest.mark.parametrize(("size", "said"), [(4090, ["over the 4096 bytes"]), (5000, [])])
def test_a_head_that_our_fields_made_too_large_for_the_service_is_told_of(road, answer, status, size, said):
    made = road(read_by_uwsgi(answer))
    made.service.closed = True  # the service ends what it does not take
    line = made.connect()
    assert line.send(GET).message()[1] == b"ok"
    head = b"GET / HTTP/1.1\r\nHost: h\r\nX: "
    assert line.send(head.ljust(size - 4, b"x") + b"\r\n\r\n").head().startswith(b"HTTP/1.1 %d " % status)
    wait_until(lambda: made.site.failures or not said)
    assert all(f"{status} for GET /" in told for told in made.site.failures)
    assert [text for text in said if text in made.site.failures[0]] == said
    assert all(("over the" in told) == bool(said) for told in made.site.failures)


# What happens between a service and its listener


def test_a_service_that_lives_and_does_not_listen_for_a_while_is_waited_for(road, monkeypatch):
    """An inner restart, as of uvicorn --reload: the process lives, its listener is closed for some seconds."""
    made, place, refused = road(None, is_open=False, service=None), ("127.0.0.1", free_port()), []
    monkeypatch.setattr(made.gate, "doubt", lambda: refused.append(True))
    made.gate.open(tcp(*place), GatedRun())
    lines = [made.connect().send(request) for request in (GET, POST)]
    wait_until(lambda: len(refused) == 2)
    listening = Service(answering(OK), place)
    try:
        for line in lines:
            head, body = line.message()
            assert body == b"ok" and float(field(head, b"Wrapper-Held")) > 0
    finally:
        listening.close()


# A run that ends under a request


class Falling:
    """Runs of a service that end, one after the other, as soon as they have read a request; the last one answers."""

    def __init__(self, made, falls):
        self.made = made
        self.falls = falls
        self.requests = []
        self.start()

    def start(self):
        self.run = GatedRun()
        self.made.gate.open(self.made.service.address, self.run)

    def script(self, line):
        self.requests.append(line.message())
        if len(self.requests) > self.falls:
            line.send(OK)
            line.is_at_end()
            return
        self.run.ended.set()
        line.close()
        self.start()


@pytest.fixture
def falling(road):
    def build(falls, **settings):
        made = road(lambda line: made.runs.script(line), is_open=False, **settings)  # noqa: PLW0108  set below
        made.service.closed = True  # its runs end on purpose
        made.runs = Falling(made, falls)
        return made
    return build


KEYED = POST.replace(b"\r\n\r\n", b"\r\nIdempotency-Key: 1\r\n\r\n")
PUT = POST.replace(b"POST", b"PUT")


@pytest.mark.parametrize(("request_bytes", "settings", "status", "count"), [
    (GET, {}, b"200", 2), (PUT, {}, b"200", 2), (KEYED, {}, b"200", 2), (POST, {}, b"502", 1),
    (GET, {"replay": "safe"}, b"200", 2), (PUT, {"replay": "safe"}, b"502", 1), (KEYED, {"replay": "safe"}, b"502", 1),
    (GET, {"replay": "off"}, b"502", 1),
])
def test_a_request_whose_run_ended_before_its_answer_began_travels_once_more(
        falling, request_bytes, settings, status, count):
    made = falling(1, **settings)
    line = made.connect().send(request_bytes)
    assert line.head().split()[1] == status
    assert made.site.wait_ended().replayed is (count == 2)
    assert len(made.runs.requests) == count
    assert len({body for _, body in made.runs.requests}) == 1, "the body is the same each time"


def test_what_was_on_the_road_in_two_falls_is_not_sent_a_third_time(falling):
    made = falling(2)
    assert made.connect().send(GET).head().split()[1] == b"502"
    assert len(made.runs.requests) == 2
    wait_until(lambda: made.site.failures)
    assert "GET /" in made.site.failures[0] and "twice" in made.site.failures[0]


def test_an_answer_that_has_begun_is_not_asked_for_again(road):
    begun = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"
    made = road(lambda line: line.head() and line.send(begun), is_open=False)
    run = GatedRun()
    made.gate.open(made.service.address, run)
    run.ended.set()
    line = made.connect().send(GET)
    line.head()
    assert line.all() == b"he", "cut short, as the service sent it; its length tells that"
    assert len(made.service.lines) == 1
