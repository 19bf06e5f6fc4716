"""Sources answer with what is there, or say in one sentence why not: in time, in bounded memory, without secrets."""

from __future__ import annotations

import base64
import os
import socket
import threading
import time

import pytest

from tests.config.conftest import answer
from tests.running import free_port
from wrapper.config import source
from wrapper.config.source import JSON_BYTES, CannotFetch, Snapshot, Url, document


def fetch(origin, **options):
    return source.of(origin, **{"timeout": 2.0, **options}).fetch()


def refused(origin, **options):
    with pytest.raises(CannotFetch) as caught:
        fetch(origin, **options)
    return str(caught.value)


# URLs


def test_a_document_comes_whole(serve):
    found = fetch(serve(answer('{"a": 1}')).url)
    assert found.changed
    assert found.content == b'{"a": 1}'


def test_what_has_not_changed_is_not_sent_again(serve):
    """RFC 9110 section 13.1.2."""

    def etag(connection, head):
        connection.sendall(answer("", "304 Not Modified") if 'If-None-Match: "v1"' in head
                           else answer("text", "200 OK", 'ETag: "v1"'))

    origin = source.of(serve(etag).url)
    assert origin.fetch().changed
    assert not origin.fetch().changed
    origin.forget()
    assert origin.fetch().changed


def test_a_date_is_no_condition(serve):
    """An older file that is moved into place, or the second change in one second, would never be seen."""
    server = serve(answer("text", "200 OK", "Last-Modified: Mon, 02 Feb 2026 10:00:00 GMT"))
    origin = source.of(server.url)
    assert origin.fetch().changed
    assert origin.fetch().changed
    assert "If-" not in "".join(server.heads)


def test_a_tag_goes_to_the_url_that_gave_it(serve):
    other = serve(answer("text", "200 OK", 'ETag: "v1"'))
    first = serve(answer("", "302 Found", f"Location: {other.url}"))
    origin = source.of(first.url)
    origin.fetch()
    origin.fetch()
    assert ["If-None-Match" in head for head in first.heads + other.heads] == [False, False, False, True]


def test_a_304_that_was_not_asked_for_is_no_answer(serve):
    assert "answers 304" in refused(serve(answer("", "304 Not Modified")).url)


@pytest.mark.parametrize(("reply", "reason"), [
    (answer(""), "the answer is empty"), (answer("x", "200 OK", "Content-Encoding: gzip"), "answers in gzip"),
])
def test_what_is_no_content_is_refused(serve, reply, reason):
    assert reason in refused(serve(reply).url)


