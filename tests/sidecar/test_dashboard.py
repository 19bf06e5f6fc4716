"""dashboard.py: the page with its policy, the numbers behind it, the scrape."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from tests.sidecar.parts import make_request, make_site
from wrapper.http1.message import Ended
from wrapper.sidecar.dashboard import INLINE
from wrapper.sidecar.registry import Counter


def get(site, target, **options):
    response = site.answer(make_request("GET", target, **options))
    return response, dict(response.headers)


def test_the_page_needs_no_token():
    response, headers = get(make_site("--token", "sesame"), "/sidecar/")
    assert response.status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"


def test_the_path_without_its_slash_leads_to_it(site):
    """The addresses in the page are relative, so that it works under any prefix, also one that a proxy adds."""
    response, headers = get(site, "/sidecar")
    assert (response.status, headers["Location"]) == (308, "sidecar/")
    assert get(make_site("--prefix", "/a/b"), "/a/b")[1]["Location"] == "b/"


def test_the_policy_lets_nothing_run_but_the_page_itself(site):
    """https://www.w3.org/TR/CSP3/: hashes are of what stands between the tags."""
    response, headers = get(site, "/sidecar/")
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in str(policy)
    found = INLINE.findall(response.body.decode())
    assert {kind for kind, _ in found} == {"script", "style"}
    for kind, code in found:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" in policy[f"{kind}-src"]


def test_the_page_asks_nobody_else(site):
    text = get(site, "/sidecar/")[0].body.decode()
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}, "names of XML, not places"
    assert not re.search(r"\son\w+=|\sstyle=|<link[^>]+stylesheet|<script[^>]+src", text), "the policy would refuse it"
    assert "innerHTML" not in text, "facts are text, never markup"


@pytest.mark.parametrize("name", ["X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "ETag"])
def test_the_page_has_its_security_headers(site, name):
    assert name in get(site, "/sidecar/")[1]


def test_a_page_that_is_known_is_not_sent_again(site):
    tag = get(site, "/sidecar/")[1]["ETag"]
    response, headers = get(site, "/sidecar/", headers=[("If-None-Match", tag)])
    assert response.status == 304
    assert response.body == b""
    assert "Content-Security-Policy" in headers


def test_the_scrape_is_text_0_0_4_and_holds_every_family(site):
    response, headers = get(site, "/sidecar/metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    names = set(re.findall(r"^# TYPE (\S+)", response.body, re.MULTILINE))
    assert names >= {
        "wrapper_request_duration_seconds", "wrapper_request_first_byte_seconds", "wrapper_request_bytes_total",
        "wrapper_response_bytes_total", "wrapper_request_held_seconds", "wrapper_requests_in_flight",
        "wrapper_requests_held", "wrapper_upstream_connections", "wrapper_service_restarts_total",
        "wrapper_service_state", "wrapper_service_generation", "wrapper_problems", "wrapper_process_threads",
        "wrapper_process_cpu_seconds_total", "wrapper_process_resident_memory_bytes", "wrapper_process_open_fds",
        "wrapper_build_info"}
    assert all(name.startswith("wrapper_") for name in names)


def test_authors_metrics_are_in_the_same_scrape(site):
    site.registry.add(Counter("jobs", "Jobs.")).inc()
    assert "\njobs_total 1\n" in get(site, "/sidecar/metrics")[0].body


def test_the_numbers_count_what_was_relayed(site):
    site.ended(Ended("GET", "/", 200, 0.1, 0.1, 0.0, 0, 5, False, None))
    site.ended(Ended("GET", "/sidecar/", 200, 0.1, 0.1, 0.0, 0, 5, True, None))
    number = site.dashboard.sampler.sample()
    document = json.loads(get(site, "/sidecar/api/traffic")[0].body)
    assert [second["requests"] for second in document["seconds"]] == [1]
    later = json.loads(get(site, f"/sidecar/api/traffic?after={number}")[0].body)
    assert later["seconds"] == []
    assert later.keys() == {"time", "seconds"}


@pytest.mark.parametrize(("options", "facts"), [
    ((), {"has_token": False, "keeps_output": False, "hold": 30, "drain": 3, "stop": 30, "overlap_drain": 60}),
    (("--token", "sesame", "--capture-output", "--hold", "0", "--stop-timeout", "5s"),
     {"has_token": True, "keeps_output": True, "hold": 0, "stop": 5})])
def test_the_page_knows_what_it_may_promise(options, facts):
    about = json.loads(get(make_site(*options), "/sidecar/api/traffic")[0].body)["about"]
    assert {name: about[name] for name in facts} == facts
