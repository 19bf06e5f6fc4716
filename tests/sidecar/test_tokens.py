"""tokens.py: a token file judged, and wrong tokens counted; `test_access.py` has what clients see of both."""

from __future__ import annotations

import pytest

from wrapper.sidecar import tokens

LONG = "sesame-sesame-sesame"


def test_a_token_is_its_line_without_what_stands_around_it(tmp_path):
    file = tmp_path / "token"
    file.write_text(f" {LONG}\t\r\n")
    file.chmod(0o600)
    assert tokens.read(str(file)) == (LONG.encode(), None)
    file.write_text("schl\xfcssel-schl\xfcssel")
    assert tokens.read(str(file)) == ("schl\xfcssel-schl\xfcssel".encode(), None)


def test_what_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        tokens.read(str(tmp_path / "missing"))


def test_what_is_remembered_of_peers_is_bounded():
    tries = tokens.Tries()
    for number in range(2 * tokens.PEERS_MAX):
        tries.note(f"peer {number}")
    assert len(tries._until) == tokens.PEERS_MAX


def test_wrong_tries_are_counted_and_said_once_a_minute(monkeypatch):
    lines, now = [], [1000.0]
    monkeypatch.setattr(tokens.log, "warning", lambda message, **facts: lines.append(facts["count"]))
    monkeypatch.setattr(tokens.time, "monotonic", lambda: now[0])
    tries = tokens.Tries()
    for _ in range(100):
        tries.note("192.0.2.1")
    assert lines == [1]
    now[0] += tokens.REPORT_INTERVAL
    tries.note("192.0.2.1")
    assert lines == [1, 100]
