"""access.py: who may act, token files, wrong tokens, and pages of other sites."""

from __future__ import annotations

import os

import pytest

from tests.running import wait_until
from tests.sidecar.parts import make_request, make_site, with_routes
from wrapper.errors import Forbidden, Refusal, TooManyRequests, Unauthorized
from wrapper.events import Feed
from wrapper.http1.message import Response
from wrapper.problems import Board
from wrapper.sidecar import access as room
from wrapper.sidecar.access import ALLOWANCE, PAUSE, PEERS_MAX, REPORT_INTERVAL, Access, Tries, read_token
from wrapper.sidecar.router import Route


@pytest.fixture
def board():
    return Board(Feed())


LONG = "sesame-sesame-sesame"


def write(file, content):
    """As a secret is written: for its owner."""
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    file.chmod(0o600)


def bearer(token, scheme="Bearer"):
    return make_request("POST", "/x", headers=[("Authorization", f"{scheme} {token}")])


def test_the_right_token_may(board):
    Access("s3cret", None, board).check(bearer("s3cret"))
    Access("s3cret", None, board).check(bearer("s3cret", "bearer"))  # RFC 9110 section 11.1: schemes in any case


@pytest.mark.parametrize("request_", [
    make_request("POST", "/x"), bearer("wrong"), bearer(""), bearer("s3cret", "Basic"), bearer("s3cre"),
    bearer("s3cret\xa0"),
    make_request("POST", "/x", headers=[("Authorization", "s3cret")]), bearer("\xe4\xf6")])
def test_a_missing_or_wrong_token_is_401(board, request_):
    with pytest.raises(Unauthorized) as refusal:
        Access("s3cret", None, board).check(request_)
    assert "s3cret" not in refusal.value.message


def test_a_token_in_the_query_or_a_cookie_does_not_count(board):
    """Only a field that no other site can set is safe from forged requests."""
    request = make_request("POST", "/x?token=s3cret", headers=[("Cookie", "token=s3cret")])
    with pytest.raises(Unauthorized):
        Access("s3cret", None, board).check(request)


def test_without_a_token_configured_it_is_403(board):
    with pytest.raises(Forbidden):
        Access(None, None, board).check(bearer("anything"))


def test_the_control_socket_needs_no_token(board):
    Access(None, None, board).check(make_request("POST", "/x", trusted=True))
    Access("s3cret", None, board).check(make_request("POST", "/x", trusted=True))


def test_a_token_file_is_read_again_when_it_changes(board, tmp_path):
    file = tmp_path / "token"
    file.write_text("first\n")
    access = Access(None, str(file), board)
    access.check(bearer("first"))
    new = tmp_path / "new"
    new.write_text("other")
    os.utime(new, (0, 0))
    os.replace(new, file)  # as Kubernetes does: by a swap
    access.check(bearer("other"))
    with pytest.raises(Unauthorized):
        access.check(bearer("first"))


def test_a_token_given_with_a_line_break_is_the_token(board):
    """As `--token "$(cat file)"` never has one, but a variable from a secret has."""
    Access("s3cret\n", None, board).check(bearer("s3cret"))


@pytest.mark.parametrize("token", ["", " \n"])
def test_a_token_that_is_empty_lets_nobody_in(board, token):
    with pytest.raises(Forbidden):
        Access(token, None, board).check(bearer(token.strip()))


def test_a_file_that_is_written_over_in_place_is_read_again(board, tmp_path):
    """The same inode, size and time: ctime is the one thing that cannot be set back."""
    file = tmp_path / "token"
    file.write_text("first")
    os.utime(file, (1, 1))
    access = Access(None, str(file), board)
    access.check(bearer("first"))

    def rewritten():
        file.write_text("other")
        os.utime(file, (1, 1))
        try:
            access.check(bearer("other"))
        except Unauthorized:
            return False  # within one tick of the file system's clock
        return True

    wait_until(rewritten)


def test_a_token_file_is_looked_at_when_the_wrapper_starts(board, tmp_path):
    """Not only when a client tries it."""
    Access(None, str(tmp_path / "missing"), board)
    assert "token file" in board.list()[0]["message"]


