"""errors.py: every way the wrapper says no has a status of its own, and the fields that go with it."""

from __future__ import annotations

import http

import pytest

from wrapper import errors
from wrapper.errors import Refusal

REFUSALS = sorted((found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, Refusal)),
                  key=lambda found: found.__name__)


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_has_a_status_that_http_knows(kind):
    assert http.HTTPStatus(kind.status) >= 400


@pytest.mark.parametrize(("refusal", "field"), [
    (errors.Unauthorized("no"), ("WWW-Authenticate", 'Bearer realm="wrapper"')),     # RFC 9110 section 11.6.1
    (errors.MethodNotAllowed("no", ["GET", "HEAD"]), ("Allow", "GET, HEAD")),        # RFC 9110 section 15.5.6
    (errors.Unavailable("no", 7), ("Retry-After", "7")),                             # RFC 9110 section 10.2.3
    (errors.TooManyRequests("no", 2), ("Retry-After", "2")),
])
def test_a_refusal_brings_the_field_that_its_status_asks_for(refusal, field):
    assert field in refusal.headers


def test_all_faults_of_the_settings_are_told():
    assert errors.BadSettings(["one", "two"]).faults == ("one", "two")
    assert errors.BadSettings.exit_status == 2


def test_what_any_client_may_read_is_the_message_where_nothing_else_is_said():
    assert errors.CannotStart("not found", 127).public == "not found"
    assert errors.CannotStart("s3cret: not found", 127, "not found").public == "not found"
