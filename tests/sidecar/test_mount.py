"""mount.py: WSGI applications (PEP 3333), judged by `wsgiref.validate`; a real Flask and a real Bottle."""

from __future__ import annotations

import io
import threading
from wsgiref.validate import validator

import pytest

from tests.sidecar.parts import Body, make_request, surroundings
from wrapper import Sidecar
from wrapper.errors import Refusal
from wrapper.http1.message import Request
from wrapper.http1.request import read_request
from wrapper.sidecar import mount
from wrapper.sidecar.access import Access
from wrapper.sidecar.isolation import Guard
from wrapper.sidecar.mount import LINE_MAX, ErrorLog, Mount
from wrapper.sidecar.reply import StreamSlots
from wrapper.testing import running

TEXT = ("Content-Type", "text/plain")


def mounted(application, root="/app", settings=()):
    around = surroundings(*settings)
    return Mount(root, application, around.settings, Guard("mine", around.board),
                 StreamSlots(Access(None, None, around.board)))


def ask(application, method="GET", target="/app/x", body=b"", settings=(), **options):
    return mounted(application, settings=settings).answer(make_request(method, target, body, **options))


def environment_of(method="GET", target="/app/x", body=b"", **options):
    seen = {}

    def application(environ, start_response):
        seen.update(environ, body=environ["wsgi.input"].read())
        start_response("200 OK", [TEXT])
        return [b"ok"]

    ask(application, method, target, body, **options)
    return seen


def test_the_environment_says_where_what_and_who():
    seen = environment_of("POST", "/app/a%20b?q=1&r", b"body", headers=[("Content-Type", "text/x"), ("X-One", "1")])
    assert (seen["REQUEST_METHOD"], seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("POST", "/app", "/a b")
    assert (seen["QUERY_STRING"], seen["CONTENT_TYPE"], seen["CONTENT_LENGTH"]) == ("q=1&r", "text/x", "4")
    assert (seen["HTTP_X_ONE"], seen["REMOTE_ADDR"], seen["body"]) == ("1", "192.0.2.1", b"body")
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"], seen["wsgi.url_scheme"]) == ("test", "80", "http")


def test_paths_are_bytes_as_latin_1():
    """PEP 3333, "Unicode Issues"."""
    assert environment_of(target="/app/%C3%A4%FF")["PATH_INFO"] == "/\xc3\xa4\xff"
    assert environment_of(target="/app/\xc3\xa4\xff")["PATH_INFO"] == "/\xc3\xa4\xff"  # as curl sends it


def test_a_field_with_an_underscore_cannot_pose_as_another():
    assert "HTTP_X_ONE" not in environment_of(headers=[("X_One", "1")])


def environment_with_host(host, target="/app/x"):
    seen = {}

    def application(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [TEXT])
        return [b"ok"]

    around = surroundings()
    head = read_request(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), 65536)
    request = Request(head, "/app/x", Body(), "192.0.2.1", False)
    Mount("/app", application, around.settings, Guard("mine", around.board),
                 StreamSlots(Access(None, None, around.board))).answer(request)
    return seen


@pytest.mark.parametrize(("host", "name", "port"), [
    ("[::1]", "[::1]", "80"), ("[::1]:8080", "[::1]", "8080"), ("a.example", "a.example", "80"),
    ("a.example:81", "a.example", "81"), ("a.example:", "a.example", "80")])
def test_the_server_is_who_the_client_asked(host, name, port):
    """RFC 3875 section 4.1.14: an IPv6 address stands in brackets."""
    seen = environment_with_host(host)
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == (name, port)


