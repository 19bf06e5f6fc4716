"""api.py and site.py: the wrapper's own paths, asked without a socket."""

from __future__ import annotations

import json
import os
import signal
from itertools import islice

import pytest

from tests.running import wait_until
from tests.sidecar.parts import make_request, make_service, make_site, serve
from wrapper.deadline import Deadline
from wrapper.errors import BadRequest, Busy, Forbidden, MethodNotAllowed, NotFound, Unauthorized, Unavailable
from wrapper.events import Feed
from wrapper.problems import Problem
from wrapper.sidecar.api import FeedStream
from wrapper.sidecar.reply import MOST_STREAMS
from wrapper.sidecar.router import Route

FIELDS = {"state", "since", "ready", "pid", "generation", "restarts", "last_exit", "in_flight", "held",
          "uptime_seconds", "problems", "version"}


def ask(site, method, target, body=b"", **options):
    response = site.answer(make_request(method, target, body, **options))
    return response.status, json.loads(response.whole())


def act(site, target, body=b""):
    return ask(site, "POST", target, body, trusted=True)


def test_healthz_is_well_whatever_the_service_does(site):
    assert ask(site, "GET", "/sidecar/healthz")[0] == 200


def test_readyz_says_why_not(site):
    with pytest.raises(Unavailable, match="stopped"):
        site.answer(make_request("GET", "/sidecar/readyz"))


def test_status_has_every_field_of_the_contract(site):
    status, document = ask(site, "GET", "/sidecar/api/status")
    assert status == 200
    assert document.keys() >= FIELDS
    assert document["state"] == "stopped"


def test_status_says_which_service_this_is_but_no_argument(site):
    document = ask(site, "GET", "/sidecar/api/status")[1]
    assert (document["command"], document["restart_mode"], document["upstream"]) == ("true", "replace", None)
    assert document["host"] == os.uname().nodename
    assert document["container"] is None or len(document["container"]) == 12
    assert (document["restarts_planned"], document["crashes"], document["last_crash"]) == (0, 0, None)


def test_status_names_helpers(site):
    site.add_service(make_service(site.around, "mail", route="/mail"))
    assert ask(site, "GET", "/sidecar/api/status")[1]["helpers"]["mail"]["state"] == "stopped"


def test_problems_are_an_empty_list_when_all_is_well(site):
    assert ask(site, "GET", "/sidecar/api/problems") == (200, [])
    site.around.board.report("service", "it hurts")
    assert ask(site, "GET", "/sidecar/api/problems", trusted=True)[1][0]["message"] == "it hurts"


SECRET = "DB_PASSWORD=hunter2"


def with_troubles():
    """A site where a check has printed a secret, which stands wherever a problem is told."""
    site = make_site("--token", "sesame")
    site.around.board.replace("config:rules", [Problem(f"the check says {SECRET}", output=[SECRET])])
    site.around.feed.publish("config", name="rules", result="rejected", reason=f"the check says {SECRET}")
    site.around.board.report("sidecar:mine", SECRET, key=SECRET)
    site.around.board.resolve("sidecar:mine", SECRET)
    site.subscriptions.append(Subscription())
    return site


TELLING = ("/api/problems", "/api/events", "/api/config", "/api/status", "/api/traffic", "/readyz", "/metrics",
           "/")


@pytest.mark.parametrize("token", [None, "wrong"])
@pytest.mark.parametrize("path", TELLING)
def test_strangers_are_not_told_what_a_problem_is(path, token):
    """Its message, key and details may hold what a command printed."""
    headers = [("Authorization", f"Bearer {token}")] if token else []
    site = with_troubles()
    site.services[0].readiness = lambda: None
    answer = site.answer(make_request("GET", f"/sidecar{path}", headers=headers))
    assert SECRET not in str(answer.headers) + str(list(islice(answer.pieces(), 2)))


