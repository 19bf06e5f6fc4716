"""site.py: which requests are answered here, and to whom."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from tests.sidecar.parts import make_request, make_site, with_routes
from wrapper.errors import BadRequest, Forbidden, MethodNotAllowed, NotFound, Refusal, TooManyRequests, Unauthorized
from wrapper.http1.message import Ended
from wrapper.http1.request import normal_path, read_request
from wrapper.sidecar.site import MOST_FRONTS

SITE = with_routes()
OTHERS = [  # of /sidecar/api/status, /hook/x and /app/x: what fronts that forbid these take for something else
    "/%5csidecar/api/status", "/\\sidecar/api/status", "/x%5c..%5csidecar%5capi%5cstatus", "//sidecar/api/status",
    "/%73idecar/api/status", "/sidecar//api/status", "/x/../sidecar/api/status", "/./sidecar/api/status",
    "/sidecar/api/status/../status", "/sidecar/%2e/api/status", "/sidecar%2fapi/status", "/sidecar/api/st%61tus",
    "/sidecar/api%5Cstatus", "/%73idecar", "/%73idecar/nothing", "/%68ook/x", "/hook%2fx", "//hook/x", "/hook/y/../x",
    "/%61pp/x", "/app%2fx", "/app/../app/x", "/app//x", "/app/y/..%2fx", "/caf%C3%A9%20%281%29"]


@pytest.mark.parametrize("target", OTHERS)
def test_another_spelling_of_an_own_path_is_neither_answered_nor_relayed(target):
    with pytest.raises(BadRequest):
        SITE.answer(make_request("GET", target))


@pytest.mark.parametrize(("target", "answer"), [
    ("/sidecar/api/problems", b"[]\n"), ("/sidecar/api/problems?x=%2e%2e//", b"[]\n"), ("/hook/a%20b%2e", b"a b."),
    ("/hook/%61", b"a"), ("/hook/caf%c3%a9", "caf\xe9".encode()), ("/hook/caf\xc3\xa9", "caf\xe9".encode()),
    ("/app/a%20b", b"/app/a b"), ("/app/a%2Fb", b"/app/a/b"), ("/app", b"/app"), ("/app/", b"/app/"),
    ("/caf%C3%A9%20(1)", b"x"), ("/caf\xc3\xa9%20(1)", b"x")])
def test_a_path_is_answered_in_its_literal_spelling(target, answer):
    """RFC 3986 section 2.4: what a parameter holds may be escaped, and what cannot stand in a path must be."""
    assert SITE.answer(make_request("GET", target)).whole() == answer


@given(st.text("/%5cC2fF.s\\xid", max_size=12).map(lambda text: "/" + text), st.sampled_from([
    "/sidecar/healthz", "/hook/x", "/app/x"]))
@example("/%2e%2e/", "/sidecar/healthz")
def test_whatever_stands_before_it_an_own_path_is_answered_only_as_it_is_written(before, own):
    target = before + own
    is_own = normal_path(target).startswith(("/sidecar", "/hook/", "/app"))
    try:
        answer = SITE.answer(make_request("GET", target))
    except Refusal:
        return
    assert (answer is None) != is_own or target.startswith(("/sidecar", "/hook/", "/app"))


@pytest.mark.parametrize("value", ["%00", "a%0d%0ab", "%ff", "a%7fb", "%ed%a0%80", "%c2%85", "\xff"])
def test_a_parameter_holds_no_control_character_and_is_text(value):
    """A line break would go on in a log or a field, a lone surrogate cannot be written at all."""
    with pytest.raises(BadRequest, match="control character"):
        SITE.answer(make_request("GET", f"/hook/{value}"))


def with_token(target, token="sesame"):
    return make_request("GET", target, headers=[("Authorization", f"Bearer {token}")])


@pytest.mark.parametrize("target", [
    "/sidecar/", "/sidecar", "/sidecar/api/status", "/sidecar/api/events", "/sidecar/metrics", "/sidecar/api/problems",
    "/hook/x", "/app/x"])
def test_a_private_wrapper_asks_for_the_token(target):
    site = with_routes("--private", "--token", "sesame")
    with pytest.raises(Unauthorized):
        site.answer(make_request("GET", target))
    assert site.answer(with_token(target)).status < 400
    assert site.answer(make_request("GET", target, trusted=True)).status < 400


def test_a_private_wrapper_does_not_say_what_there_is():
    site = with_routes("--private", "--token", "sesame")
    for target in ("/sidecar/nothing", "/sidecar/api/stop"):
        with pytest.raises(Unauthorized):
            site.answer(make_request("GET", target))
    with pytest.raises(NotFound):
        site.answer(with_token("/sidecar/nothing"))
    with pytest.raises(MethodNotAllowed):
        site.answer(with_token("/sidecar/api/stop"))


def test_probes_of_a_private_wrapper_need_none():
    site = with_routes("--private", "--token", "sesame")
    assert site.answer(make_request("GET", "/sidecar/healthz")).status == 200
    with pytest.raises(Refusal) as refusal:
        site.answer(make_request("GET", "/sidecar/readyz"))
    assert refusal.value.status == 503


@pytest.fixture
def scraper_token(tmp_path):
    file = tmp_path / "scraper"
    file.write_text("scraper-scraper-scraper\n")
    file.chmod(0o600)
    return str(file)


@pytest.mark.parametrize("options", [(), ("--private",)])
def test_metrics_may_have_a_token_of_their_own(scraper_token, options):
    site = with_routes("--metrics-token-file", scraper_token, "--token", "sesame", *options)
    for request in (make_request("GET", "/sidecar/metrics"), with_token("/sidecar/metrics", "wrong")):
        with pytest.raises(Unauthorized):
            site.answer(request)
    for request in (with_token("/sidecar/metrics", "scraper-scraper-scraper"), with_token("/sidecar/metrics"),
                    make_request("GET", "/sidecar/metrics", trusted=True)):
        assert site.answer(request).status == 200
    with pytest.raises(Unauthorized):
        site.answer(with_token("/sidecar/api/logs", "scraper-scraper-scraper"))


def test_the_token_of_metrics_is_judged_and_guesses_are_slowed_down_there_too(scraper_token):
    site = with_routes("--metrics-token-file", scraper_token, "--token", "sesame")
    for _ in range(10):
        with pytest.raises(Unauthorized):
            site.answer(with_token("/sidecar/metrics", "wrong"))
    with pytest.raises(TooManyRequests):
        site.answer(with_token("/sidecar/metrics"))  # a guess at either
    broken = with_routes("--metrics-token-file", scraper_token + "x")
    assert [problem["id"] for problem in broken.around.board.list()] == ["access:metrics"]
    with pytest.raises(Forbidden):
        broken.answer(make_request("GET", "/sidecar/metrics"))


def test_strangers_streams_do_not_keep_the_operator_out():
    """A hundred anonymous event streams did."""
    site = with_routes("--token", "sesame")
    open_ones = [site.answer(make_request("GET", "/sidecar/api/events")) for _ in range(100)]
    with pytest.raises(Refusal) as refusal:
        site.answer(make_request("GET", "/sidecar/api/events"))
    assert refusal.value.status == 503
    site.answer(with_token("/sidecar/api/events")).close()
    with pytest.raises(Refusal):
        site.answer(with_token("/sidecar/api/events", "wrong"))
    for response in open_ones:
        response.close()
    site.answer(make_request("GET", "/sidecar/api/events")).close()


def test_the_first_502_of_a_kind_is_a_problem_and_counts_those_that_follow(capfd):
    site = make_site()
    for status, reason, path in ((502, "it closed", "/a"), (502, "it closed", "/b"), (400, "too large", "/c")):
        site.note_failure(status, reason, f"GET {path}")
    problems = site.around.board.list()
    assert [(problem["message"], problem["count"]) for problem in problems] == [("502: it closed", 2),
                                                                                ("400: too large", 1)]
    assert problems[0]["details"] == {"latest": "GET /b"}
    assert "GET /a" in (said := capfd.readouterr().err) and "GET /b" in said


# A proxy that was forgotten in --trusted-proxies is named


@pytest.fixture
def lines(monkeypatch):
    said = []
    monkeypatch.setattr("wrapper.sidecar.site.log.warning", lambda text, **facts: said.append((text, facts)))
    return said


def ended(peer, fields=b"X-Forwarded-Proto: https\r\n"):
    head = read_request(b"GET / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n", 65536)
    return Ended("GET", "/", 200, 0.1, 0.1, 0.0, 0, 0, False, peer, head)


def test_a_peer_whose_word_is_replaced_is_named_once(lines):
    """A redirect loop began without a word."""
    site = make_site()
    for peer in ("10.0.0.1", "10.0.0.1", "10.0.0.2", None, None):
        site.ended(ended(peer))
    assert [facts["peer"] for _, facts in lines] == ["10.0.0.1", "10.0.0.2", "unix"]
    assert all("--trusted-proxies" in text for text, _ in lines)


@pytest.mark.parametrize("fields", [b"", b"X-Forwarded-Proto: http\r\n", b"X-Forwarded-Proto: x\r\nX-Real-IP: y\r\n"])
def test_what_changes_nothing_is_no_news(lines, fields):
    make_site().ended(ended("10.0.0.1", fields))
    make_site("--trusted-proxies", "10.0.0.0/8").ended(ended("10.0.0.1"))
    assert lines == []


def test_ever_new_peers_take_no_memory(lines):
    site = make_site()
    for number in range(MOST_FRONTS * 3):
        site.ended(ended(f"10.0.{number // 250}.{number % 250}"))
    assert len(lines) == MOST_FRONTS
