"""An exchange of 8 s with each of six real services, and a restart or the end in its middle: nothing is cut or lost."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.running import ROOT, Wrapper, service, wait_until

pytestmark = pytest.mark.real

SIZE = 8 << 20  # bytes of what is sent in 8 s
NGINX = """
daemon off; worker_processes 1; pid %(folder)s/pid-%(port)s; error_log %(folder)s/error; user root;
events { }
http {
    access_log off; client_body_temp_path %(folder)s/body; proxy_temp_path %(folder)s/proxy;
    fastcgi_temp_path %(folder)s/fastcgi; uwsgi_temp_path %(folder)s/uwsgi; scgi_temp_path %(folder)s/scgi;
    server { listen 127.0.0.1:%(port)s; root %(folder)s; location /blob { limit_rate 1m; } }
}
"""


class Exchange:
    """One exchange in a thread of its own. `begun` is set once it is under way, `found` is what came of it."""

    def __init__(self, name, wrapper, ask) -> None:
        self.name, self.wrapper = name, wrapper
        self.begun = threading.Event()
        self.found = "nothing came of it"
        self.end = 0.0
        self._ask = ask
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.found = self._ask(self)
        except Exception as error:  # noqa: BLE001  the test shows it
            self.found = repr(error)
        self.end = time.monotonic()
        self.begun.set()

    def request(self, method, path, body=None):
        """The response, once its head is there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.wrapper.port, timeout=60)
        connection.request(method, path, body)
        return connection.getresponse()

    def read(self, method, path):
        """The whole body."""
        answer, pieces = self.request(method, path), []
        while piece := answer.read1(65536):
            pieces.append(piece)
            self.begun.set()
        return answer.status, b"".join(pieces)


# Each asks for 8 s, and returns None where all of it came as it should.

def download(digest, exchange):
    status, body = exchange.read("GET", "/blob")
    return None if (status, hashlib.sha256(body).hexdigest()) == (200, digest) else f"{status}, {len(body)} bytes"


def tokens(exchange):
    status, body = exchange.read("POST", "/v1/chat/completions")
    events = [line[6:] for line in body.decode().splitlines() if line]
    chunks = [json.loads(event)["choices"][0] for event in events[:-1]]
    is_whole = events[-1] == "[DONE]" and chunks[-1]["finish_reason"] == "stop" and len(chunks) == 80
    return None if status == 200 and is_whole else f"{status}, {len(events)} events, the last {events[-1:]}"


