"""action.py: the words for what makes a service take its files, and the call to it."""

from __future__ import annotations

import pytest

from tests.config.conftest import answer
from tests.running import free_port
from tests.sidecar.parts import make_service, surroundings
from wrapper.settings.address import tcp
from wrapper.config import action


@pytest.fixture
def service():
    return make_service(surroundings())


@pytest.mark.parametrize(("word", "kind"), [
    ("restart", "restart"), ("reload", "reload"), ("signal:HUP", "reload"), ("POST /-/reload", "barrier"),
    (lambda: None, "barrier"), ("none", None), (None, None)])
def test_each_word_is_a_kind_of_job(service, word, kind):
    """A call may take long, so it is made in the caller's thread, once no job runs."""
    assert action.of(word, service, None, "test", None).kind == kind


@pytest.mark.parametrize("word", ["dance", "signal:", "signal:NOPE", "POST -/reload", "post /x", "POST /a b", 3])
def test_any_other_word_is_refused(service, word):
    with pytest.raises(ValueError, match="no such action"):
        action.of(word, service, None, "test", None)


def test_a_call_has_a_status_and_the_beginning_of_what_was_said(serve):
    server = serve(answer("x" * 100_000, "500 Oh"))
    status, said = action.call(tcp("127.0.0.1", server.port), "POST", "/-/reload")
    assert (status, len(said)) == (500, action.RESPONSE_BYTES)
    assert server.heads[0].startswith("POST /-/reload HTTP/1.1\r\n")


def test_a_call_that_was_not_even_begun_says_so():
    with pytest.raises(action.Unsent, match="refused"):
        action.call(tcp("127.0.0.1", free_port()), "POST", "/-/reload")
