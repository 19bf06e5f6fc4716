"""`road(script, **settings)`: an exposed port in front of a scripted service, closed after the test."""

import pytest

from tests.proxy.road import Road


@pytest.fixture
def road():
    roads = []

    def build(script, **settings):
        roads.append(Road(script, **settings))
        return roads[-1]

    yield build
    for made in roads:
        made.close()
    failures = [failure for made in roads for failure in made.service.failures]
    assert not failures
