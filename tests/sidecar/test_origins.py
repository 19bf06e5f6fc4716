"""origins.py: which pages may ask own paths, and under which names."""

from __future__ import annotations

import pytest

from tests.sidecar.parts import make_request, make_site, with_routes
from wrapper.errors import Forbidden, Refusal
from wrapper.http1.message import Response
from wrapper.sidecar.router import Route


SITE = with_routes()


def fetched(site_header, mode="cors", dest="empty"):
    return [("Sec-Fetch-Site", site_header), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest)]


@pytest.mark.parametrize("target", ["/sidecar/api/status", "/sidecar/", "/hook/x", "/app/x", "/sidecar/nothing"])
@pytest.mark.parametrize("headers", [
    fetched("cross-site"), fetched("cross-site", "no-cors", "image"), fetched("cross-site", "navigate", "iframe")])
def test_a_page_of_another_site_may_fetch_no_own_path(target, headers):
    """Fetch Metadata, section 2: an image of ours on another site's page would be a request of the operator's."""
    with pytest.raises(Forbidden, match="other sites"):
        SITE.answer(make_request("GET", target, headers=headers))


@pytest.mark.parametrize("headers", [
    [], fetched("same-origin"), fetched("none", "navigate", "document"), fetched("same-site"),
    fetched("cross-site", "navigate", "document")])
def test_the_own_page_a_link_and_programs_may(headers):
    assert SITE.answer(make_request("GET", "/sidecar/api/status", headers=headers)).status == 200


def test_a_route_may_be_meant_for_other_sites():
    site = make_site()
    site.add(Route("GET", "/public", lambda request: Response("x"), is_shared=True))
    answer = site.answer(make_request("GET", "/public", headers=fetched("cross-site")))
    assert dict(answer.headers) == {"X-Content-Type-Options": "nosniff"}


HOSTS = ("--allowed-hosts", "grafana.example, other.example")


def asked_as(site, host, target="/sidecar/api/status", trusted=False):
    request = make_request("GET", target, trusted=trusted)
    request.host = host
    return site.answer(request)


@pytest.mark.parametrize("host", [
    "grafana.example", "GRAFANA.example:3000", "grafana.example.", "other.example", "localhost", "localhost:8080",
    "127.0.0.1:8080", "10.1.2.3", "[::1]:8080", "[fd00::1]", ""])
def test_an_allowed_host_an_address_and_localhost_are_answered(host):
    """Probes ask by address, and HTTP/1.0 by none."""
    assert asked_as(with_routes(*HOSTS), host).status == 200


@pytest.mark.parametrize("target", ["/sidecar/api/status", "/sidecar/", "/hook/x", "/app/x"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:3000", "127.0.0.1.evil.example", "localhost.evil"])
def test_a_name_that_leads_here_by_accident_is_not(target, host):
    """DNS rebinding: the other site's page is of the same origin then, and Host is what tells."""
    with pytest.raises(Forbidden, match="host"):
        asked_as(with_routes(*HOSTS), host, target)
    assert asked_as(with_routes(*HOSTS), host, target, trusted=True).status == 200
    assert asked_as(with_routes(), host, target).status == 200


@pytest.mark.parametrize("target", [
    "/sidecar/", "/sidecar", "/sidecar/api/status", "/sidecar/metrics", "/hook/x", "/app/x"])
def test_every_answer_of_ours_is_kept_from_other_sites(target):
    fields = [name.lower() for name, _ in SITE.answer(make_request("GET", target)).headers]
    assert fields.count("x-content-type-options") == fields.count("cross-origin-resource-policy") == 1


@pytest.mark.parametrize("target", ["/sidecar/nothing", "/sidecar/api/stop", "/%73idecar", "/sidecar/api/logs"])
def test_every_refusal_of_ours_is_too(target):
    with pytest.raises(Refusal) as refusal:
        SITE.answer(make_request("GET", target))
    assert {"X-Content-Type-Options", "Cross-Origin-Resource-Policy"} <= set(dict(refusal.value.headers))


def test_a_sidecar_may_say_otherwise():
    site = make_site()
    theirs = ("cross-origin-resource-policy", "cross-origin")
    site.add(Route("GET", "/x", lambda request: Response(headers=[theirs])))
    answer = site.answer(make_request("GET", "/x"))
    assert answer.headers == [theirs, ("X-Content-Type-Options", "nosniff")]
