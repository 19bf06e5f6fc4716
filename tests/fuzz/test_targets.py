"""Every parser that strangers' bytes reach, with the kept corpus and with what hypothesis makes up.

FUZZ_EXAMPLES says how many; `.ci/run fuzz` asks for more, and has atheris look for them too.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.fuzz.targets import TARGETS, WORDS

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
BYTES = st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=6)), max_size=20).map(b"".join)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=BYTES)
def test_it_holds_for_any_bytes(name, data):
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_it_holds_for_the_corpus(name):
    files = sorted((CORPUS / name).iterdir())
    assert files
    for file in files:
        TARGETS[name](file.read_bytes())