def test_the_authority_of_the_target_replaces_the_host():
    """RFC 9112 section 3.2.2."""
    seen = environment_with_host("evil.example", "http://good.example:81/app/x")
    assert (seen["HTTP_HOST"], seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("good.example:81", "good.example", "81")


@pytest.mark.parametrize("field", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Prefix", "Forwarded"])
def test_only_a_trusted_proxy_says_who_is_behind_it(field):
    name = "HTTP_" + field.upper().replace("-", "_")
    assert name not in environment_of(headers=[(field, "x")])
    believed = environment_of(headers=[(field, "x")], settings=("--trusted-proxies", "192.0.2.0/24"))
    assert believed[name] == "x"


def test_a_body_that_came_in_chunks_is_taken_apart_already():
    sidecar = Sidecar()
    seen = []

    def application(environ, start_response):
        seen.append((environ.get("HTTP_TRANSFER_ENCODING"), environ["wsgi.input"].read()))
        start_response("200 OK", [TEXT])
        return [b"ok"]

    sidecar.mount("/app", application)
    with running(sidecar) as wrapper:
        wrapper.post("/app", body=iter([b"in ", b"pieces"]))
    assert seen == [(None, b"in pieces")]


def test_the_root_itself_has_no_path_info():
    assert environment_of(target="/app")["PATH_INFO"] == ""


def test_an_answer_of_one_piece_is_whole():
    def application(environ, start_response):
        start_response("418 I'm a teapot", [TEXT, ("X-A", "1")])
        return [b"short"]

    response = ask(application)
    assert (response.status, response.whole()) == (418, b"short")
    assert ("X-A", "1") in response.headers


def test_an_answer_of_many_pieces_is_streamed_from_the_first_one_on():
    go_on = threading.Event()

    class Pieces:
        closed = False

        def __iter__(self):
            yield b""
            yield b"one"
            go_on.wait()
            yield b"two"

        def close(self):
            self.closed = True

    pieces = Pieces()

    def application(environ, start_response):
        start_response("200 OK", [TEXT])
        return pieces

    response = ask(application)
    iterator = response.pieces()
    assert next(iterator) == b"one"
    go_on.set()
    assert list(iterator) == [b"two"]
    response.close()
    assert pieces.closed


def test_head_of_a_stream_has_no_length():
    """RFC 9110 section 8.6: none, or that of GET; Flask and others send no body for HEAD."""
    def application(environ, start_response):
        start_response("200 OK", [TEXT])
        return []

    assert ask(application, "HEAD").is_streamed
    assert not ask(application, "GET").is_streamed


def test_start_response_may_come_with_the_first_piece():
    def application(environ, start_response):
        start_response("200 OK", [TEXT])
        yield b"late"

    assert b"".join(ask(application).pieces()) == b"late"


def test_the_old_write_comes_first():
    def application(environ, start_response):
        write = start_response("200 OK", [TEXT])
        write(b"written ")
        return [b"and returned"]

    assert ask(application).whole() == b"written and returned"


def test_a_write_behind_the_head_is_a_fault_and_no_lost_byte():
    """PEP 3333: "an application must not invoke write() from within its return iterable"."""
    def application(environ, start_response):
        write = start_response("200 OK", [TEXT])
        yield b"one"
        write(b"lost")

    pieces = ask(application).pieces()
    assert next(pieces) == b"one"
    with pytest.raises(Refusal):
        next(pieces)


def test_what_was_written_counts_for_the_length():
    def application(environ, start_response):
        write = start_response("200 OK", [TEXT, ("Content-Length", "10")])
        write(b"hello")
        yield b"world"

    assert b"".join(ask(application).pieces()) == b"helloworld"

    def just_enough(environ, start_response):
        start_response("200 OK", [TEXT, ("Content-Length", "5")])(b"hello")
        yield b"world"

    response = ask(just_enough)
    assert b"".join(response.pieces()) == b"hello"


@pytest.mark.parametrize("length", ["3", "10"])
def test_a_body_that_is_not_as_long_as_it_says_is_a_fault(length):
    def application(environ, start_response):
        start_response("200 OK", [TEXT, ("Content-Length", length)])
        return [b"hello"]

    with pytest.raises(ValueError, match="Content-Length"):
        ask(application)


def test_an_error_may_replace_the_head_before_it_is_sent():
    """PEP 3333, "The start_response() Callable"."""
    def application(environ, start_response):
        start_response("200 OK", [TEXT])
        try:
            raise ValueError
        except ValueError as error:
            start_response("500 Broken", [TEXT], (type(error), error, error.__traceback__))
        return [b"broken"]

    assert ask(application).status == 500


def test_an_error_behind_the_head_is_raised_again(capfd):
    """PEP 3333, "Error Handling": start_response raises it where the head is out, and the answer breaks off."""
    def application(environ, start_response):
        start_response("200 OK", [TEXT])
        yield b"one"
        try:
            raise ValueError("too late")
        except ValueError as error:
            start_response("500 Broken", [TEXT], (type(error), error, error.__traceback__))
        yield b"two"

    pieces = ask(application).pieces()
    assert next(pieces) == b"one"
    with pytest.raises(Refusal):
        next(pieces)
    assert "too late" in capfd.readouterr().err


def test_what_is_written_is_bounded(monkeypatch):
    monkeypatch.setattr(mount, "WRITTEN_MAX", 10)

    def application(environ, start_response):
        write = start_response("200 OK", [TEXT])
        while True:
            write(b"1234")

    with pytest.raises(ValueError, match="return an iterable"):
        ask(application)


@pytest.mark.parametrize("status", ["", "abc", "20", "2000 OK", "200\r\nX: y"])
def test_what_is_no_status_line_is_refused(status):
    def application(environ, start_response):
        start_response(status, [TEXT])
        return [b""]

    with pytest.raises(ValueError, match="status"):
        ask(application)


def test_an_application_that_breaks_the_rules_fails_and_is_closed():
    class Pieces(io.BytesIO):
        pass

    never, twice = Pieces(b"x"), Pieces(b"x")

    def calls_it_twice(environ, start_response):
        start_response("200 OK", [TEXT])
        start_response("200 OK", [TEXT])
        return twice

    with pytest.raises(AssertionError, match="did not call"):
        ask(lambda environ, start_response: never)
    with pytest.raises(AssertionError, match="twice"):
        ask(calls_it_twice)
    assert never.closed


def test_errors_go_to_the_log_line_by_line(capfd):
    def application(environ, start_response):
        environ["wsgi.errors"].write("first\nsec")
        environ["wsgi.errors"].writelines(["ond\n", "third"])
        environ["wsgi.errors"].flush()
        start_response("200 OK", [TEXT])
        return [b""]

    ask(application)
    assert [line.split("warning: ")[1] for line in capfd.readouterr().err.splitlines()] == [
        "first sidecar=mine", "second sidecar=mine", "third sidecar=mine"]


def test_a_line_of_the_errors_is_of_one_thread(capfd):
    """`print` writes a line and its end one after the other, and two requests may do so at the same time."""
    errors = ErrorLog("mine")
    errors.write("of one ")
    other = threading.Thread(target=errors.write, args=["of another\n"])
    other.start()
    other.join()
    errors.write("thread\n")
    assert [line.split("warning: ")[1] for line in capfd.readouterr().err.splitlines()] == [
        "of another sidecar=mine", "of one thread sidecar=mine"]


def test_errors_without_a_line_end_are_not_kept_for_ever(capfd):
    """Dots of progress: each was added to all before it, and 2,000 of 1,000 characters took over ten seconds."""
    errors = ErrorLog("mine")
    for _ in range(LINE_MAX + 1):
        errors.write(".")
    assert "." * LINE_MAX in capfd.readouterr().err


# With a server around it


def echo(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return [body]


def pieces(environ, start_response):
    start_response("200 OK", [TEXT])
    return iter([b"one ", b"two ", b"three"])


@pytest.mark.filterwarnings("error")
def test_the_validator_has_nothing_to_say():
    sidecar = Sidecar()
    sidecar.mount("/echo", validator(echo))
    sidecar.mount("/pieces", validator(pieces))
    with running(sidecar) as wrapper:
        assert wrapper.post("/echo/deep/path?q=1", body=b"x" * 100_000).body == b"x" * 100_000
        assert wrapper.get("/pieces").text == "one two three"
        assert wrapper.get("/echo").body == b""
        assert not wrapper.problems()


def test_a_real_flask_runs():
    import flask  # here: each of the processes that collect the tests would import it

    app = flask.Flask("app")

    @app.get("/hello/<name>")
    def hello(name):
        return {"hello": name, "url": flask.url_for("hello", name=name), "q": flask.request.args.get("q")}

    @app.post("/json")
    def json():
        return flask.jsonify(flask.request.get_json()), 201

    @app.get("/stream")
    def stream():
        return flask.Response((str(number) for number in range(3)), mimetype="text/plain")

    @app.get("/fail")
    def fail():
        raise ValueError("flask answers this itself")

    sidecar = Sidecar()
    sidecar.mount("/sidecar/app", app)
    with running(sidecar) as wrapper:
        assert wrapper.get("/sidecar/app/hello/you?q=%C3%A4").json() == {
            "hello": "you", "url": "/sidecar/app/hello/you", "q": "\xe4"}
        answer = wrapper.post("/sidecar/app/json", json={"a": 1})
        assert (answer.status, answer.json()) == (201, {"a": 1})
        assert wrapper.get("/sidecar/app/stream").text == "012"
        assert "content-length" not in wrapper.request("HEAD", "/sidecar/app/stream").headers
        assert wrapper.get("/sidecar/app/fail").status == 500
        assert wrapper.get("/sidecar/app/nothing").status == 404
        head = wrapper.request("HEAD", "/sidecar/app/hello/you")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) > 0


def test_a_real_bottle_runs():
    import bottle  # as above

    app = bottle.Bottle()

    @app.get("/hello/<name>")
    def hello(name):
        bottle.response.set_cookie("a", "1")
        bottle.response.set_cookie("b", "2")
        return f"hello {name}"

    @app.post("/form")
    def form():
        return bottle.request.forms.get("field")

    sidecar = Sidecar()
    sidecar.mount("/bottle", app)
    with running(sidecar) as wrapper:
        answer = wrapper.get("/bottle/hello/you")
        assert answer.text == "hello you"
        assert answer.headers["set-cookie"] == "a=1, b=2"
        form_type = {"Content-Type": "application/x-www-form-urlencoded"}
        assert wrapper.post("/bottle/form", body="field=value", headers=form_type).text == "value"


def test_an_application_that_fails_is_500_and_a_problem():
    def application(environ, start_response):
        raise SystemExit(1)

    sidecar = Sidecar()
    sidecar.mount("/bad", application)
    with running(sidecar) as wrapper:
        assert wrapper.get("/bad").status == 500
        assert "mount /bad failed: SystemExit" in wrapper.wait_problem()["message"]
        assert wrapper.get("/").status == 200
