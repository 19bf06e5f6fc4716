"""The promises of .github/SECURITY.md: each names a test, and there is one of that name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROMISES = re.findall(r"^\| (?!promise|-)(.+) \| (.+) \|$", (ROOT / ".github/SECURITY.md").read_text(), re.MULTILINE)


def test_every_promise_has_its_test():
    assert len(PROMISES) > 20
    for promise, tests in PROMISES:
        for file, name in re.findall(r"`(tests/\S+)::(\w+)`", tests) or [("", promise)]:
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{promise}: {file}::{name}"
