"""What typical mistakes are answered with: each line names the thing and the way out.

One table: settings that a run refuses, what `check` finds, what a run says, what ctl, health and the image's verbs say.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from unittest.mock import Mock

import pytest

from tests.running import PATIENCE, ROOT, Wrapper, free_port, run, service, wait_until
from wrapper import cli
from wrapper.errors import BadSettings, CannotStart
from wrapper.service.probe import Health, Probe
from wrapper.service.process import Spawner
from wrapper.settings import address, settings

SLEEP = ("--", "sleep", "5", "{port}")
LINK = "tcp://10.0.0.1:3000"

# The words behind `python3 -m wrapper`, the environment, and the line that is said first.
REFUSED = [
    ((), {}, "COMMAND: missing; say what to run, as in: .* --upstream 127.0.0.1:3000 /run.sh"),
    (("--", "/run.sh"), {},
     r"--upstream: missing; say where the service listens, or put \{port\} into COMMAND or --env"),
    (("--upstream", "127.0.0.1:1", "--config.file=/p.yml"), {},
     "--config.file: no such option, .*; what is the service's own stands behind --, as in: -- COMMAND --config.file"),
    (("--sidecar", "python3", "-m", "http.server", "{port}"), {},
     "-m: no such option; .* stands behind --, as in: -- COMMAND -m"),
    (("/run.sh", "--upstream", "127.0.0.1:3000"), {}, "--upstream: .* stands behind COMMAND, .*: put it before"),
    (("chekc", "--", "x"), {}, "there is no verb chekc, did you mean check?"),
    (("--access-log", "true", *SLEEP), {}, "--access-log true: it takes no word behind it; say --access-log alone"),
    (("--stop-timout", "5s", *SLEEP), {}, "--stop-timout: no such option, did you mean --stop-timeout?"),
    (("-listen", ":8080", *SLEEP), {}, "-listen: no such option, did you mean --listen?"),
    (("--upstream", "--", "x"), {}, "--upstream: a value is missing, expected --upstream ADDR"),
    (("--hold", "10sec", *SLEEP), {}, "--hold=10sec: expected a duration such as 500ms, 10s, 2m or plain seconds"),
    (("--ready-timeout", "0", *SLEEP), {}, "--ready-timeout=0: expected a duration above 0"),
    (("--max-header", "64k", *SLEEP), {}, "--max-header=64k: expected a size such as 64KiB, 1MiB or plain bytes"),
    (("--upstream", "3000", "--", "x"), {}, "--upstream=3000: expected HOST:PORT"),
    (("--upstream", "http://127.0.0.1:1", "--", "x"), {}, "--upstream=http://127.0.0.1:1: expected HOST:PORT"),
    (("--upstream", "127.0.0.1:99999", "--", "x"), {}, "the port '99999' is not a number from 1 to 65535"),
    (SLEEP, {"PORT": LINK}, "PORT=tcp.*: .* Kubernetes' service links .*; set enableServiceLinks: false in the pod"),
    (SLEEP, {"WRAPPER_STOP_TIMEOUT": "soon"}, "WRAPPER_STOP_TIMEOUT=soon: expected a duration"),
    (("--stop-signal", "FOO", *SLEEP), {}, "--stop-signal=FOO: expected a signal such as TERM, HUP or RTMIN.3"),
    (("--ready-path", "healthz", *SLEEP), {}, "--ready-path=healthz: expected a path such as /healthz"),
    (("--ready-status", "2xx", *SLEEP), {},
     "--ready-status=2xx: expected HTTP codes and ranges such as 200,204,300-399"),
    (("--restart", "unless-stopped", *SLEEP), {}, "--restart=unless-stopped: expected never, on-failure or always"),
    (("--exit-status", "TERM=0", *SLEEP), {}, "--exit-status=TERM=0: expected two exit statuses .* such as 143=0"),
    (("--env", "GF_PORT", *SLEEP), {}, "--env=GF_PORT: expected NAME=VALUE"),
    (("--restart-mode", "overlap", "--upstream", ":1", "--", "x"), {},
     r"--restart-mode=overlap: needs \{port\} in COMMAND"),
    (("--upstream", "127.0.0.1:80", "--listen", ":80", "--", "x"), {}, "the wrapper would relay to itself"),
    (("--helper", "/bin/alertmanager", *SLEEP), {},
     "--helper=/bin/alertmanager: expected NAME=/ROUTE=COMMAND, such as"),
    (("--helper", "a=/a=/bin/a", *SLEEP), {},
     r"--helper=a: its command needs \{port\}, the port where it is to listen"),
    (("--token", "a", "--token-file", "/b", *SLEEP), {}, "--token: given together with --token-file; give one"),
    (("--tls-cert", "/x", *SLEEP), {}, "--tls-cert: needs --tls-key too"),
    (("--config-file", "/y", *SLEEP), {}, "--config-file: needs --config-source too"),
    (("--config-source", "http:/host/x", "--config-file", "/y", *SLEEP), {},
     "a URL has two slashes, as in http://host/path"),
    (("--config-source", "/x", "--config-file", "/y", "--config-select", "a.", *SLEEP), {},
     "expected a path such as a.b.c"),
]


@pytest.mark.parametrize(("words", "environment", "said"), REFUSED)
def test_a_setting_that_is_refused(words, environment, said):
    with pytest.raises(BadSettings) as refused:
        settings.read(words, environment)
    line, *others = refused.value.faults
    assert re.search(said, line), line
    assert not others or others[0].startswith("COMMAND: missing")


def script(path, content, mode=0o755):
    path.write_bytes(content.encode())
    path.chmod(mode)


WATCHES = """
from wrapper import Sidecar

