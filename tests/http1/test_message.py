"""message.py: fields by name, and pieces of a body."""

from __future__ import annotations

import pytest

from wrapper.http1.message import Headers, encoded


def test_fields_are_found_in_any_case_and_repeated_ones_are_joined():
    """RFC 9110 section 5.3."""
    fields = Headers([("Accept", "a"), ("X", "1"), ("ACCEPT", "b")])
    assert (fields["aCCept"], list(fields), len(fields)) == ("a, b", ["accept", "x"], 2)


def test_a_piece_is_text_or_bytes():
    assert encoded("\u00e9") == b"\xc3\xa9"
    assert encoded(memoryview(b"x")) == b"x"
    with pytest.raises(TypeError, match="int is neither text nor bytes"):
        encoded(3)
