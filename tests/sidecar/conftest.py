"""A site over services that are not started: enough for everything that is answered here."""

import pytest

from tests.sidecar.parts import make_site


@pytest.fixture
def site():
    return make_site()