sidecar = Sidecar()
sidecar.watch("nope.json", every=0.05, name="missing")(print)
sidecar.watch("no.json", every=0.05, name="broken", select="a")(print)
sidecar.watch("site.json", every=0.05, name="other", select="a.c")(print)


@sidecar.watch("site.json", every=0.05, select="a.b")
def no_tool(value, service):
    return service.apply({"one": str(value)}, check=["promtol", "{file}"], action=None)


@sidecar.watch("site.json", every=0.05, select="a.b")
def says_no(value, service):
    return service.apply({"two": str(value)}, check=["sh", "-c", "echo line 3: no >&2; exit 1"], action=None)


@sidecar.watch("site.json", every=0.05, select="a.b")
def no_folder(value, service):
    return service.apply({"no/such": str(value)}, action=None)
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What the mistakes below name, in the working folder."""
    script(tmp_path / "no-x", "#!/bin/sh\n", 0o644)
    script(tmp_path / "no-shebang", "echo\n")
    script(tmp_path / "bad-shebang", "#!/no/such\n")
    script(tmp_path / "crlf", "#!/bin/sh\r\n")
    (tmp_path / "watches.py").write_text(WATCHES)
    (tmp_path / "broken.py").write_text("def broken(:\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "imports.py").write_text("import requestz\n")
    (tmp_path / "swapped.py").write_text("from wrapper import Sidecar\nsidecar = Sidecar()\n"
                                         "sidecar.problem('disk', 'the disk is full')\n")
    (tmp_path / "two-lines").write_text("sesame-and-16-more\nsesame-and-16-more\n")
    (tmp_path / "site.json").write_text('{"a": {"b": 1}}')
    (tmp_path / "no.json").write_text("{no")
    (tmp_path / "template").write_text("${nope}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# COMMANDs that cannot be run, the exit status, and why.
NO_COMMANDS = [
    (("no-such-program",), 127, "cannot run 'no-such-program': not found"),
    (("sleep 5",), 127, "cannot run 'sleep 5': not found; give its words without quotes"),
    (("FOO=1", "sleep"), 127, "; a variable of the service is set with --env NAME=VALUE"),
    (("cd", "/tmp", "&&", "sleep"), 127, r"; no shell reads the command, .*: sh -c '\.\.\.'"),
    (("/tmp",), 126, "cannot run '/tmp': it is a directory"),
    (("./no-x",), 126, "cannot run './no-x': Permission denied; chmod .x makes it a program"),
    (("./no-shebang",), 126, "no interpreter is named in its first line, such as #!/bin/sh"),
    (("./bad-shebang",), 127, "the interpreter that its first line names is not there"),
    (("./crlf",), 127, "its first line ends in CR LF; save it with LF alone"),
]


@pytest.mark.parametrize(("command", "status", "said"), NO_COMMANDS)
def test_a_command_that_cannot_be_run(command, status, said, files):
    with pytest.raises(CannotStart, match=said) as refused:
        Spawner().spawn(command, dict(os.environ), print)
    assert refused.value.exit_status == status


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--listen", f"127.0.0.1:{port}", *SLEEP)
    assert done.returncode == 1
    assert re.search(f"cannot listen at 127.0.0.1:{port}: .*; choose another port with --listen", done.stderr)


def test_an_address_that_is_another_machines():
    done = run("--listen", "192.0.2.1:8080", *SLEEP)  # RFC 5737: of documentation
    assert done.returncode == 1
    assert re.search("cannot listen at 192.0.2.1:8080: .*; --listen :PORT takes all that it has", done.stderr)


def wait_until_said(wrapper, said):
    wait_until(lambda: re.search(said, wrapper.stderr), what=said)


def test_a_service_that_puts_itself_into_the_background(tmp_path):
    with Wrapper(command=["sh", "-c", "sleep 60 & : {port}"], wait=False) as wrapper:
        assert wrapper.end() == 0
        wait_until_said(wrapper, "ended by itself with status 0; .* run it in the foreground, as nginx is with")


# What a run says that goes on: its options, and lines of its log.
TOLD = [
    ([word for name in ("nope.py", "nope.mod", "broken.py", "empty.py", "imports.py", "swapped.py", "watches.py")
      for word in ("--sidecar", name)] + ["--token-file", "nope"],
     [r"the import failed: \[Errno 2\] No such file or directory: '.*nope.py'",
      "the import failed: No module named 'nope'.* source=sidecar:nope.mod",
      r"the import failed: invalid syntax \(broken.py, line 1\)",
      "empty.py holds no Sidecar; it needs a line such as: sidecar = Sidecar",
      "the import failed: No module named 'requestz'",
      "'the disk is full' is no key of a problem: the message comes first, then the key, 'disk'",
      "the token file .*nope cannot be read: No such file or directory",
      "nope.json: No such file or directory; it has not answered since the start",
      "no.json: what it holds is not JSON: .* at character",
      "site.json: cannot select a.c: there is no 'c'",
      "the check cannot run: cannot run 'promtol': not found",
      "sh rejects the new file with status 1 source=config:watches.says_no\n    line 3: no\n",
      "cannot write .*/no: No such file or directory; the folder of a file must be there"]),
    (["--token-file", "two-lines", "--config-source", "site.json", "--config-file", "dest",
      "--config-template", "template"],
     ["the token file .*two-lines holds no token: it has more than one line",
      "template: cannot render the template: there is no 'nope'"]),
]


@pytest.mark.parametrize(("options", "said"), TOLD)
def test_what_is_told_by_a_run_that_goes_on(options, said, files):
    with Wrapper(*options, command=service("plain"), cwd=files, wait=False,
                 environment={"PYTHONPATH": str(ROOT)}) as wrapper:
        for line in said:
            wait_until_said(wrapper, line)


def test_a_wrong_port_is_told_with_the_right_one():
    run = Mock(address=address.parse(f"127.0.0.1:{free_port()}"), other_addresses=(), ended=threading.Event())
    run.process.listening.return_value = [address.parse("127.0.0.1:3000")]
    health = Mock(ready=Probe(None, ()), _life=Mock(wake_up=Mock(ending=None)))
    assert re.fullmatch("not ready within 0 s: nothing listens at .*: Connection refused; it listens at 127.0.0.1:3000"
                        "; name that with --upstream, or move it with {port}", Health._await_or_tell(health, run, 0.0))


def test_a_path_that_answers_otherwise_is_told(monkeypatch):
    monkeypatch.setattr("wrapper.service.probe.PROBE_TIMEOUT", PATIENCE)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            with listener.accept()[0] as connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        fault = Probe("/healthz", ((200, 399),)).fault(address.parse(f"127.0.0.1:{listener.getsockname()[1]}"))
    assert fault == "/healthz answers 404, which is none of --ready-status"


def test_a_service_that_does_not_listen_is_told():
    with Wrapper("--ready-timeout", "100ms", command=["sleep", "60", "{port}"], wait=False) as wrapper:
        wait_until_said(wrapper, "Connection refused; it listens nowhere; --ready-timeout gives it more time")


def test_another_process_at_the_upstream_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with Wrapper("--upstream", where, command=["sleep", "60"], wait=False) as wrapper:
            wait_until_said(wrapper, f"another process listens at {where} already.*; end it, or choose another port")


# What the other verbs say: the words, the exit status, and a line.
VERBS = [
    (("ctl", "--control", "/nope.sock", "status"), 1, "no process listens at /nope.sock; --control PATH names another"),
    (("ctl",), 2, "ctl: error: the following arguments are required: VERB"),
    (("ctl", "stat"), 2, "ctl: error: argument VERB: invalid choice: 'stat' .*status"),
    (("ctl", "signal"), 2, "usage: .* ctl signal .*"),
    (("health", "--control", "/nope.sock"), 1, "no process listens at /nope.sock; --control PATH names another socket"),
    (("health", "--redy"), 2, "health: --redy: no such option"),
    (("health", "--timeout"), 2, "health: --timeout: a value is missing"),
    (("health", "--ready=1"), 2, "health: --ready: it takes no value"),
    (("bundle",), 1, "bundle: name the folder, or the FILE.pyz, that it is to be"),
    (("dockerfile", "/nope.json"), 1, "dockerfile: /nope.json: No such file or directory"),
    (("dockerfile", "no.json"), 1, "dockerfile: expected what docker inspect IMAGE prints"),
    (("check", "--sidecar", "broken.py", *SLEEP), 2, "--sidecar=broken.py: does not compile: .*line 1"),
    (("check", "--", "./crlf", "{port}"), 2, "COMMAND: cannot run './crlf': its first line ends in CR LF"),
    (("check", "--error-page", "/nope", *SLEEP), 2, "cannot read --error-page /nope: No such file"),
    (("--error-page", "/nope", *SLEEP), 2, "cannot read --error-page /nope: No such file"),
]


@pytest.mark.parametrize(("words", "status", "said"), VERBS)
def test_what_the_other_verbs_say(words, status, said, files, capfd, monkeypatch):
    monkeypatch.setattr("wrapper.signals.Signals", lambda: None)  # where a run would begin
    assert cli.main(words) == status
    assert re.search(said, capfd.readouterr().err)


def test_a_variable_that_is_no_setting():
    (said,) = settings.strangers({"WRAPPER_STOP_TIMOUT": "1s"})
    assert said == "WRAPPER_STOP_TIMOUT is set, but there is no such setting, did you mean WRAPPER_STOP_TIMEOUT?"
