"""Two ends of a connection, one of them watched by the loop; and a loop that a test ends itself."""


import pytest

from tests.loop.driving import Pair
from wrapper.loop.loop import Loop
from wrapper.loop.workers import Workers


@pytest.fixture
def pair(loop):
    pairs = []

    def make(**how):
        pairs.append(Pair(loop, **how))
        return pairs[-1]

    yield make
    for made in pairs:
        made.close()


@pytest.fixture
def short_lived():
    made = Loop("a test's port", Workers("a test's worker", 1))
    yield made
    made.workers.stop()
