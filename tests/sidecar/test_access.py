"""access.py: who may act."""

from __future__ import annotations

import os

import pytest

from tests.running import wait_until
from tests.sidecar.parts import make_request
from wrapper.errors import Forbidden, TooManyRequests, Unauthorized
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.sidecar import tokens
from wrapper.sidecar.access import Access


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
    monkeypatch.setattr(tokens.time, "monotonic", lambda: now[0])
    access = Access(LONG, None, board)
    for _ in range(tokens.ALLOWANCE):
        with pytest.raises(Unauthorized):
            access.check(from_peer("192.0.2.1", "wrong"))
    for token in ("wrong", LONG):  # told apart, the two would make the answer a try again
        with pytest.raises(TooManyRequests) as refusal:
            access.check(from_peer("192.0.2.1", token))
    assert refusal.value.headers == (("Retry-After", "1"),)
    access.check(from_peer("192.0.2.2", LONG))
    with pytest.raises(Unauthorized):
        access.check(make_request("POST", "/x"))  # without any token it is no try
    now[0] += tokens.PAUSE
    access.check(from_peer("192.0.2.1", LONG))
