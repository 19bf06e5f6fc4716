"""`road(script, **settings)` as the tests of the relay have it."""

from tests.proxy.conftest import road

__all__ = ["road"]