def test_strangers_are_told_that_there_is_one_where_and_since_when():
    (told,) = json.loads(with_troubles().answer(make_request("GET", "/sidecar/api/problems")).whole())
    assert (told["id"], told["source"], told["kind"], told["count"]) == ("config:rules", "config:rules", "config", 1)
    assert told["since"] and told["last_seen"] and told["details"] == {} and "token" in told["message"]


@pytest.mark.parametrize("path", ["/api/problems", "/api/events", "/api/config"])
def test_the_token_and_the_control_socket_are_told_all(path):
    for request in (make_request("GET", f"/sidecar{path}", headers=[("Authorization", "Bearer sesame")]),
                    make_request("GET", f"/sidecar{path}", trusted=True)):
        assert SECRET in str(list(islice(with_troubles().answer(request).pieces(), 2)))


def test_answers_are_never_kept_by_anybody_in_between(site):
    headers = dict(site.answer(make_request("GET", "/sidecar/api/status")).headers)
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


class Subscription:
    looks = 0

    def status(self):
        return {"name": "rules", "stale_since": "then", "last_result": f"rejected: {SECRET}"}

    def fetch_now(self):
        self.looks += 1


def test_config_shows_every_subscription_and_can_be_told_to_look(site):
    subscription = Subscription()
    site.subscriptions.append(subscription)
    assert ask(site, "GET", "/sidecar/api/config", trusted=True) == (200, [subscription.status()])
    assert act(site, "/sidecar/api/config")[0] == 202
    assert subscription.looks == 1


@pytest.mark.parametrize("path", ["start", "stop", "restart", "reload", "signal?name=HUP", "config"])
def test_actions_need_the_token(path):
    with pytest.raises(Forbidden):
        make_site().answer(make_request("POST", f"/sidecar/api/{path}"))
    with pytest.raises(Unauthorized):
        make_site("--token", "s3cret").answer(make_request("POST", f"/sidecar/api/{path}"))


def test_the_right_token_may_act():
    site = make_site("--token", "s3cret")
    headers = [("Authorization", "Bearer s3cret")]
    assert ask(site, "POST", "/sidecar/api/restart", headers=headers)[0] == 202


def test_logs_need_the_token():
    with pytest.raises(Forbidden):
        make_site("--capture-output").answer(make_request("GET", "/sidecar/api/logs"))


@pytest.mark.parametrize("action", ["start", "stop", "restart", "reload"])
def test_an_action_is_a_post(site, action):
    """RFC 9110 section 9.2.1: a link that is followed must change nothing."""
    with pytest.raises(MethodNotAllowed) as refusal:
        site.answer(make_request("GET", f"/sidecar/api/{action}", trusted=True))
    assert dict(refusal.value.headers)["Allow"] == "POST"


def test_an_action_is_asked_of_the_controller_with_who_and_why(site):
    controller = site.services[0].controller
    asked = []
    controller.ask = lambda kind, reason: asked.append((kind, reason))
    act(site, "/sidecar/api/stop?reason=night")
    ask(make_site_with(site, "--token=t"), "POST", "/sidecar/api/restart",
        headers=[("Authorization", "Bearer t")])
    assert asked == [("stop", "night (asked by the control socket)"), ("restart", "asked by 192.0.2.1")]


def make_site_with(site, *options):
    other = make_site(*options)
    other.services[0].controller.ask = site.services[0].controller.ask
    return other


def test_a_contradiction_is_409(site):
    act(site, "/sidecar/api/stop")
    with pytest.raises(Busy):
        act(site, "/sidecar/api/restart")


class Ticket:
    def __init__(self, error):
        self.error = error

    def wait(self):
        return self.error is None


def test_wait_answers_when_done(site):
    site.services[0].controller.ask = lambda kind, reason: Ticket(None)
    assert act(site, "/sidecar/api/restart?wait=1")[0] == 200
    site.services[0].controller.ask = lambda kind, reason: Ticket("it did not start")
    status, document = act(site, "/sidecar/api/restart?wait=true")
    assert status == document["status"] == 500
    assert document["error"] == "it did not start"
    assert document["state"] == "stopped"


