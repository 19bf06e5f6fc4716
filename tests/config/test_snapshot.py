"""look.py: what a source's content is, and when two are the same. Pure."""

from __future__ import annotations

import hashlib

import pytest

from wrapper.config.snapshot import JSON_BYTES, CannotFetch, Snapshot, document, fingerprint


@pytest.mark.parametrize(("content", "is_json", "found"), [
    (b'{"a": 1}', None, {"a": 1}), (b"[1]", True, [1]), (b"3", True, 3), (b"3", None, "3"),
    (b"{broken", None, "{broken"), (b'{"a": 1}', False, b'{"a": 1}'), (b"\xff", None, b"\xff"),
    ({"a": b"x", "b": b"\xff"}, None, {"a": "x", "b": b"\xff"}),
    ({"a": 1}, False, {"a": 1}),
])
def test_content_is_json_where_it_is_else_text_else_bytes(content, is_json, found):
    assert document(Snapshot(content, is_json, True), must_be_json=False) == found


def test_what_must_be_json_and_is_not_is_said_without_its_content():
    with pytest.raises(CannotFetch, match=r"not JSON: .* at character 1$") as caught:
        document(Snapshot(b"{s3cret", None, True), must_be_json=True)
    assert "s3cret" not in str(caught.value)


def test_json_that_is_too_large_is_text_unless_it_must_be_json():
    content = b"[" + b" " * JSON_BYTES + b"]"
    assert document(Snapshot(content, None, True), must_be_json=False) == content.decode()
    with pytest.raises(CannotFetch, match="over"):
        document(Snapshot(content, True, True), must_be_json=False)


def test_text_has_the_fingerprint_of_sha256sum():
    assert fingerprint("x\n") == fingerprint(b"x\n") == hashlib.sha256(b"x\n").hexdigest()[:12]


def test_the_order_of_what_has_none_does_not_count():
    assert fingerprint({"a": {1, 2}, "b": b"x"}) == fingerprint({"b": b"x", "a": {2, 1}})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    with pytest.raises(TypeError, match="a object"):
        fingerprint(object())
