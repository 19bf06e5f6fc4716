"""settings.py: flags and variables in, values or every fault out. Pure."""

from __future__ import annotations

import pytest

from wrapper.errors import BadSettings
from wrapper.settings import address, settings

COMMAND = ("--", "serve", "{port}")


def read(*argv, **environment):
    return settings.read(argv, environment)


def faults(*argv, **environment):
    with pytest.raises(BadSettings) as error:
        settings.read(argv, environment)
    return error.value.faults


def test_flag_beats_variable_beats_default():
    assert read(*COMMAND).stop_timeout is None
    assert read(*COMMAND, WRAPPER_STOP_TIMEOUT="2m").stop_timeout == 120.0
    chosen = read("--stop-timeout", "500ms", *COMMAND, WRAPPER_STOP_TIMEOUT="2m")
    assert chosen.stop_timeout == 0.5
    assert chosen.origins["stop_timeout"] == "--stop-timeout"


def test_equals_and_space_are_the_same():
    assert read("--hold=5s", *COMMAND).hold == read("--hold", "5s", *COMMAND).hold == 5.0


def test_what_follows_the_dashes_is_the_services():
    assert read("--", "serve", "{port}", "--hold", "--").command == ("serve", "{port}", "--hold", "--")


@pytest.mark.parametrize("argv", [
    ("serve", "{port}", "--hold", "-x"), ("--", "serve", "{port}", "--hold", "-x")])
def test_options_end_at_the_first_word_that_is_none(argv):
    """As with env(1), timeout(1) and tini."""
    chosen = read("--hold", "5s", "--h2c", *argv)
    assert (chosen.hold, chosen.h2c, chosen.command) == (5.0, True, ("serve", "{port}", "--hold", "-x"))


@pytest.mark.parametrize(("argv", "is_ours"), [
    (("--help",), True), (("--h2c", "-h"), True), (("--hold", "5s", "--help"), True), (("--nope", "--help"), True),
    (("--h2c", "serve", "--help"), False), (("--hold", "5s", "serve", "-h"), False), (("--", "--help"), False)])
def test_help_behind_the_options_is_the_services(argv, is_ours):
    assert settings.asks_for_help(argv) is is_ours


def test_variables_for_the_service():
    assert read("--env", "A=1", "--env", "B=x=y {port}", "serve").env == (("A", "1"), ("B", "x=y {port}"))
    assert read("serve", WRAPPER_ENV="A=1, 2\nP={port}").env == (("A", "1, 2"), ("P", "{port}"))
    for text in ("A", "=1"):
        assert "expected NAME=VALUE" in faults("--env", text, *COMMAND)[0]


def test_a_port_in_a_variable_is_as_good_as_one_in_the_command():
    chosen = read("--env", "P={port}", "--restart-mode", "overlap", "serve")
    assert (chosen.upstream, chosen.restart_mode) == (None, "overlap")
    assert "--upstream: missing" in faults("--env", "P=1", "serve")[0]
    assert "unix" in faults("--env", "P={port}", "--upstream", "unix:/s", "serve")[0]


def test_every_fault_is_listed_with_its_origin():
    found = faults("--stop-timout", "6s", "--hold", "soon", WRAPPER_MAX_HEADER="9q")
    assert any("did you mean --stop-timeout" in fault for fault in found)
    assert any(fault.startswith("--hold=soon: expected a duration") for fault in found)
    assert any(fault.startswith("WRAPPER_MAX_HEADER=9q: expected a size") for fault in found)
    assert any(fault.startswith("COMMAND: missing") for fault in found)


@pytest.mark.parametrize(("argv", "environment"), [
    (COMMAND, {"PORT": "tcp://10.0.0.1:3000"}), (COMMAND, {"WRAPPER_LISTEN": "tcp://10.96.0.1:80"}),
    (COMMAND, {"WRAPPER_HOLD_MAX": "udp://10.0.0.1:53"})])
def test_service_links_of_kubernetes_are_named(argv, environment):
    assert "Kubernetes" in faults(*argv, **environment)[0]


def test_service_links_that_are_no_settings_are_no_strangers():
    links = dict.fromkeys(("WRAPPER_SERVICE_HOST", "WRAPPER_SERVICE_PORT_HTTP", "WRAPPER_PORT",
                           "WRAPPER_PORT_8080_TCP_ADDR"), "x")
    (said,) = settings.strangers({**links, "WRAPPER_STOP_TIMOUT": "1s", "WRAPPER_HOLD": "1s"})
    assert said.startswith("WRAPPER_STOP_TIMOUT is set")


def test_port_is_the_default_of_listen():
    assert read(*COMMAND).listen == address.tcp("", 8080)
    assert read(*COMMAND, PORT="99").listen == address.tcp("", 99)
    assert read("--listen", "127.0.0.1:1", *COMMAND, PORT="99").listen == address.tcp("127.0.0.1", 1)
    assert faults(*COMMAND, PORT="http") == ("PORT=http: the port 'http' is not a number from 1 to 65535",)