def test_the_timeout_counts_over_all_addresses_of_a_host(monkeypatch):
    """A listener whose queue is full lets the next connection wait (listen(2))."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    crowd = [socket.socket() for _ in range(3)]
    for one in crowd:
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
    places = socket.getaddrinfo(*listener.getsockname(), type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places * 300)
    begin = time.monotonic()
    assert "no whole answer within 0.2 s" in refused("http://many/", timeout=0.2)
    assert time.monotonic() - begin < 30, "each by itself it would be a minute"
    for one in (*crowd, listener):
        one.close()


def test_the_timeout_counts_while_a_name_is_resolved(monkeypatch):
    """Without an answer of any server that takes 5 s for each of them, twice, and for each search domain."""
    held, came_back = threading.Event(), threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (held.wait(60), came_back.set())[2:])
    assert "no whole answer within 0.1 s" in refused("http://no-answer/", timeout=0.1)
    assert not came_back.is_set()
    held.set()


def test_a_name_that_there_is_not_is_said(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert refused("http://unknown/") == "http://unknown/: Name or service not known"


@pytest.mark.parametrize("make", [lambda held: lambda: held.wait(20), None])
def test_a_look_takes_no_longer_than_it_may_this_time(serve, make):
    held = threading.Event()
    origin = source.of(make(held) if make else serve(lambda *_: held.wait(20)).url)
    with pytest.raises(CannotFetch, match=r"within 0\.1 s"):
        origin.fetch(0.1)
    held.set()


def test_the_token_is_read_at_every_look_and_never_shown(serve, tmp_path):
    server = serve(answer("nothing", "401 Unauthorized"))
    token = tmp_path / "token"
    for text in ("one", "two"):
        token.write_text(text + "\n")
        assert text not in refused(server.url, token_file=str(token))
    assert ["Authorization: Bearer one" in head for head in server.heads] == [True, False]
    assert "Authorization: Bearer two" in server.heads[1]


def test_a_missing_token_file_is_said():
    assert "cannot read the token" in refused("http://127.0.0.1:1/", token_file="/nowhere/token")


def test_a_token_file_that_is_a_pipe_is_said_at_once(tmp_path):
    """Its reader would wait for ever (fifo(7))."""
    os.mkfifo(tmp_path / "token")
    said = refused("http://127.0.0.1:1/", token_file=str(tmp_path / "token"))
    assert "cannot read the token: it is no regular file" in said


@pytest.mark.parametrize("content", [b"secret-1\n# rotated\n", b"secret 1", b"", b"\xff\xfe", "sécret".encode()])
def test_a_token_that_is_none_is_named_by_its_file_only(serve, tmp_path, content):
    """http.client names the field that it refuses with its value."""
    server, token = serve(answer("x")), tmp_path / "token"
    token.write_bytes(content)
    said = refused(server.url, token_file=str(token))
    assert f"{token} holds no token" in said
    assert "secret" not in said
    assert server.heads == []


def test_credentials_in_the_url_are_used_and_masked(serve):
    server = serve(answer("no", "403 Forbidden"))
    url = f"http://user:pass%20word@127.0.0.1:{server.port}/c?token=hidden"
    said = refused(url)
    assert "Authorization: Basic dXNlcjpwYXNzIHdvcmQ=" in server.heads[0]
    for secret in ("user", "pass", "hidden"):
        assert secret not in said
        assert secret not in source.of(url).name


def test_credentials_do_not_follow_a_redirect_elsewhere(serve, tmp_path):
    """CVE-2018-18074 was a client that sent them on."""
    (tmp_path / "token").write_text("secret")
    other = serve(answer("moved here"))
    first = serve(answer("", "302 Found", f"Location: {other.url}"))
    assert fetch(first.url, token_file=str(tmp_path / "token")).content == b"moved here"
    assert "Authorization" in first.heads[0]
    assert "Authorization" not in other.heads[0]


def test_a_redirect_to_itself_ends(serve):
    server = serve(answer("", "302 Found", "Location: /configuration"))
    assert "more than 5 redirects" in refused(server.url)
    assert len(server.heads) == 6


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_leads_to_http_only(serve, place):
    assert "no http or https URL" in refused(serve(answer("", "302 Found", f"Location: {place}")).url)


def test_no_server_there():
    assert "Connection refused" in refused(f"http://127.0.0.1:{free_port()}/")


@pytest.mark.parametrize(("reply", "reason"), [
    (answer("oops", "500 Internal Server Error"), "answers 500"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "no good HTTP"),
    (b"", "no good HTTP"),
    (b"\x00\xff" * 40000, "no good HTTP"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "96 bytes too early"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal", "no good HTTP"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n", "over 16777216 bytes"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nwhole", "two lengths"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nhalf", "no number"),
])
def test_garbage_is_named(serve, reply, reason):
    assert reason in refused(serve(reply).url)


def test_a_server_that_hangs_takes_no_more_than_the_timeout(serve):
    held, came_back = threading.Event(), threading.Event()
    server = serve(lambda *_: (held.wait(60), came_back.set()))
    assert "no whole answer within 0.3 s" in refused(server.url, timeout=0.3)
    assert not came_back.is_set()
    held.set()


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"])
def test_a_server_that_drips_takes_no_more_than_the_timeout(serve, start):
    """The timeout counts for the whole look, not for each byte of it."""
    stop, is_dry = threading.Event(), threading.Event()

    def drip(connection, head):
        connection.sendall(start)
        for _ in range(600):
            if stop.wait(0.05):
                return
            connection.sendall(b"x")
        is_dry.set()

    assert "no whole answer within 0.5 s" in refused(serve(drip).url, timeout=0.5)
    assert not is_dry.is_set()
    stop.set()


def test_endless_content_is_cut_off(serve, monkeypatch):
    monkeypatch.setattr(source, "MAX_BYTES", 1024 * 1024)
    sent = []

    def pour(connection, head):
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while len(sent) < 3200:
            connection.sendall(b"x" * 65536)
            sent.append(1)

    assert "over 1048576 bytes" in refused(serve(pour).url, timeout=10)
    assert len(sent) < 200, "the rest must not be read"


def test_a_url_that_cannot_be_is_refused_at_once():
    for url in ("http://host:port/", "http://host/a b", "gopher://host/"):
        with pytest.raises(ValueError):
            source.of(url)


# Files and folders


def test_a_file_is_read_when_it_changed(tmp_path):
    file = tmp_path / "file"
    file.write_text("one")
    os.utime(file, (1, 1))
    origin = source.of(str(file))
    assert origin.fetch().content == b"one"
    assert not origin.fetch().changed
    file.write_text("two")
    assert origin.fetch().content == b"two"


def test_a_change_within_the_grain_of_the_clock_is_seen(tmp_path):
    file = tmp_path / "file"
    origin = source.of(str(file))
    for number in range(200):
        file.write_text(f"{number:03}")
        assert origin.fetch().content == f"{number:03}".encode()


def test_what_is_being_written_is_not_still_until_the_next_look_finds_the_same(tmp_path):
    """Half of a file that is written in place is a document of its own in many languages."""
    file = tmp_path / "file"
    file.write_text("whole")
    os.utime(file, (1, 1))
    origin = source.of(str(file))
    assert origin.fetch().is_still, "it was written long before"
    file.write_text("ha")
    assert not origin.fetch().is_still
    file.write_text("half")
    assert not origin.fetch().is_still
    found = origin.fetch()
    assert (found.content, found.is_still) == (b"half", True)


def test_what_was_written_right_before_the_first_look_is_looked_at_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "YOUNG_SECONDS", 3600.0)
    (tmp_path / "file").write_text("one")
    origin = source.of(str(tmp_path / "file"))
    assert [origin.fetch().is_still for _ in range(2)] == [False, True]


def test_a_file_that_was_not_empty_and_is_now_is_no_content(tmp_path):
    """The first half of a write in place, and what a full disk leaves of it."""
    file = tmp_path / "file"
    file.write_text("")
    origin = source.of(str(file))
    assert origin.fetch().content == b"", "it may be empty from the beginning"
    file.write_text("text")
    origin.fetch()
    file.write_text("")
    for _ in range(3):
        origin.forget()
        with pytest.raises(CannotFetch, match="file: is empty, and was not before"):
            origin.fetch()
    file.write_text("text again")
    assert origin.fetch().content == b"text again"


def test_a_folder_with_a_file_or_all_of_it_emptied_is_no_content(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    origin = source.of(str(tmp_path))
    origin.fetch()
    (tmp_path / "b").write_text("")
    with pytest.raises(CannotFetch, match="b: is empty, and was not before"):
        origin.fetch()
    (tmp_path / "b").unlink()
    assert origin.fetch().content == {"a": b"a"}
    (tmp_path / "a").unlink()
    with pytest.raises(CannotFetch, match="is empty, and was not before"):
        origin.fetch()


def test_what_editors_leave_in_a_folder_is_no_configuration(tmp_path):
    (tmp_path / "a.yml").write_text("a")
    os.utime(tmp_path / "a.yml", (1, 1))
    origin = source.of(str(tmp_path))
    assert origin.fetch().content == {"a.yml": b"a"}
    (tmp_path / ".git").mkdir()
    for name in (".a.yml.swp", "a.yml~", "#a.yml#", "a.swp", "4913", "a.yml.tmp", ".git/config"):
        (tmp_path / name).write_text("x")
        assert not origin.fetch().changed, name
    assert fetch(str(tmp_path)).content == {"a.yml": b"a"}


def test_a_missing_file_is_said(tmp_path):
    assert "No such file" in refused(str(tmp_path / "none"))


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refused(str(tmp_path / "pipe"))


def test_a_file_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "MAX_BYTES", 100)
    (tmp_path / "file").write_bytes(b"x" * 101)
    assert "over 100 bytes" in refused(str(tmp_path / "file"))


def kubernetes(folder, content):
    """What the kubelet does with a mounted ConfigMap: a new folder, and `..data` swapped to it."""
    version = folder / f"..{content}"
    version.mkdir()
    (version / "rules.yml").write_text(content)
    (folder / "..data_tmp").symlink_to(version.name)
    os.replace(folder / "..data_tmp", folder / "..data")
    if not (folder / "rules.yml").is_symlink():
        (folder / "rules.yml").symlink_to("..data/rules.yml")


def test_a_folder_as_kubernetes_mounts_it(tmp_path):
    kubernetes(tmp_path, "one")
    origin = source.of(str(tmp_path))
    assert document(origin.fetch(), must_be_json=False) == {"rules.yml": "one"}
    kubernetes(tmp_path, "two")
    found = origin.fetch()
    assert document(found, must_be_json=False) == {"rules.yml": "two"}
    assert found.is_still, "it changed in one step"


def test_a_file_in_a_folder_as_kubernetes_mounts_it(tmp_path):
    kubernetes(tmp_path, "one")
    origin = source.of(str(tmp_path / "rules.yml"))
    assert origin.fetch().content == b"one"
    kubernetes(tmp_path, "two")
    assert origin.fetch().content == b"two"


def test_a_link_that_leads_nowhere_is_no_file(tmp_path):
    """An editor's lock is such a link, and must not keep the folder from being read."""
    (tmp_path / "a").write_text("a")
    (tmp_path / ".#a").symlink_to("user@host.123:1")
    assert fetch(str(tmp_path)).content == {"a": b"a"}


