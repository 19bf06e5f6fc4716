"""message.py: paths in their normal form, fields by name, and pieces of a body."""

from __future__ import annotations

import pytest

from wrapper.http1.message import Headers, encoded, literal_path, normal_path


@pytest.mark.parametrize(("target", "path"), [
    ("/", "/"), ("/a?b=/../c", "/a"), ("//a///b", "/a/b"), ("/a/./b/..", "/a/"), ("/../../a", "/a"),
    ("/%61%2fb", "/a/b"),
    ("/a%5cb", "/a/b"), ("/a\\..\\b", "/b"), ("/a/", "/a/"), ("/%C3%A9", "/\u00e9"), ("/\u00c3\u00a9", "/\u00e9"),
])
def test_every_spelling_of_a_path_has_one_normal_form(target, path):
    """RFC 3986 section 6.2.2; own paths are decided on it."""
    assert normal_path(target) == path


@pytest.mark.parametrize(("raw", "spelled"), [
    ("/a b", "/a b"), ("/a%20b", "/a b"), ("/%61", "/%61"), ("/%c3%a9", "/\u00e9"), ("/a/../b", None), ("//a", None),
    ("/a%2fb", "/a%2fb"),
])
def test_only_the_escapes_that_a_path_needs_are_taken_back(raw, spelled):
    assert literal_path(raw) == spelled


def test_fields_are_found_in_any_case_and_repeated_ones_are_joined():
    """RFC 9110 section 5.3."""
    fields = Headers([("Accept", "a"), ("X", "1"), ("ACCEPT", "b")])
    assert (fields["aCCept"], list(fields), len(fields)) == ("a, b", ["accept", "x"], 2)


def test_a_piece_is_text_or_bytes():
    assert encoded("\u00e9") == b"\xc3\xa9"
    assert encoded(memoryview(b"x")) == b"x"
    with pytest.raises(TypeError, match="int is neither text nor bytes"):
        encoded(3)
