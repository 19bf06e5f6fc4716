"""address.py: where something listens, read and printed. Pure."""

from __future__ import annotations

import os

import pytest

from wrapper.settings import address


@pytest.mark.parametrize("text", ["127.0.0.1:80", ":80", "[::1]:80", "unix:/run/x.sock", "localhost:65535"])
def test_addresses_read_back_as_they_print(text):
    assert str(address.parse(text)) == text


def test_a_relative_socket_is_one_of_the_folder_of_the_start(tmp_path, monkeypatch):
    """A sidecar's os.chdir is for the whole process, and the service could not be reached any more."""
    monkeypatch.chdir(tmp_path)
    there = os.path.join(os.getcwd(), "x.sock")
    assert address.parse("unix:x.sock") == address.unix(there if len(there) <= address.UNIX_PATH_BYTES else "x.sock")
    assert address.parse("unix:" + "x" * 107).path == "x" * 107  # no longer one would be bound


@pytest.mark.parametrize("text", [
    "", "80", "a:", "a:0", "\u00e4..b:80", "x" * 64 + "\u00e4:80",
    "a:65536", "::1:80", "unix:", "unix:" + "x" * 108, "a:\uff18\uff10"])
def test_bad_addresses(text):
    with pytest.raises(ValueError):
        address.parse(text)
