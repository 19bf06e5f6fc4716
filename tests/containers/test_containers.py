"""The wrapper as an image's entrypoint, in real containers built from the repository's Dockerfile."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

from tests.containers.engine import ROOT, STAGE, WRAPPER, build, wait_until

pytestmark = pytest.mark.container

SERVICE = ("--", "python3", "/srv/service.py", "{port}")


def test_the_service_answers_on_the_published_port_and_the_wrapper_is_pid_1(image, run):
    container = run(image, *SERVICE)
    status = container.wait_running()
    assert f"hello from pid {status['pid']} " in container.get("/")
    words = container.execute("cat", "/proc/1/cmdline").stdout.split("\0")
    assert tuple(words[:len(WRAPPER)]) == WRAPPER


def test_health_and_ready_are_told_by_exit_status(image, run, podman):
    container = run(image, *SERVICE)
    container.wait_running()
    assert podman("healthcheck", "run", container.name, check=False).returncode == 0, "the Dockerfile's HEALTHCHECK"
    assert container.wrapper("health").returncode == 0
    assert container.wrapper("health", "--ready").returncode == 0
    assert container.wrapper("ctl", "stop").returncode == 0
    assert container.wrapper("health").returncode == 0
    assert container.wrapper("health", "--ready").returncode == 1


def test_stop_ends_it_in_time_with_the_status_of_the_service(image, run, podman):
    container = run(image, *SERVICE)
    container.wait_running()
    begin = time.monotonic()
    podman("stop", container.name)
    assert time.monotonic() - begin < 5, "TERM must end the service, not the 10 s until SIGKILL"
    assert container.exit_status() == 7
    assert "got SIGTERM" in container.logs()


def test_a_service_that_ignores_term_is_gone_before_the_engine_loses_patience(image, run, podman):
    """`docker stop` waits 10 s; drain and stop timeouts stay under that, so the status is ours to tell."""
    program = ("import signal, sys, http.server as h; signal.signal(15, signal.SIG_IGN); "
               "h.HTTPServer(('127.0.0.1', int(sys.argv[1])), h.BaseHTTPRequestHandler).serve_forever()")
    container = run(image, "--stop-timeout", "1s", "--", "python3", "-c", program, "{port}")
    container.wait_running()
    podman("stop", container.name)
    assert container.exit_status() == 128 + signal.SIGKILL


def test_a_signal_to_the_container_reaches_the_service(image, run, podman):
    container = run(image, *SERVICE)
    container.wait_running()
    podman("kill", "--signal", "HUP", container.name)
    wait_until(lambda: "got SIGHUP" in container.logs())
    assert container.status()["state"] == "running"


def test_the_service_dies_and_the_container_ends_with_its_status(image, run):
    container = run(image, *SERVICE)
    pid = container.wait_running()["pid"]
    container.execute("python3", "-c", f"import os; os.kill({pid}, 9)")
    assert container.exit_status() == 128 + signal.SIGKILL


def test_orphans_of_an_exec_are_reaped(image, run):
    container = run(image, *SERVICE)
    container.wait_running()
    container.execute("bash", "-c", "for i in 1 2 3 4 5; do (sleep 0.1 & exec true) & done; wait")

    def no_zombies():
        states = container.execute("bash", "-c", "cat /proc/[0-9]*/stat 2>/dev/null").stdout
        return not re.search(r"\) Z ", states)
    wait_until(no_zombies, timeout=5)


@pytest.mark.parametrize("options", [
    ("--user", "1000:1000"),
    ("--user", "1000:1000", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"),
    ("--read-only",),
    ("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    ("--init",),
    ("--network", "none"),
], ids=["non-root", "locked down", "read-only", "read-only without tmpfs", "behind an init", "no network"])
def test_it_runs_as_restricted_as_the_image_wants(image, run, options):
    container = run(image, *SERVICE, options=options)
    ctl = ("ctl", "status", "--json")
    status = wait_until(lambda: (done := container.wrapper(*ctl)).returncode == 0 and json.loads(done.stdout))
    assert status["state"] in ("starting", "running")
    wait_until(lambda: container.wrapper("health", "--ready").returncode == 0)


def test_beside_an_init_signals_and_statuses_are_the_same(image, run, podman):
    """`--init` puts catatonit at PID 1: it passes on signals, and reaps what is left to it."""
    container = run(image, *SERVICE, options=("--init",))
    container.wait_running()
    words = container.execute("cat", "/proc/1/cmdline").stdout.split("\0")
    assert words[0].endswith("init")
    assert words[2:4] == list(WRAPPER[:2])
    podman("kill", "--signal", "HUP", container.name)
    wait_until(lambda: "got SIGHUP" in container.logs())
    podman("stop", container.name)
    assert container.exit_status() == 7


def test_without_any_network_it_serves_on_a_unix_socket(image, run, tmp_path):
    tmp_path.chmod(0o755)
    container = run(image, *SERVICE, options=("--network", "none", "--env", "WRAPPER_LISTEN=unix:/sockets/http",
                                              "--volume", f"{tmp_path}:/sockets"))

    def ask():
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "http"))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.makefile("rb").read()
    assert b"hello from pid " in wait_until(ask)
    assert container.wrapper("health", "--ready").returncode == 0


def test_it_serves_where_only_the_loopback_has_an_ipv4_address(image, podman):
    """As in an IPv6-only cluster; the service is at ::1 alone."""
    network = f"wrapper-test-{os.getpid()}"
    podman("network", "create", "--ipv6", "--subnet", "fd5a:1::/64", network)
    name = podman("create", "--network", network, "--health-interval=disable", image, "--", "python3", "-m",
                  "http.server", "{port}", "--bind", "::1").stdout.strip()
    try:
        podman("init", name)
        state = json.loads(podman("inspect", name).stdout)[0]
        subprocess.run(["nsenter", "--net", "--target", str(state["State"]["Pid"]), "ip", "-4", "address", "flush",
                        "dev", "eth0"], check=True)
        podman("start", name)
        host = state["NetworkSettings"]["Networks"][network]["GlobalIPv6Address"]

        def get(path):
            with urllib.request.urlopen(f"http://[{host}]:8080{path}", timeout=5) as answer:
                return answer.read().decode()
        assert "Directory listing" in wait_until(lambda: get("/"))
        assert json.loads(get("/sidecar/api/status"))["state"] == "running"
    finally:
        podman("rm", "--force", "--time", "0", name, check=False)
        podman("network", "rm", network, check=False)


def test_settings_come_from_the_environment_of_the_image(image, run):
    container = run(image, *SERVICE, options=("--env", "WRAPPER_PREFIX=/_wrapper"))
    assert wait_until(lambda: json.loads(container.get("/_wrapper/api/status"))["state"] == "running")


def test_service_links_of_kubernetes_are_named_as_what_they_are(image, podman):
    done = podman.once("--env", "WRAPPER_LISTEN=tcp://10.0.0.1:3000", image, *SERVICE)
    assert done.returncode == 2
    assert "WRAPPER_LISTEN" in done.stderr
    assert "Kubernetes" in done.stderr


@pytest.mark.parametrize(("command", "status"), [
    ((), 2), (("--", "/no/such/command", "{port}"), 127), (("--", "/etc", "{port}"), 126),
], ids=["no command", "not found", "a folder"])
def test_what_cannot_start_ends_the_container_with_the_usual_status(image, podman, command, status):
    done = podman.once(image, *command)
    assert done.returncode == status
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("wrapper: "), done.stderr
    assert sum(line.startswith("wrapper: ") for line in lines) == 1, "one line says what is wrong, the last one"


def test_a_start_writes_nothing_into_the_image(image, run, podman):
    """Bytecode is part of the bundle: PEP 552, unchecked hashes."""
    container = run(image, *SERVICE)
    container.wait_running()
    changes = podman("diff", container.name).stdout.split("\n")
    assert not [change for change in changes if "/opt/wrapper" in change]


def test_without_a_shell_ctl_and_health_work(distroless, run):
    container = run(distroless, *SERVICE)
    first = container.wait_running()
    assert container.execute("sh", "-c", "true").returncode != 0, "this image must have no shell"
    assert container.wrapper("health").returncode == 0
    assert container.wrapper("ctl", "restart").returncode == 0
    second = container.wait_running()
    assert second["pid"] != first["pid"]
    assert "running" in container.wrapper("ctl", "status").stdout


# A terminal: podman's own end of it is a pseudo terminal of ours.

class Terminal:
    def __init__(self, podman, name, *words):
        self.podman = podman
        self.name = name
        self.output = b""
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.execvpe("podman", ["podman", "run", "--interactive", "--tty", "--rm", "--no-healthcheck",
                                  "--name", name, *words],
                       podman.environment)

    def type(self, text):
        os.write(self.end, text.encode())

    def expect(self, pattern, timeout=20.0):
        """Read on until the pattern is there; what came up to its end is used up."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern.encode(), self.output)):
            ready, _, _ = select.select([self.end], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} never came: {self.output!r}"
            try:
                self.output += os.read(self.end, 65536)
            except OSError:  # EIO: the other side is closed
                raise AssertionError(f"{pattern!r} never came: {self.output!r}") from None
        self.output = self.output[found.end():]
        return found[0].decode()

    def has_in_front(self, program):
        """Whether the foreground process group of the container's terminal is this program (proc(5), tpgid)."""
        stats = self.podman("exec", self.name, "bash", "-c", "cat /proc/[0-9]*/stat 2>/dev/null", check=False).stdout
        facts = re.findall(r"\((.*)\) \S \d+ (\d+) \d+ \d+ (-?\d+)", stats)
        return any(name == program and group == front for name, group, front in facts)

    def close(self):
        """The exit status of `podman run`, once all that it still prints is read."""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while os.read(self.end, 65536):
                pass
        os.close(self.end)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_an_interactive_shell_has_its_terminal(image, podman):
    """Job control, the foreground group and Ctrl-C belong to the service, as without the wrapper."""
    name = f"wrapper-test-terminal-{os.getpid()}"
    terminal = Terminal(podman, name, image, "--upstream", "127.0.0.1:1", "--log-level", "error",
                        "--", "bash", "--norc", "-i")
    try:
        terminal.type("PS1='ready'; tty\n")
        terminal.expect(r"/dev/(pts/\d+|console)")
        terminal.type("echo six=$((6*7))\n")
        terminal.expect("six=42")
        terminal.type("sleep 300\n")
        wait_until(lambda: terminal.has_in_front("sleep"))
        terminal.type("\x1a")  # Ctrl-Z
        terminal.expect("Stopped")
        terminal.type("fg\n")
        wait_until(lambda: terminal.has_in_front("sleep"))
        terminal.type("\x03")  # Ctrl-C
        wait_until(lambda: terminal.has_in_front("bash"))
        terminal.type("echo interrupted=$?\n")
        terminal.expect("interrupted=130")
        terminal.type("exit 5\n")
        assert terminal.close() == 5
    finally:
        podman("rm", "--force", "--time", "0", name, check=False)