def test_wait_0_does_not_wait(site):
    site.services[0].controller.ask = lambda kind, reason: None
    assert act(site, "/sidecar/api/restart?wait=0")[0] == 202


def test_a_malformed_question_does_nothing(site):
    site.services[0].controller.ask = lambda kind, reason: pytest.fail("it was asked for")
    with pytest.raises(BadRequest):
        act(site, "/sidecar/api/restart?wait=perhaps")


def test_a_signal_is_named_in_the_query_or_the_body(site):
    sent = []
    site.services[0].controller.signal = sent.append
    assert act(site, "/sidecar/api/signal?name=HUP")[0] == 202
    assert act(site, "/sidecar/api/signal", b'{"name": "SIGUSR1"}')[0] == 202
    assert sent == [1, 10]


def test_a_plus_in_the_query_is_a_plus(site):
    """In a form it would be a space; RTMIN+3 is a signal's name, and no signal's name has a space."""
    sent = []
    site.services[0].controller.signal = sent.append
    assert act(site, "/sidecar/api/signal?name=RTMIN+3")[0] == 202
    assert act(site, "/sidecar/api/signal?name=RTMIN%2B3")[0] == 202
    assert sent == [signal.SIGRTMIN + 3] * 2


def test_the_reason_may_stand_in_the_body_too(site):
    asked = []
    site.services[0].controller.ask = lambda kind, reason: asked.append(reason)
    act(site, "/sidecar/api/stop", b'{"reason": "night"}')
    act(site, "/sidecar/api/stop?reason=day", b'{"reason": "night"}')
    assert asked == ["night (asked by the control socket)", "day (asked by the control socket)"]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"name": 1}', b'{"name": "NOPE"}', b"[]", b"{", b"\xff"])
def test_what_names_no_signal_is_400(site, body):
    with pytest.raises(BadRequest):
        act(site, "/sidecar/api/signal", body)


def test_a_signal_to_nobody_is_409(site):
    with pytest.raises(Busy):
        act(site, "/sidecar/api/signal?name=HUP")


def test_helpers_are_named_in_the_query(site):
    helper = make_service(site.around, "mail")
    site.add_service(helper)
    asked = []
    helper.controller.ask = lambda kind, reason: asked.append(kind)
    assert act(site, "/sidecar/api/stop?service=mail")[0] == 202
    assert asked == ["stop"]
    with pytest.raises(NotFound):
        act(site, "/sidecar/api/stop?service=unknown")


def test_two_services_cannot_have_one_name_or_one_path(site):
    site.add_service(make_service(site.around, "mail", route="/mail"))
    for name, route in (("mail", "/post"), ("post", "/mail"), ("service", "")):
        with pytest.raises(ValueError, match="taken"):
            site.add_service(make_service(site.around, name, route=route))


def test_logs_are_the_last_lines_as_text():
    site = make_site("--capture-output")
    site.services[0].output.keep(b"one\ntwo\nthree\n")
    answer = site.answer(make_request("GET", "/sidecar/api/logs?lines=2", trusted=True))
    assert answer.whole() == b"two\nthree\n"
    follow = site.answer(make_request("GET", "/sidecar/api/logs?lines=1&follow=1", trusted=True)).pieces()
    assert next(follow) == b"three\n"
    site.services[0].output.keep(b"four\n")
    assert next(follow) == b"four\n"


def test_a_follower_gets_the_last_words_however_late_it_is():
    site = make_site("--capture-output")
    output = site.services[0].output
    late, later = (site.answer(make_request("GET", "/sidecar/api/logs?lines=0&follow=1", trusted=True)).pieces()
                   for _ in range(2))
    assert next(late) == b""
    output.keep(b"the last\n")
    output.end(Deadline(0.0))
    assert list(late) == [b"the last\n"]
    assert b"".join(later) == b"the last\n"


