"""fronts.py: a proxy that was forgotten in --trusted-proxies is named."""

from __future__ import annotations

import pytest

from tests.sidecar.parts import make_site
from wrapper.http1.request import read_request
from wrapper.http1.message import Ended
from wrapper.sidecar.fronts import MOST_NAMED


@pytest.fixture
def lines(monkeypatch):
    said = []
    monkeypatch.setattr("wrapper.sidecar.fronts.log.warning", lambda text, **facts: said.append((text, facts)))
    return said


def ended(peer, fields=b"X-Forwarded-Proto: https\r\n"):
    head = read_request(b"GET / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n", 65536)
    return Ended("GET", "/", 200, 0.1, 0.1, 0.0, 0, 0, False, peer, head)


def test_a_peer_whose_word_is_replaced_is_named_once(lines):
    """A redirect loop began without a word."""
    site = make_site()
    for peer in ("10.0.0.1", "10.0.0.1", "10.0.0.2", None, None):
        site.ended(ended(peer))
    assert [facts["peer"] for _, facts in lines] == ["10.0.0.1", "10.0.0.2", "unix"]
    assert all("--trusted-proxies" in text for text, _ in lines)


@pytest.mark.parametrize("fields", [b"", b"X-Forwarded-Proto: http\r\n", b"X-Forwarded-Proto: x\r\nX-Real-IP: y\r\n"])
def test_what_changes_nothing_is_no_news(lines, fields):
    make_site().ended(ended("10.0.0.1", fields))
    make_site("--trusted-proxies", "10.0.0.0/8").ended(ended("10.0.0.1"))
    assert lines == []


def test_ever_new_peers_take_no_memory(lines):
    site = make_site()
    for number in range(MOST_NAMED * 3):
        site.ended(ended(f"10.0.{number // 250}.{number % 250}"))
    assert len(lines) == MOST_NAMED