def push(exchange):
    digest = hashlib.sha256()

    def pieces():
        for _ in range(80):
            piece = os.urandom(SIZE // 80)
            digest.update(piece)
            yield piece
            exchange.begun.set()
            time.sleep(0.1)  # 8 s in all

    answer = exchange.request("PUT", "/v2/test/blobs/uploads/1", pieces())
    said = answer.getheader("docker-content-digest")
    return None if (answer.status, said) == (201, f"sha256:{digest.hexdigest()}") else f"{answer.status}, {said}"


def wait_for_answer(exchange):
    threading.Timer(0.5, exchange.begun.set).start()  # nothing of it comes for 8 s
    status, body = exchange.read("GET", "/slow")
    return None if (status, body) == (200, b"slow") else f"{status}, {body!r}"


def clone(head, target, exchange):
    with subprocess.Popen(["git", "clone", "--progress", f"http://127.0.0.1:{exchange.wrapper.port}/repo.git", target],
                          stderr=subprocess.PIPE, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"}) as git:
        said = b""
        while piece := git.stderr.read1(65536):
            said += piece
            if b"Receiving objects" in said:
                exchange.begun.set()
    if git.returncode:
        return said.decode()
    subprocess.run(["git", "-C", target, "fsck", "--full"], check=True, capture_output=True)
    found = subprocess.run(["git", "-C", target, "rev-parse", "HEAD"], check=True, capture_output=True).stdout
    return None if found == head else f"{found} in place of {head}"


def count(exchange):
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{exchange.wrapper.port}") as channel:
        found = []
        for number in channel.unary_stream("/test/Count")(b"", timeout=60):
            found.append(int(number))
            exchange.begun.set()
    return None if found == list(range(80)) else f"{len(found)} of 80 numbers"


def echo(until, exchange):
    """Calls over one channel while the service restarts.

    grpcio's server cancels a call that comes in the moment of its stop, with or without a proxy before it.
    """
    import grpc

    calls = failed = 0
    with grpc.insecure_channel(f"127.0.0.1:{exchange.wrapper.port}") as channel:
        call = channel.unary_unary("/test/Echo")
        while not until.is_set():
            calls += 1
            try:
                failed += call(b"%d" % calls, timeout=60) != b"%d" % calls
            except grpc.RpcError as error:
                failed += error.code() is not grpc.StatusCode.CANCELLED
                print(f"call {calls}: {error}", file=sys.stderr)
            exchange.begun.set()
            time.sleep(0.005)  # its pace
    return f"{failed} of {calls} calls failed" if failed else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file for nginx, and a repository for git, of 8 MiB each."""
    missing = [name for name in ("nginx", "git") if shutil.which(name) is None]
    missing += [name for name in ("uvicorn", "gunicorn", "grpc") if importlib.util.find_spec(name) is None]
    assert not missing, f"no {', '.join(missing)}: apt-get install nginx-light git; pip install uvicorn gunicorn grpcio"
    folder = tmp_path_factory.mktemp("services")
    (folder / "blob").write_bytes(os.urandom(SIZE))
    git = functools.partial(subprocess.run, check=True, capture_output=True, cwd=folder)
    git(["git", "init", "-q", "work"])
    for number in range(8):
        (folder / "work" / str(number)).write_bytes(os.urandom(SIZE // 8))
    git(["git", "-C", "work", "add", "."])
    git(["git", "-C", "work", "-c", "user.name=test", "-c", "user.email=test@test", "commit", "-qm", "test"])
    git(["git", "clone", "-q", "--bare", "work", "repo.git"])
    return folder


@pytest.fixture
def services(folder, tmp_path):
    """`services(*options)`: a wrapper for each, by name, all running."""
    with contextlib.ExitStack() as stack:
        def start(*options):
            (folder / "template").write_text(NGINX.replace("%(folder)s", str(folder)))
            nginx = 'sed "s/%(port)s/$1/" $0/template >$0/conf-$1 && exec nginx -c $0/conf-$1 -e $0/error'
            python = [sys.executable, "-m"]
            commands = {
                "nginx": (["--stop-signal", "QUIT"], ["sh", "-c", nginx, str(folder), "{port}"]),
                "uvicorn": ([], [*python, "uvicorn", "--port", "{port}", "--log-level", "warning",
                                 "tests.services.tokens:app"]),
                "gunicorn": ([], [*python, "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "3", "--log-level",
                                  "warning", "tests.services.git:app"]),
                "grpc": (["--h2c"], service("calls"))}
            environment = {"GIT_PROJECT_ROOT": str(folder), "PACK_SIZE": str(SIZE), "PYTHONPATH": str(ROOT)}
            started = {name: stack.enter_context(Wrapper(*options, *own, command=command, environment=environment,
                                                         wait=False))
                       for name, (own, command) in commands.items()}
            for wrapper in started.values():
                wrapper.wait_state("running", 60)
            return started

        yield start


def begin(services, folder, tmp_path):
    """All six, under way."""
    head = subprocess.run(["git", "-C", str(folder / "repo.git"), "rev-parse", "HEAD"], check=True,
                          capture_output=True).stdout
    digest = hashlib.sha256((folder / "blob").read_bytes()).hexdigest()
    exchanges = [Exchange(name, services[of], ask) for name, of, ask in (
        ("a download from nginx", "nginx", functools.partial(download, digest)),
        ("tokens from uvicorn", "uvicorn", tokens),
        ("a push to a registry", "uvicorn", push),
        ("a slow answer of gunicorn", "gunicorn", wait_for_answer),
        ("a clone from git http-backend", "gunicorn", functools.partial(clone, head, str(tmp_path / "clone"))),
        ("a stream of gRPC", "grpc", count))]
    for exchange in exchanges:
        assert exchange.begun.wait(30), f"{exchange.name} has not begun"
        assert not exchange.end, f"{exchange.name} is over: {exchange.found}"
    return exchanges


def faults(exchanges):
    for exchange in exchanges:
        exchange.thread.join(60)
    return {exchange.name: exchange.found for exchange in exchanges if exchange.found is not None}


@pytest.mark.parametrize("mode", ["replace", "overlap"])
def test_a_restart_cuts_none_of_them_and_newcomers_are_served(services, folder, tmp_path, mode):
    running = services("--restart-mode", mode)
    over = threading.Event()
    calls = Exchange("calls of gRPC", running["grpc"], functools.partial(echo, over))
    exchanges = begin(running, folder, tmp_path)
    asked = time.monotonic()
    for wrapper in running.values():
        assert wrapper.command("POST", "/sidecar/api/restart")[0] == 202
    newcomers = [Exchange(f"a newcomer at {name}", wrapper,
                          lambda exchange: None if exchange.read("GET", "/")[0] in (200, 403, 404) else "refused")
                 for name, wrapper in running.items() if name != "grpc"]
    for wrapper in running.values():
        wait_until(lambda wrapper=wrapper: wrapper.status()["generation"] == 2, 60)
        wrapper.wait_state("running", 60)
    found = faults(exchanges + newcomers)
    over.set()
    assert not {**found, **faults([calls])}
    assert all(exchange.end > asked for exchange in exchanges)


@pytest.mark.parametrize("mode", ["replace", "overlap"])
def test_the_end_cuts_none_of_them(services, folder, tmp_path, mode):
    running = services("--restart-mode", mode, "--stop-timeout", "15s")  # on a busy machine 8 s are more than the 3 + 6
    exchanges = begin(running, folder, tmp_path)
    asked = time.monotonic()
    for wrapper in running.values():
        wrapper.process.send_signal(signal.SIGTERM)
    assert not faults(exchanges)
    assert all(exchange.end > asked for exchange in exchanges)
    assert all(wrapper.end(timeout=60) != 137 for wrapper in running.values())