def test_a_link_to_itself_ends(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert "a" in fetch(str(tmp_path)).content


# Callables


def test_a_callable_is_called():
    assert fetch(lambda: {"a": 1}).content == {"a": 1}


def test_a_callable_that_raises_or_exits_is_named():
    def leave():
        raise SystemExit(3)

    assert "leave failed: SystemExit at test_source.py:" in refused(leave)


def test_what_a_callable_raises_is_for_the_log_only(capfd):
    def leak():
        raise RuntimeError("GET https://vault/v1?token=secret-1")

    assert "secret-1" not in refused(leak)
    assert "secret-1" in capfd.readouterr().err


def test_a_callable_that_hangs_costs_one_thread_and_no_more():
    free, before = threading.Event(), set(threading.enumerate())  # one of another test may be about to end
    origin = source.of(free.wait, timeout=0.05)
    for reason in ("did not come back", "has not come back", "has not come back"):
        with pytest.raises(CannotFetch, match=reason):
            origin.fetch()
    assert sum(thread.name.startswith("source-") for thread in set(threading.enumerate()) - before) == 1
    free.set()


# Documents


@pytest.mark.parametrize(("content", "is_json", "value"), [
    (b'{"a": [1]}', None, {"a": [1]}), (b"[section]\nkey=1", None, "[section]\nkey=1"), (b"text", None, "text"),
    (b"\xff\xfe", None, b"\xff\xfe"), (b"3", True, 3), (b"3", None, "3"),
])
def test_json_is_json_where_it_looks_like_it(content, is_json, value):
    assert document(Snapshot(content, is_json, True), must_be_json=False) == value


@pytest.mark.parametrize("is_json", [True, None])
def test_half_a_document_is_refused_where_json_is_needed(is_json):
    with pytest.raises(CannotFetch, match="not JSON"):
        document(Snapshot(b'{"password": "secr', is_json, True), must_be_json=True)


def test_json_is_bounded_by_what_it_takes_in_memory():
    """16 MiB of `[],[]` are half a gigabyte of lists."""
    content = b"[" + b"[]," * (JSON_BYTES // 3) + b"1]"
    with pytest.raises(CannotFetch, match="JSON of over 4194304 bytes"):
        document(Snapshot(content, None, True), must_be_json=True)
    assert document(Snapshot(content, None, True), must_be_json=False) == content.decode()


@pytest.mark.parametrize(("content", "is_json", "found"), [
    (b'{"a": 1}', None, {"a": 1}), (b"[1]", True, [1]), (b"3", True, 3), (b"3", None, "3"),
    (b"{broken", None, "{broken"), (b'{"a": 1}', False, b'{"a": 1}'), (b"\xff", None, b"\xff"),
    ({"a": b"x", "b": b"\xff"}, None, {"a": "x", "b": b"\xff"}),
    ({"a": 1}, False, {"a": 1}),
])
def test_content_is_json_where_it_is_else_text_else_bytes(content, is_json, found):
    assert document(Snapshot(content, is_json, True), must_be_json=False) == found


def test_what_must_be_json_and_is_not_is_said_without_its_content():
    with pytest.raises(CannotFetch, match=r"not JSON: .* at character 1$") as caught:
        document(Snapshot(b"{s3cret", None, True), must_be_json=True)
    assert "s3cret" not in str(caught.value)


def test_json_that_is_too_large_is_text_unless_it_must_be_json():
    content = b"[" + b" " * JSON_BYTES + b"]"
    assert document(Snapshot(content, None, True), must_be_json=False) == content.decode()
    with pytest.raises(CannotFetch, match="over"):
        document(Snapshot(content, True, True), must_be_json=False)


# A URL by itself


def url(server, path="/x", token_file=None, user=""):
    return Url(f"http://{user}127.0.0.1:{server.port}{path}", 20.0, token_file)


def test_what_has_not_changed_is_told_by_its_tag(serve):
    def serve_once(connection, head):
        connection.sendall(answer("", "304 Not Modified") if 'If-None-Match: "1"' in head
                           else answer("content", "200 OK", 'ETag: "1"'))

    source = url(serve(serve_once))
    assert (source.fetch().content, source.fetch().changed) == (b"content", False)
    source.forget()
    assert source.fetch().content == b"content"


def test_credentials_of_the_url_become_a_field_and_are_not_in_its_name(serve):
    server = serve(answer("x"))
    source = url(server, user="me:s3cret@")
    source.fetch()
    assert "s3cret" not in source.name and "s3cret" not in server.heads[0].splitlines()[0]
    assert "Authorization: Basic " + base64.b64encode(b"me:s3cret").decode() in server.heads[0]


def test_a_token_is_read_at_every_fetch(serve, tmp_path):
    server, file = serve(answer("x")), tmp_path / "token"
    source = url(server, token_file=str(file))
    for token in ("one", "two"):
        file.write_text(token + "\n")
        source.fetch()
        assert f"Authorization: Bearer {token}\r\n" in server.heads[-1]
    file.write_text("two words")
    with pytest.raises(CannotFetch, match="holds no token"):
        source.fetch()


def test_a_redirect_is_followed_so_often(serve):
    server = serve(answer("", "302 Found", "Location: /again"))
    with pytest.raises(CannotFetch, match="more than 5 redirects"):
        url(server).fetch()
    assert len(server.heads) == 6


@pytest.mark.parametrize(("said", "why"), [
    (answer("x" * 1001), "over 1000 bytes"), (answer(""), "the answer is empty"),
    (answer("x", "500 Oh"), "answers 500"),
    (answer("x", "200 OK", "Content-Encoding: gzip"), "answers in gzip"), (b"SSH-2.0-x\r\n\r\n", "no good HTTP"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "too early"),
])
def test_what_is_not_whole_or_not_wanted_is_not_used(serve, said, why, monkeypatch):
    monkeypatch.setattr(source, "MAX_BYTES", 1000)
    with pytest.raises(CannotFetch, match=why):
        url(serve(said)).fetch()


@pytest.mark.parametrize("text", ["http://h:port/", "http://h/a b", "http://h/\n"])
def test_a_url_that_cannot_be_asked_is_said_at_once(text):
    with pytest.raises(ValueError):
        Url(text, 1.0, None)