def test_several_values():
    assert read("--sidecar", "a", "--sidecar", "b.py", *COMMAND).sidecar == ("a", "b.py")
    assert read(*COMMAND, WRAPPER_EXIT_STATUS="143=0,137=1").exit_status == ((143, 0), (137, 1))
    chosen = read(*COMMAND, WRAPPER_HELPER="a=/a=run {port}\nb=/b=walk '{port} 2'")
    assert chosen.helper == (("a", "/a", ("run", "{port}")), ("b", "/b", ("walk", "{port} 2")))


def test_switches():
    assert read("--capture-output", *COMMAND).capture_output is True
    assert read("--capture-output=false", *COMMAND).capture_output is False
    assert read(*COMMAND, WRAPPER_CAPTURE_OUTPUT="1").capture_output is True


@pytest.mark.parametrize("argv", [
    ("--restart-mode", "overlap", "--upstream", "a:1", "--", "serve"), ("--tls-cert", "x", *COMMAND),
    ("--token", "a", "--token-file", "b", *COMMAND), ("--config-source", "x", *COMMAND), ("--", "serve"),
    ("--output-prefix", *COMMAND),
    ("--listen", "127.0.0.1:1", "--upstream", "127.0.0.1:1", "--", "serve")])
def test_contradictions_are_faults(argv):
    assert faults(*argv)


@pytest.mark.parametrize(("listen", "upstream", "is_fault"), [
    (":8080", "127.0.0.1:8080", True), (None, "127.0.0.1:8080", True), ("0.0.0.0:80", "localhost:80", True),
    ("[::]:80", "[::1]:80", True), ("localhost:80", "127.0.0.1:80", True), ("10.0.0.1:80", "10.0.0.1:80", True),
    ("unix:/a", "unix:/a", True), (":8080", "127.0.0.1:8081", False), (":80", "10.0.0.1:80", False),
    ("10.0.0.1:80", "127.0.0.1:80", False), ("unix:/a", "unix:/b", False), ("unix:/a", "127.0.0.1:80", False)])
def test_a_wrapper_that_would_relay_to_itself_is_a_fault(listen, upstream, is_fault):
    words = [*(("--listen", listen) if listen else ()), "--upstream", upstream, "--", "serve"]
    if is_fault:
        assert "relay to itself" in faults(*words)[0]
    else:
        read(*words)


def test_helpers_are_judged_together():
    found = faults("--helper", "a=/a=run {port}", "--helper", "a=/b=run {port}", "--helper", "c=/a=run {port}",
                   "--helper", "service=/s=run {port}", "--helper", "d=/d=run", "--helper", "e=/side/car=run {port}",
                   "--helper", "f=/side=run {port}", "--helper", "g=/sideways=run {port}", "--prefix", "/side",
                   *COMMAND)
    assert [fault.partition(":")[0] for fault in found] == [
        "--helper=a", "--helper=c", "--helper=service", "--helper=d", "--helper=e", "--helper=f"]


def test_one_cause_is_one_fault():
    assert len(faults("--upstream", "nowhere", "--", "serve")) == 1
    assert len(faults("--restart-mode", "overlap", "--upstream", "nowhere", "--", "serve")) == 1
    assert len(faults("--tls-cert", "tcp://10.0.0.1:80", "--tls-key", "x", *COMMAND)) == 1
    assert len(faults("--helper", "?", *COMMAND)) == 1
    assert faults("--listen", "--", "serve", "{port}") == ("--listen: a value is missing, expected --listen ADDR",)


def test_a_port_needs_an_upstream_that_has_one():
    assert "has no port" in faults("--upstream", "unix:/x", *COMMAND)[0]


def test_a_head_that_nothing_fits_into_is_a_fault():
    assert "at least 1KiB" in faults("--max-header", "0", *COMMAND)[0]
    assert read("--max-header", "1KiB", *COMMAND).max_header == 1024


def test_secrets_are_not_in_faults_or_shown():
    assert "s3cret" not in "".join(faults("--token", "s3cret", "--token-file", "f", "--hold", "x", *COMMAND))
    row = next(row for row in settings.table() if row.name == "token")
    assert "s3cret" not in "".join(row.show(read("--token", "s3cret", *COMMAND).texts["token"]))


def test_allowed_hosts_are_whole_names():
    assert settings.read(["--allowed-hosts", "A.example, b.example", "--", "x", "{port}"], {}).allowed_hosts == (
        "a.example", "b.example")
    for text in ("http://a.example", "a.example:80", "*.example"):
        with pytest.raises(BadSettings, match="without scheme and port"):
            settings.read(["--allowed-hosts", text, "--", "x", "{port}"], {})


def test_settings_are_frozen():
    with pytest.raises(AttributeError, match="frozen"):
        read(*COMMAND).hold = 1.0


def test_every_default_reads():
    for row in settings.table():
        if row.default is not None:
            row.value(row.default)
