"""diagnosis.py: why a command cannot be run; `tests/test_messages.py` has what is said of it."""

from __future__ import annotations

import sys

import pytest

from wrapper.service.diagnosis import why_not


@pytest.mark.parametrize(("content", "mode", "said"), [
    ("#!/bin/sh\n", 0o755, None), ("#! /bin/sh -e\n", 0o755, None), ("echo\n", 0o755, None), ("", 0o755, None),
    ("#!/bin/sh\n", 0o644, "chmod"), ("#!/no/such\n", 0o755, "interpreter"), ("#!\n", 0o755, "interpreter"),
    ("#!/bin/sh\r\n", 0o755, "CR LF")])
def test_a_script_is_judged_by_its_first_line(tmp_path, content, mode, said):
    script = tmp_path / "script"
    script.write_bytes(content.encode())
    script.chmod(mode)
    found = why_not([str(script)])
    assert found is None if said is None else said in found


@pytest.mark.parametrize(("command", "said"), [
    ([sys.executable, "a b", "A=1"], None), (["no-such"], "not found"), (["/tmp"], "directory"),
    (["sleep 5"], "without quotes"), (["A=1", "sleep"], "--env"), (["cd", "/tmp"], "sh -c"),
    (["no-such", "&&", "other"], "sh -c")])
def test_the_way_out_is_named_for_what_a_shell_would_have_taken(command, said):
    found = why_not(command)
    assert found is None if said is None else said in found
