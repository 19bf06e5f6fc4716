"""extension.py: what authors write, in a running wrapper around a fake service."""

from __future__ import annotations

import queue
import socket
import threading
import time
import types

import pytest

from tests.loop.driving import settle
from wrapper import Response, Sidecar
from wrapper.errors import NotFound
from wrapper.front.own import OwnExchange
from wrapper.loop import loop as loop_room, poller as poller_room
from wrapper.proxy.body import RequestBody
from wrapper.sidecar.isolation import MOST_CALLS
from wrapper.testing import FakeService, running

# Routes


def test_a_route_answers_instead_of_the_service(sidecar):
    @sidecar.route("GET", "/sidecar/api/hello")
    def hello(request):
        return {"hello": request.query.get("name", "world")}

    service = FakeService()
    with running(sidecar, service=service) as wrapper:
        assert wrapper.get("/sidecar/api/hello").json() == {"hello": "world"}
        assert wrapper.get("/sidecar/api/hello?name=you").json() == {"hello": "you"}
        assert wrapper.get("//sidecar/%61pi/hello").status == 400  # a front may have forbidden it
        assert not service.requests
        assert wrapper.request("DELETE", "/sidecar/api/hello").headers["allow"] == "GET, HEAD"


def test_a_route_has_parameters_a_body_and_the_service(sidecar):
    @sidecar.route("PUT", "/things/{name}/{part}")
    def put(request, service):
        return 201, {**request.params, "body": request.json(), "state": service.state}

    with running(sidecar) as wrapper:
        answer = wrapper.request("PUT", "/things/a%20b/c", json=[1])
        assert (answer.status, answer.json()) == (201, {"name": "a b", "part": "c", "body": [1], "state": "running"})
        assert wrapper.get("/things/a/b").status == 404  # the service's own answer: the others stay its


@pytest.mark.parametrize("target", ["/gr\xf6\xdfe/\xe4?a=\xfc", "/gr%C3%B6%C3%9Fe/%C3%A4?a=%C3%BC"])
def test_a_character_is_the_same_encoded_and_as_it_is(sidecar, target):
    """As curl sends what was typed."""
    sidecar.route("GET", "/gr\xf6\xdfe/{name}")(lambda request: request.params["name"] + request.query["a"])
    with running(sidecar) as wrapper, socket.create_connection(("127.0.0.1", wrapper.port), 10) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert client.makefile("rb").read().endswith("\r\n\r\n\xe4\xfc".encode())


def test_a_guarded_route_needs_the_token(sidecar):
    @sidecar.route("POST", "/act", guarded=True)
    def act():
        return "done"

    with running(sidecar) as wrapper:
        assert wrapper.post("/act").status == 401
        assert wrapper.post("/act", token=True).text == "done"


def test_a_body_over_the_limit_is_413_and_no_problem(sidecar):
    @sidecar.route("POST", "/small", limit="1KiB")
    def small(request):
        return str(len(request.body()))

    with running(sidecar) as wrapper:
        assert wrapper.post("/small", body=b"x" * 1024).text == "1024"
        assert wrapper.post("/small", body=b"x" * 1025).status == 413
        assert wrapper.post("/small", body=iter([b"x" * 512] * 2)).text == "1024"
        assert wrapper.post("/small", body=iter([b"x" * 1000] * 2)).status == 413
        assert not wrapper.problems()


def test_a_body_can_be_read_as_it_comes(sidecar):
    @sidecar.route("POST", "/sum")
    def total(request):
        return str(sum(len(line) for line in request.stream()))

    with running(sidecar) as wrapper:
        assert wrapper.post("/sum", body=b"ab\ncd\n").text == "6"
        assert wrapper.post("/sum", body=b"x" * 3_000_000).text == "3000000"


@pytest.mark.parametrize("body", [b"abcdef", (b"abcdef",)], ids=["length", "chunks"])
def test_a_body_is_whole_or_a_stream(sidecar, body):
    """Whatever its framing: the rest alone would look like all of it."""
    @sidecar.route("POST", "/x")
    def x(request):
        first = request.stream().read(3)
        with pytest.raises(RuntimeError, match="as a stream"):
            request.body()
        return first + request.stream().read()

    @sidecar.route("POST", "/y")
    def y(request):
        return request.body() + request.stream().read() + request.body()

    with running(sidecar) as wrapper:
        assert wrapper.post("/x", body=body if isinstance(body, bytes) else iter(body)).text == "abcdef"
        assert wrapper.post("/y", body=body if isinstance(body, bytes) else iter(body)).text == "abcdef" * 3