def test_whoever_is_kept_out_by_a_bad_token_file_hears_of_the_file(board, tmp_path):
    (tmp_path / "token").touch()
    with pytest.raises(Forbidden, match="the token file is empty or cannot be read"):
        Access(None, str(tmp_path / "token"), board).check(bearer("x"))


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_token_file_without_a_token_lets_nobody_in_and_is_a_problem(board, tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    access = Access(None, str(file), board)
    with pytest.raises(Forbidden):
        access.check(bearer(""))
    assert [problem["source"] for problem in board.list()] == ["access"]
    write(file, LONG)
    access.check(bearer(LONG))
    assert not board.list()


@pytest.mark.parametrize(("content", "said"), [
    (b"\xef\xbb\xbf" + LONG.encode(), "byte order mark"), (f"{LONG}\n{LONG}\n", "more than one line"),
    (f"{LONG}\0", "cannot be seen"), (b"\xff" * 20, "not UTF-8"), ("x" * 70_000, "longer than 4096 bytes"),
    (f"{LONG}\xa0", "cannot be seen")])
def test_what_could_never_match_is_said(board, tmp_path, content, said):
    """Not only refused in silence, request by request."""
    write(tmp_path / "token", content)
    access = Access(None, str(tmp_path / "token"), board)
    assert said in board.list()[0]["message"]
    with pytest.raises(Forbidden):
        access.check(bearer(LONG))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_hangs_no_request(board, tmp_path, make):
    make(tmp_path / "token")
    with pytest.raises(Forbidden):
        Access(None, str(tmp_path / "token"), board).check(bearer(LONG))
    assert "no regular file" in board.list()[0]["message"]


@pytest.mark.parametrize(("content", "mode", "said"), [(LONG, 0o644, "every user can read it"),
                                                       ("sesame", 0o600, "shorter than 16 characters")])
def test_a_weak_token_works_and_is_a_problem(board, tmp_path, content, mode, said):
    """Kubernetes mounts secrets 0644 unless told otherwise: that is no reason to lock the operator out."""
    file = tmp_path / "token"
    write(file, content)
    file.chmod(mode)
    access = Access(None, str(file), board)
    access.check(bearer(content))
    assert said in board.list()[0]["message"]
    write(file, LONG)
    access.check(bearer(LONG))
    assert not board.list()


def test_a_space_that_is_not_of_http_is_part_of_the_token(board):
    """RFC 9110 section 5.5: what stands around a value are SP and HTAB."""
    with pytest.raises(Unauthorized):
        Access("sesame", None, board).check(bearer("sesame\xa0"))


def from_peer(peer, token):
    return make_request("POST", "/x", headers=[("Authorization", f"Bearer {token}")], peer=peer)


def test_wrong_tries_are_slowed_down_for_their_peer_alone(board, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    access = Access(LONG, None, board)
    for _ in range(ALLOWANCE):
        with pytest.raises(Unauthorized):
            access.check(from_peer("192.0.2.1", "wrong"))
    for token in ("wrong", LONG):  # told apart, the two would make the answer a try again
        with pytest.raises(TooManyRequests) as refusal:
            access.check(from_peer("192.0.2.1", token))
    assert refusal.value.headers == (("Retry-After", "1"),)
    access.check(from_peer("192.0.2.2", LONG))
    with pytest.raises(Unauthorized):
        access.check(make_request("POST", "/x"))  # without any token it is no try
    now[0] += PAUSE
    access.check(from_peer("192.0.2.1", LONG))


# The file, and tries


def test_a_token_is_its_line_without_what_stands_around_it(tmp_path):
    file = tmp_path / "token"
    file.write_text(f" {LONG}\t\r\n")
    file.chmod(0o600)
    assert read_token(str(file)) == (LONG.encode(), None)
    file.write_text("schl\xfcssel-schl\xfcssel")
    assert read_token(str(file)) == ("schl\xfcssel-schl\xfcssel".encode(), None)


def test_what_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        read_token(str(tmp_path / "missing"))


def test_what_is_remembered_of_peers_is_bounded():
    tries = Tries()
    for number in range(2 * PEERS_MAX):
        tries.note(f"peer {number}")
    assert len(tries._until) == PEERS_MAX


def test_wrong_tries_are_counted_and_said_once_a_minute(monkeypatch):
    lines, now = [], [1000.0]
    monkeypatch.setattr(room.log, "warning", lambda message, **facts: lines.append(facts["count"]))
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    tries = Tries()
    for _ in range(100):
        tries.note("192.0.2.1")
    assert lines == [1]
    now[0] += REPORT_INTERVAL
    tries.note("192.0.2.1")
    assert lines == [1, 100]


# Pages and names


SITE = with_routes()


def fetched(site_header, mode="cors", dest="empty"):
    return [("Sec-Fetch-Site", site_header), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest)]


@pytest.mark.parametrize("target", ["/sidecar/api/status", "/sidecar/", "/hook/x", "/app/x", "/sidecar/nothing"])
@pytest.mark.parametrize("headers", [
    fetched("cross-site"), fetched("cross-site", "no-cors", "image"), fetched("cross-site", "navigate", "iframe")])
def test_a_page_of_another_site_may_fetch_no_own_path(target, headers):
    """Fetch Metadata, section 2: an image of ours on another site's page would be a request of the operator's."""
    with pytest.raises(Forbidden, match="other sites"):
        SITE.answer(make_request("GET", target, headers=headers))


@pytest.mark.parametrize("headers", [
    [], fetched("same-origin"), fetched("none", "navigate", "document"), fetched("same-site"),
    fetched("cross-site", "navigate", "document")])
def test_the_own_page_a_link_and_programs_may(headers):
    assert SITE.answer(make_request("GET", "/sidecar/api/status", headers=headers)).status == 200


def test_a_route_may_be_meant_for_other_sites():
    site = make_site()
    site.add(Route("GET", "/public", lambda request: Response("x"), is_shared=True))
    answer = site.answer(make_request("GET", "/public", headers=fetched("cross-site")))
    assert dict(answer.headers) == {"X-Content-Type-Options": "nosniff"}


HOSTS = ("--allowed-hosts", "grafana.example, other.example")


def asked_as(site, host, target="/sidecar/api/status", trusted=False):
    request = make_request("GET", target, trusted=trusted)
    request.host = host
    return site.answer(request)


@pytest.mark.parametrize("host", [
    "grafana.example", "GRAFANA.example:3000", "grafana.example.", "other.example", "localhost", "localhost:8080",
    "127.0.0.1:8080", "10.1.2.3", "[::1]:8080", "[fd00::1]", ""])
def test_an_allowed_host_an_address_and_localhost_are_answered(host):
    """Probes ask by address, and HTTP/1.0 by none."""
    assert asked_as(with_routes(*HOSTS), host).status == 200


@pytest.mark.parametrize("target", ["/sidecar/api/status", "/sidecar/", "/hook/x", "/app/x"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:3000", "127.0.0.1.evil.example", "localhost.evil"])
def test_a_name_that_leads_here_by_accident_is_not(target, host):
    """DNS rebinding: the other site's page is of the same origin then, and Host is what tells."""
    with pytest.raises(Forbidden, match="host"):
        asked_as(with_routes(*HOSTS), host, target)
    assert asked_as(with_routes(*HOSTS), host, target, trusted=True).status == 200
    assert asked_as(with_routes(), host, target).status == 200


@pytest.mark.parametrize("target", [
    "/sidecar/", "/sidecar", "/sidecar/api/status", "/sidecar/metrics", "/hook/x", "/app/x"])
def test_every_answer_of_ours_is_kept_from_other_sites(target):
    fields = [name.lower() for name, _ in SITE.answer(make_request("GET", target)).headers]
    assert fields.count("x-content-type-options") == fields.count("cross-origin-resource-policy") == 1


@pytest.mark.parametrize("target", ["/sidecar/nothing", "/sidecar/api/stop", "/%73idecar", "/sidecar/api/logs"])
def test_every_refusal_of_ours_is_too(target):
    with pytest.raises(Refusal) as refusal:
        SITE.answer(make_request("GET", target))
    assert {"X-Content-Type-Options", "Cross-Origin-Resource-Policy"} <= set(dict(refusal.value.headers))


def test_a_sidecar_may_say_otherwise():
    site = make_site()
    theirs = ("cross-origin-resource-policy", "cross-origin")
    site.add(Route("GET", "/x", lambda request: Response(headers=[theirs])))
    answer = site.answer(make_request("GET", "/x"))
    assert answer.headers == [theirs, ("X-Content-Type-Options", "nosniff")]
