"""text.py: what others wrote, made fit to be shown."""

from __future__ import annotations

import sys

import pytest

from wrapper import text


@pytest.mark.parametrize(("given", "shown"), [
    ("a\tb\nc\n", "a\tb\nc\n"), ("a\r\nb\r", "a\nb\\r"), ("\x1b[2J\x00\x9b", "\\x1b[2J\\x00\\x9b"), ("", ""),
    ("caf\xe9 \u2603", "caf\xe9 \u2603"), ("\u202e", "\\u202e")])
def test_lines_and_tabs_stay_and_control_characters_are_shown(given, shown):
    assert text.printable(given) == shown


@pytest.mark.parametrize(("called", "package", "words"), [
    ("/usr/local/bin/wrapper", "", "wrapper"), ("/x/wrapper/__main__.py", "wrapper", "python3 -m wrapper"),
    ("/opt/wrapper/__main__.py", None, "python3 /opt/wrapper/__main__.py")])
def test_the_program_is_named_as_it_was_called(monkeypatch, called, package, words):
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(sys.modules["__main__"], "__package__", package)
    assert text.program() == words
