"""check.py: which commands are run for new files, and what becomes of their exit status."""

from __future__ import annotations

import os

import pytest

from wrapper.config import check as room
from wrapper.config.check import commands, run
from wrapper.config.transaction import Fault
from wrapper.service.process import Spawner

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
    monkeypatch.setattr(room, "LAST_WORDS_TIMEOUT", 20.0)


def check(words, **options):
    run(["sh", "-c", words], os.environ, Spawner(), **options)


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
