"""steps.py: which checks are run, what makes a service take its files, what may be its variable; each judged."""

from __future__ import annotations

import os
import sys
import threading

import pytest
from hypothesis import given, strategies as st

from tests.config.conftest import answer
from tests.running import free_port
from tests.sidecar.parts import make_service, surroundings
from wrapper.config import steps
from wrapper.config.steps import LONGEST, act_of, commands, judge, run_check, variables_of
from wrapper.config.transaction import Fault
from wrapper.problems import Problem
from wrapper.service.process import Spawner
from wrapper.settings.address import tcp

# Authors' own code


def verdict(code, timeout=20.0):
    """What is told of it."""
    with pytest.raises(Fault) as caught:
        judge("probe", code, "the service", timeout, None)
    assert caught.value.step == "probe"
    return caught.value.message


@pytest.mark.parametrize("value", [None, True, [], ()])
def test_nothing_was_wrong(value):
    judge("probe", lambda service: value, "the service", 20, None)


@pytest.mark.parametrize(("value", "said"), [
    (False, "the probe failed: it says no"), ("too few", "the probe failed: too few"),
    (Problem("too few"), "the probe failed: too few"), ([Problem("one"), Problem("two")], "the probe failed: one"),
])
def test_what_was_wrong_is_said(value, said):
    assert verdict(lambda service: value) == said


def test_one_that_raises_or_leaves_or_hangs_says_so():
    assert verdict(lambda service: 1 // 0).startswith("the probe failed: ZeroDivisionError")
    assert verdict(sys.exit).startswith("the probe failed: SystemExit")
    go_on = threading.Event()
    assert verdict(lambda service: go_on.wait(20), 0.01) == "the probe has not come back within 0.01 s"
    go_on.set()


# Check


STAGED = {"/etc/a.yml": "/etc/.a.new", "/etc/b.yml": "/etc/.b.new"}


@pytest.mark.parametrize(("check", "found"), [
    (None, []), ("true", [["true"]]), (["check", "--all"], [["check", "--all"]]),
    ("check '{file}' -x", [["check", "/etc/.a.new", "-x"], ["check", "/etc/.b.new", "-x"]]),
    ({"/etc/b.yml": "check {file}"}, [["check", "/etc/.b.new"]]), ({"/etc/c.yml": "check {file}"}, []),
])
def test_a_command_that_names_the_file_is_run_for_each_any_other_once(check, found):
    assert list(commands(check, STAGED)) == found


@pytest.mark.parametrize("check", ["", [], 3, ["check", 3]])
def test_what_is_no_command_is_refused(check):
    with pytest.raises(ValueError, match="no check"):
        list(commands(check, STAGED))


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Have as much time for the last words of a check as it takes: they end with it."""
    monkeypatch.setattr(steps, "LAST_WORDS_TIMEOUT", 20.0)


def check(words, **options):
    run_check(["sh", "-c", words], os.environ, Spawner(), **options)


def test_a_check_that_exits_0_says_yes():
    check("echo fine")


def test_one_that_does_not_is_a_fault_with_its_last_lines():
    with pytest.raises(Fault) as caught:
        check("seq 30; exit 3")
    assert "sh rejects the new file with status 3" in str(caught.value)
    assert caught.value.output[-1] == "30" and not caught.value.retry


@pytest.mark.parametrize(("words", "options", "said"), [
    ("kill -KILL $$", {}, "ended by KILL"), ("exec sleep 60", {"timeout": 0.1}, "took longer than 0.1 s")])
def test_one_that_has_not_judged_is_worth_another_try(words, options, said):
    with pytest.raises(Fault, match=said) as caught:
        check(words, **options)
    assert caught.value.retry


# Action


@pytest.fixture
def service():
    return make_service(surroundings())


@pytest.mark.parametrize(("word", "kind"), [
    ("restart", "restart"), ("reload", "reload"), ("signal:HUP", "reload"), ("POST /-/reload", "barrier"),
    (lambda: None, "barrier"), ("none", None), (None, None)])
def test_each_word_is_a_kind_of_job(service, word, kind):
    """A call may take long, so it is made in the caller's thread, once no job runs."""
    assert act_of(word, service, None, 20.0).kind == kind


@pytest.mark.parametrize("word", ["dance", "signal:", "signal:NOPE", "POST -/reload", "post /x", "POST /a b", 3])
def test_any_other_word_is_refused(service, word):
    with pytest.raises(ValueError, match="no such action"):
        act_of(word, service, None, 20.0)


def test_a_call_has_a_status_and_the_beginning_of_what_was_said(serve):
    server = serve(answer("x" * 100_000, "500 Oh"))
    status, said = steps.call(tcp("127.0.0.1", server.port), "POST", "/-/reload")
    assert (status, len(said)) == (500, steps.RESPONSE_BYTES)
    assert server.heads[0].startswith("POST /-/reload HTTP/1.1\r\n")


def test_a_call_that_was_not_even_begun_says_so():
    with pytest.raises(steps.Unsent, match="refused"):
        steps.call(tcp("127.0.0.1", free_port()), "POST", "/-/reload")


def test_a_call_to_a_service_that_has_ended_is_worth_another_try(service):
    """It may end at any moment, also between the barrier and the call."""
    with pytest.raises(Fault, match="POST /-/reload: the service has ended") as caught:
        act_of("POST /-/reload?token=secret", service, None, 20.0).work()
    assert caught.value.retry


# Environment


@pytest.mark.parametrize(("value", "text"), [
    ("text", "text"), ("", ""), ("two\nlines", "two\nlines"), (1, "1"), (-1.5, "-1.5"), (1e300, "1e+300"),
    (True, "true"), (False, "false"), (None, None), ("größe", "größe"),
])
def test_one_spelling_for_each_value(value, text):
    assert variables_of({"A": value}) == {"A": text}


@pytest.mark.parametrize("name", ["", "A=B", "A\0", "\ud800", 5])
def test_a_name_is_text_without_an_equals_sign(name):
    """POSIX, Base Definitions, 8.1."""
    with pytest.raises(ValueError, match="no name of a variable"):
        variables_of({name: "x"})


@pytest.mark.parametrize("name", ["a", "A.B", "with space", "1", "größe"])
def test_a_name_is_as_free_as_docker_leaves_it(name):
    assert variables_of({name: "x"}) == {name: "x"}


@pytest.mark.parametrize("value", [["hidden"], {"hidden": "hidden"}, "hidden\0", "hidden\ud800", b"hidden",
                                   float("nan"), float("inf"), "hidden" * LONGEST])
def test_a_bad_value_is_told_by_its_name_only(value):
    with pytest.raises(ValueError, match="the variable NAME") as caught:
        variables_of({"NAME": value})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("found", [None, [], "text", 5, b""])
def test_what_is_no_object_is_no_environment(found):
    with pytest.raises(ValueError, match="members of an object"):
        variables_of(found)


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.floats() | st.text(), max_size=3))
def test_whatever_is_taken_can_be_given_to_a_process(found):
    try:
        variables = variables_of(found)
    except ValueError:
        return
    for name, text in variables.items():
        assert "=" not in name
        assert text is None or b"\0" not in os.fsencode(name) + os.fsencode(text)


def test_the_longest_one_is_as_long_as_the_kernel_takes():
    """execve(2): MAX_ARG_STRLEN, with the equals sign and NUL."""
    name, value = "A", "x" * (LONGEST - 1)
    assert os.spawnve(os.P_WAIT, "/bin/true", ["true"], variables_of({name: value})) == 0
    assert os.spawnve(os.P_WAIT, "/bin/true", ["true"], {name: value + "x"}) == 127