def test_what_is_no_json_is_400(sidecar):
    @sidecar.route("POST", "/json")
    def json(request):
        return request.json()

    with running(sidecar) as wrapper:
        assert wrapper.post("/json", body=b"{").status == 400
        assert not wrapper.problems()


def test_a_refusal_of_the_authors_own_goes_out_as_it_is(sidecar):
    @sidecar.route("GET", "/sidecar/thing")
    def thing():
        raise NotFound("no such thing")

    with running(sidecar) as wrapper:
        answer = wrapper.get("/sidecar/thing")
        assert (answer.status, answer.json()["error"]) == (404, "no such thing")
        assert not wrapper.problems()


@pytest.mark.parametrize("failure", [ValueError("x"), SystemExit(1)])
def test_a_failing_handler_is_500_and_a_problem_until_it_works(sidecar, failure):
    works = False

    @sidecar.route("GET", "/sidecar/x")
    def x():
        if not works:
            raise failure
        return "ok"

    with running(sidecar) as wrapper:
        assert wrapper.get("/sidecar/x").json() == {"error": "the sidecar's code failed", "status": 500}
        assert wrapper.wait_problem()["source"] == "sidecar:mine"
        assert wrapper.get("/").status == 200
        works = True
        assert wrapper.get("/sidecar/x").text == "ok"
        assert not wrapper.problems()


def test_a_hanging_handler_is_504_and_the_service_is_served(sidecar):
    go_on = threading.Event()

    @sidecar.route("GET", "/hang", timeout=0.05)
    def hang():
        go_on.wait()

    with running(sidecar) as wrapper:
        assert wrapper.get("/hang").status == 504
        assert wrapper.get("/").status == 200
        assert "did not answer within" in wrapper.wait_problem()["message"]
        go_on.set()


def test_a_generator_is_server_sent_events(sidecar):
    @sidecar.route("GET", "/sidecar/ticks")
    def ticks():
        yield {"n": 1}
        yield "alert", "two"

    with running(sidecar) as wrapper, wrapper.stream("/sidecar/ticks") as lines:
        assert list(lines) == ['data: {"n": 1}', "", "event: alert", "data: two", ""]


def test_a_streamed_response_goes_out_as_it_comes(sidecar):
    go_on = threading.Event()

    @sidecar.route("GET", "/sidecar/lines")
    def lines_():
        def pieces():
            yield "first\n"
            go_on.wait(10)
            yield "second\n"
        return Response(pieces(), content_type="text/plain")

    with running(sidecar) as wrapper, wrapper.stream("/sidecar/lines") as lines:
        assert next(lines) == "first"
        go_on.set()
        assert list(lines) == ["second"]


def test_head_has_the_fields_of_get_and_no_body(sidecar):
    @sidecar.route("GET", "/sidecar/x")
    def x():
        return "12345"

    with running(sidecar) as wrapper:
        answer = wrapper.request("HEAD", "/sidecar/x")
        assert (answer.status, answer.headers["content-length"], answer.body) == (200, "5", b"")


def test_a_route_that_is_taken_is_a_problem_and_the_others_stand(sidecar):
    @sidecar.route("GET", "/sidecar/healthz")
    def mine():
        return "mine"

    @sidecar.route("GET", "/sidecar/other")
    def other():
        return "other"

    with running(sidecar) as wrapper:
        assert wrapper.get("/sidecar/other").text == "other"
        assert wrapper.get("/sidecar/healthz").json() == {"healthy": True}
        assert "GET /sidecar/healthz failed" in wrapper.wait_problem()["message"]


@pytest.fixture
def still(monkeypatch):
    """The time of all loops: it stands still until a test moves it."""
    made = types.SimpleNamespace(now=time.monotonic())
    for room in (loop_room, poller_room):
        monkeypatch.setattr(room, "time", types.SimpleNamespace(monotonic=lambda: made.now))
    return made