def test_a_line_that_is_not_whole_yet_goes_on_where_it_was():
    site = make_site("--capture-output")
    site.services[0].output.keep(b"one\ntw")
    answer = site.answer(make_request("GET", "/sidecar/api/logs?lines=1&follow=1", trusted=True))
    assert ("X-Accel-Buffering", "no") in answer.headers
    follow = answer.pieces()
    assert next(follow) == b"tw"
    site.services[0].output.keep(b"o\n")
    assert next(follow) == b"o\n"


def test_logs_that_nobody_keeps_say_how_to_keep_them(site):
    with pytest.raises(NotFound, match="--capture-output"):
        site.answer(make_request("GET", "/sidecar/api/logs", trusted=True))


def test_a_wrong_number_of_lines_is_400():
    with pytest.raises(BadRequest):
        make_site("--capture-output").answer(make_request("GET", "/sidecar/api/logs?lines=-1", trusted=True))


def test_an_unknown_path_under_the_prefix_is_404_and_any_other_is_the_services(site):
    with pytest.raises(NotFound):
        site.answer(make_request("GET", "/sidecar/api/nothing"))
    assert site.answer(make_request("GET", "/sidecars")) is None
    assert site.answer(make_request("GET", "/")) is None


def test_the_prefix_can_be_another():
    site = make_site("--prefix", "/-/wrapper")
    assert site.prefixes == ("/-/wrapper",)
    assert ask(site, "GET", "/-/wrapper/healthz")[0] == 200
    assert site.answer(make_request("GET", "/sidecar/healthz")) is None


def answer(request):
    raise NotImplementedError


def test_a_route_outside_the_prefix_takes_its_method_and_leaves_the_others_to_the_service(site):
    site.add(Route("GET", "/hello", answer))
    assert "/hello".startswith(site.prefixes)
    assert site.answer(make_request("POST", "/hello")) is None


def test_helpers_have_their_own_gate_the_longest_path_first(site):
    outer, inner = (make_service(site.around, name, route=route)
                    for name, route in (("outer", "/a"), ("inner", "/a/b")))
    site.add_service(outer)
    site.add_service(inner)
    assert site.gate("/a") is outer.gate
    assert site.gate("/a/b/c") is inner.gate
    assert site.gate("/ab") is site.services[0].gate


def test_a_helper_may_live_under_the_prefix(site):
    site.add_service(make_service(site.around, "mail", route="/sidecar/mail"))
    assert site.answer(make_request("GET", "/sidecar/mail/inbox")) is None


def test_readyz_is_ready_while_the_service_serves(site):
    service = site.services[0]
    serve(service)
    status, document = ask(site, "GET", "/sidecar/readyz")
    assert (status, document["ready"]) == (200, True)


@pytest.mark.parametrize("target", ["/sidecar/api/events", "/sidecar/api/logs?follow=1"])
def test_streams_are_bounded_because_each_costs_a_thread(target):
    site = make_site("--capture-output", "--token", "t")
    headers = [("Authorization", "Bearer t")]
    streams = [site.answer(make_request("GET", target, headers=headers)) for _ in range(MOST_STREAMS)]
    with pytest.raises(Unavailable) as refusal:
        site.answer(make_request("GET", target, headers=headers))
    assert dict(refusal.value.headers)["Retry-After"]
    assert site.answer(make_request("GET", target, trusted=True)), "the operator is not kept out"
    for stream in streams[:2]:
        stream.close()
        stream.close()
    for _ in range(2):
        site.answer(make_request("GET", target, headers=headers))
    with pytest.raises(Unavailable):
        site.answer(make_request("GET", target, headers=headers))


# Pause and resume


def test_requests_are_held_until_they_are_let_through_again(site):
    status, body = act(site, "/sidecar/api/pause?reason=a+migration")
    assert status == 200 and body["paused"].startswith("a migration")
    assert act(site, "/sidecar/api/resume")[1]["paused"] is None