def test_the_dockerfiles_of_the_readme_are_built_and_run(image, podman, run, tmp_path):
    """In their order, with images of here for theirs: Python's own server is the service, and it has no /healthz."""
    text = (ROOT / "README.md").read_text()
    own, with_sidecar = re.findall(r"^```dockerfile\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "jobs.py").write_text(re.search(r"`jobs.py`:\n\n```python\n(.*?)```", text, re.DOTALL)[1])
    server = json.dumps(["python3", "-m", "http.server", "3000", "--bind", "127.0.0.1"])
    for theirs, ours in (("FROM my/service", f"FROM {STAGE}"), ("--from=wrapper", f"--from={image}"),
                         ("=/healthz", "=/"), ('["/run.sh"]', server)):
        assert theirs in own
        own = own.replace(theirs, ours)
    wrapped = build(podman, own, "readme-own", tmp_path)
    with_sidecar = with_sidecar.replace("FROM grafana-wrapped", f"FROM {wrapped}")
    container = run(build(podman, with_sidecar, "readme-jobs", tmp_path),
                    options=["--env", "WRAPPER_TOKEN=sesame-and-16-more"])
    container.wait_running()
    assert podman("healthcheck", "run", container.name, check=False).returncode == 0
    started = urllib.request.Request(f"http://{container.address}/sidecar/api/jobs/night", b'{"count": 3}',
                                     {"Authorization": "Bearer sesame-and-16-more"})
    with wait_until(lambda: urllib.request.urlopen(started, timeout=5)) as answer:
        assert json.load(answer) == {"started": "night", "count": 3}