def noted(monkeypatch, owner, name):
    """A queue of the objects whose method `name` was called."""
    called, call = queue.SimpleQueue(), getattr(owner, name)

    def note(*arguments):
        called.put(arguments[0])
        return call(*arguments)

    monkeypatch.setattr(owner, name, note)
    return called


def test_a_client_that_sends_slowly_is_no_handler_that_hangs(sidecar, still, monkeypatch):
    """The handler's time begins when the body is there."""
    awaited = noted(monkeypatch, RequestBody, "read_within")

    @sidecar.route("POST", "/x", timeout=0.1)
    def x(request):
        return request.body()

    with running(sidecar) as wrapper, socket.create_connection(("127.0.0.1", wrapper.port), 10) as client:
        client.sendall(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\n")
        loop = awaited.get(timeout=10)._stream.loop
        for byte in (b"b", b"o", b"d", b"y"):
            still.now += 0.04
            settle(loop)  # else the handler's time may begin before this move
            client.sendall(byte)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nbody")
        assert not wrapper.problems()


def slow_client(port, path):
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n".encode())
    return client


def test_a_client_that_never_ends_its_body_is_408_and_frees_its_place(sidecar, still, monkeypatch):
    """RFC 9110 section 15.5.9: that is the client's fault, no problem of the handler's."""
    monkeypatch.setattr("wrapper.sidecar.isolation.MOST_CALLS", 3)
    monkeypatch.setattr("wrapper.front.own.BODY_TIMEOUT", 0.0)
    awaited = noted(monkeypatch, OwnExchange, "_read_more")

    @sidecar.route("POST", "/x", timeout=0.05)
    def x(request):
        return request.body()

    with running(sidecar) as wrapper:
        clients = [slow_client(wrapper.port, "/x") for _ in range(3)]
        for _ in clients:
            awaited.get(timeout=10)
        still.now += 0.1
        for client in clients:
            assert client.recv(65536).startswith(b"HTTP/1.1 408 ")
            client.close()
        wrapper.wait_until(lambda: wrapper.post("/x", body="x").status == 200)
        assert not wrapper.problems()


def test_a_handler_that_hangs_beside_a_body_that_is_not_whole_is_still_the_one_at_fault(sidecar):
    go_on = threading.Event()

    @sidecar.route("POST", "/x", timeout=0.05)
    def x(request):
        go_on.wait()

    with running(sidecar) as wrapper:
        with slow_client(wrapper.port, "/x") as client:
            assert client.recv(65536).startswith(b"HTTP/1.1 504 ")
        assert "did not answer" in wrapper.wait_problem()["message"]
        go_on.set()


# Services


def test_a_handle_before_its_time_says_so(sidecar):
    helper = sidecar.service("second", ["x", "{port}"])
    with pytest.raises(RuntimeError, match="not there yet"):
        _ = helper.state


# Problems and metrics


def test_problems_come_and_go(sidecar):
    sidecar.problem("said before the wrapper runs", "early")
    with running(sidecar) as wrapper:
        sidecar.problem("the disk is full", "disk", free=0)
        early, disk = wrapper.get("/sidecar/api/problems", token=True).json()
        assert early["message"] == "said before the wrapper runs"
        assert (disk["source"], disk["details"]) == ("sidecar:mine", {"free": 0})
        sidecar.resolve("disk")
        sidecar.resolve("early")
        assert wrapper.get("/sidecar/api/problems").json() == []


def test_a_sidecar_can_answer_with_the_board(sidecar):
    """Of all sources, not of its own alone; before and after the wrapper runs there is no board."""
    @sidecar.route("GET", "/wrong")
    def wrong(request):
        return [[problem.source, problem.key, problem.message, problem.details] for problem in sidecar.problems()]

    assert sidecar.problems() == []
    with running(sidecar) as wrapper:
        sidecar.problem("the disk is full", "disk", free=0)
        wrapper.site.around.board.report("service", "it crashed")
        assert wrapper.get("/wrong").json() == [["sidecar:mine", "disk", "the disk is full", {"free": 0}],
                                                ["service", "", "it crashed", {}]]
        sidecar.problems()[0].details.clear()
        assert sidecar.problems()[0].details == {"free": 0}
    assert sidecar.problems() == []


def test_a_key_that_no_problem_has_had_is_an_error_unless_it_may_be_missing(sidecar):
    sidecar.problem("the disk is full", "disk")
    sidecar.resolve("disk")
    sidecar.resolve("disk")
    sidecar.resolve("other", missing_ok=True)
    with pytest.raises(ValueError, match=r"no problem of this sidecar has had this key, but \['disk'\]"):
        sidecar.resolve("dsik")


def test_a_metric_needs_no_help(sidecar):
    sidecar.counter("hits").inc()
    with running(sidecar) as wrapper:
        lines = wrapper.metrics().splitlines()
    assert "hits_total 1" in lines and "# TYPE hits_total counter" in lines
    assert not [line for line in lines if line.startswith("# HELP hits")]


def test_metrics_of_the_authors_own_are_scraped(sidecar):
    hits = sidecar.counter("mine_hits", "Hits.", ["page"])
    depth = sidecar.gauge("mine_depth", "Depth.")
    spans = sidecar.histogram("mine_seconds", "Spans.", buckets=[1, 2])
    hits.inc(page='a"b')
    depth.set(3)
    spans.observe(1.5)
    with running(sidecar) as wrapper:
        text = wrapper.get("/sidecar/metrics").text
    assert 'mine_hits_total{page="a\\"b"} 1' in text
    assert "mine_depth 3" in text
    assert 'mine_seconds_bucket{le="2"} 1' in text


def test_a_metric_that_is_declared_again_is_the_same(sidecar):
    """Also in a handler, each time: nothing grows."""
    @sidecar.route("GET", "/sidecar/x")
    def x():
        sidecar.counter("mine_visits", "Visits.").inc()
        return "x"

    with running(sidecar) as wrapper:
        for _ in range(5):
            wrapper.get("/sidecar/x")
        assert "mine_visits_total 5" in wrapper.metrics()
        assert len(sidecar._declared) == 2
        with pytest.raises(ValueError, match="already"):
            sidecar.gauge("mine_visits_total", "Visits.")


def test_what_was_refused_while_it_runs_is_not_remembered(sidecar):
    sidecar.route("GET", "/sidecar/x")(lambda: "x")
    with running(sidecar):
        for _ in range(3):
            with pytest.raises(ValueError, match="taken"):
                sidecar.route("GET", "/sidecar/x")(lambda: "x")
    with running(sidecar) as wrapper:
        assert not wrapper.problems()


def test_numbers_begin_anew_with_every_run(sidecar):
    hits = sidecar.counter("mine_hits", "Hits.")
    for _ in range(2):
        hits.inc()
        with running(sidecar) as wrapper:
            hits.inc()
            assert "mine_hits_total 2" in wrapper.metrics()


# The sidecar as a whole


def test_a_sidecar_can_be_run_again(sidecar):
    @sidecar.route("GET", "/sidecar/x")
    def x():
        return "x"

    for _ in range(2):
        with running(sidecar) as wrapper:
            assert wrapper.get("/sidecar/x").text == "x"


def test_a_declaration_made_while_it_runs_counts_at_once(sidecar):
    with running(sidecar) as wrapper:
        assert wrapper.get("/sidecar/late").status == 404
        sidecar.route("GET", "/sidecar/late")(lambda: "late")
        assert wrapper.get("/sidecar/late").text == "late"
        with pytest.raises(ValueError, match="taken"):
            sidecar.route("GET", "/sidecar/late")(lambda: "again")


def test_two_sidecars_live_side_by_side(sidecar):
    other = Sidecar("other")
    sidecar.route("GET", "/sidecar/a")(lambda: "a")
    other.route("GET", "/sidecar/b")(lambda: 1 / 0)
    with running(sidecar, other) as wrapper:
        assert wrapper.get("/sidecar/a").text == "a"
        assert wrapper.get("/sidecar/b").status == 500
        assert wrapper.wait_problem()["source"] == "sidecar:other"


def test_routes_answer_while_the_service_is_down(sidecar):
    sidecar.route("GET", "/sidecar/x")(lambda: "x")
    with running(sidecar, hold="60s") as wrapper:  # longer than its client waits
        wrapper.service.stop("test")
        assert wrapper.get("/").status == 503
        assert wrapper.get("/sidecar/x").text == "x"


def test_a_looping_handler_does_not_stop_the_road(sidecar):
    """The interpreter takes turns, and a loop gets no more than its own."""
    is_over = False

    @sidecar.route("GET", "/loop", timeout=0.2)
    def loop():
        while not is_over:
            pass

    with running(sidecar) as wrapper:
        asked = threading.Thread(target=wrapper.get, args=["/loop"], daemon=True)
        asked.start()
        for _ in range(20):
            assert wrapper.get("/").status == 200
        assert "did not answer" in wrapper.wait_problem()["message"]
        is_over = True
        asked.join(5)


def test_handlers_that_hang_use_up_their_own_calls_and_nothing_else(sidecar):
    go_on = threading.Event()

    @sidecar.route("GET", "/hang", timeout=0.01)
    def hang():
        go_on.wait()

    with running(sidecar) as wrapper:
        assert {wrapper.get("/hang").status for _ in range(MOST_CALLS)} == {504}
        assert wrapper.get("/hang").status == 503
        assert wrapper.get("/sidecar/healthz").status == 200
        go_on.set()


# What may not be declared is refused at the author's line


@pytest.mark.parametrize("wrong", [
    lambda sidecar: sidecar.route("GET", "no/slash"),
    lambda sidecar: sidecar.route("get", "/x"),
    lambda sidecar: sidecar.route("GET", "/x", timeout="soon"),
    lambda sidecar: sidecar.route("GET", "/x", limit="much"),
    lambda sidecar: sidecar.service("Big Name", ["x", "{port}"]),
    lambda sidecar: sidecar.service("x", []),
    lambda sidecar: sidecar.service("x", ["x"]),
    lambda sidecar: sidecar.service("x", ["x", "{port}"], route="no"),
    lambda sidecar: sidecar.watch("ftp://x"),
    lambda sidecar: sidecar.watch("/x", every="often"),
    lambda sidecar: sidecar.counter("no name", "Help."),
    lambda sidecar: sidecar.counter("wrapper_mine", "Help."),
    lambda sidecar: sidecar.route("GET", "/x", timeout=-1),
    lambda sidecar: sidecar.route("GET", "/x", timeout="0s"),
    lambda sidecar: sidecar.route("GET", "/x", limit=-1),
    lambda sidecar: sidecar.mount("/x", dict, timeout=0),
    lambda sidecar: sidecar.mount("/x/{name}", dict),
    lambda sidecar: sidecar.mount("/", dict),
    lambda sidecar: sidecar.service("x", ["x", "{port}"], restart="sometimes"),
    lambda sidecar: sidecar.service("x", "x --port {port}"),
    lambda sidecar: sidecar.service("x", ["x"], upstream="no address"),
    lambda sidecar: sidecar.service("service", ["x", "{port}"]),
    lambda sidecar: [sidecar.service("x", ["x", "{port}"]) for _ in range(2)],
    lambda sidecar: sidecar.problem("it hurts", source="me"),
    lambda sidecar: sidecar.problem("disk", "the disk is full"),
    lambda sidecar: sidecar.resolve("dsik"),
    lambda sidecar: sidecar.watch("/x", select="a..b"),
])
def test_a_malformed_declaration_is_said_at_the_authors_line(sidecar, wrong):
    with pytest.raises(ValueError, match="."):
        wrong(sidecar)


async def waits(request):
    return {}


async def yields_and_waits(request):
    yield {}


def yields(service):
    """Called, it does nothing yet."""
    yield


@pytest.mark.parametrize("declare", [
    lambda sidecar: sidecar.route("GET", "/x")(waits), lambda sidecar: sidecar.task(waits),
    lambda sidecar: sidecar.on_ready(waits), lambda sidecar: sidecar.watch(dict)(waits),
    lambda sidecar: sidecar.task("not a function"), lambda sidecar: sidecar.task(yields),
    lambda sidecar: sidecar.on_ready(yields), lambda sidecar: sidecar.watch(dict)(yields),
    lambda sidecar: sidecar.route("GET", "/x")(yields_and_waits)])
def test_what_a_thread_cannot_call_is_said_at_the_authors_line(sidecar, declare):
    with pytest.raises(TypeError, match="plain function"):
        declare(sidecar)


def test_what_is_no_application_is_said_at_the_authors_line(sidecar):
    with pytest.raises(TypeError, match="WSGI"):
        sidecar.mount("/x", None)