@pytest.mark.parametrize(("asked", "seconds"), [("", 30.0), ("?for=2s", 2.0), ("?for=100s", 30.0)])
def test_a_pause_says_how_long_it_is(site, asked, seconds):
    """Who asks for more than is given must not count on it."""
    assert act(site, f"/sidecar/api/pause{asked}")[1]["paused_seconds"] == seconds


def test_a_pause_ends_by_itself(site):
    assert act(site, "/sidecar/api/pause?for=10ms")[0] == 200
    wait_until(lambda: not site.services[0].gate.paused)


def test_a_pause_and_its_end_are_events(site):
    """By them the page looks again, and in them stands later why clients waited."""
    feed = site.around.feed
    before = feed.last
    act(site, "/sidecar/api/pause?for=10ms&reason=a+migration")
    wait_until(lambda: feed.last == before + 2)
    act(site, "/sidecar/api/resume")
    act(site, "/sidecar/api/pause?reason=a+migration")
    act(site, "/sidecar/api/resume?reason=it+is+done")
    told = [(event["kind"], event["reason"].partition(" (")[0]) for event in feed.after(before)]
    assert told == [("paused", "a migration"), ("resumed", "its time is over"),
                    ("paused", "a migration"), ("resumed", "it is done")]


@pytest.mark.parametrize("text", ["0", "x", "-1s"])
def test_a_pause_of_no_length_is_a_bad_request(site, text):
    with pytest.raises(BadRequest, match=f"for={text}"):
        act(site, f"/sidecar/api/pause?for={text}")
    assert not site.services[0].gate.paused


def test_only_operators_pause(site):
    with pytest.raises(Forbidden):
        ask(site, "POST", "/sidecar/api/pause")


def test_readyz_asks_no_token_file(site, monkeypatch):
    """It is answered on the loop, where nothing may wait for a disk."""
    monkeypatch.setattr(site.access, "knows", lambda request: pytest.fail("a token was looked for"))
    with pytest.raises(Unavailable):
        site.answer(make_request("GET", "/sidecar/readyz", headers=[("Authorization", "Bearer x")]))


# The feed as a stream


def stream(feed):
    return FeedStream(feed)


def test_the_feed_comes_from_its_beginning_and_says_when_to_come_back():
    feed = Feed()
    feed.publish("state", state="running")
    first, second = islice(stream(feed).pieces(0, True), 2)
    assert first == b"retry: 1000\n\n"
    assert b"event: state\n" in second
    assert b'"state": "running"' in second


def test_a_client_that_was_here_gets_what_it_missed():
    feed = Feed()
    for number in range(3):
        feed.publish("x", number=number)
    events = stream(feed)
    _, piece = islice(events.pieces(0, True), 2)
    ids = [line[4:].decode() for line in piece.splitlines() if line.startswith(b"id: ")]
    _, rest = islice(events.pieces(events.known(ids[1]), True), 2)
    assert b'"number": 2' in rest
    assert b'"number": 1' not in rest


def test_a_client_of_an_earlier_run_of_the_wrapper_begins_anew():
    feed = Feed()
    feed.publish("x")
    assert stream(feed).known("abcdef-1") == 0


def test_what_is_no_id_is_no_id():
    feed = Feed()
    feed.publish("x")
    events = stream(feed)
    assert [events.known(text) for text in (None, "", "x", "\u0661", "5", "99-", "9" * 5000)] == [0] * 7
    assert events.known("1") == 1
    assert events.known("now") == 1


def test_silence_is_broken_now_and_then(monkeypatch):
    """Else it would not be noticed that the client is gone."""
    monkeypatch.setattr("wrapper.sidecar.reply.HEARTBEAT_INTERVAL", 0.01)
    _, second = islice(stream(Feed()).pieces(0, True), 2)
    assert second == b": \n\n"


def test_the_stream_ends_with_the_wrapper():
    feed = Feed()
    feed.publish("end")
    assert len(list(stream(feed).pieces(0, True))) == 2
