"""wrapper/__init__.py: the names that authors import, and nothing loaded before they are."""

from __future__ import annotations

import subprocess
import sys

import pytest

import wrapper
from tests.running import ROOT


def test_importing_the_package_loads_nothing_else():
    program = "import sys; before = set(sys.modules); import wrapper; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"wrapper", "__future__"}


@pytest.mark.parametrize("name", [name for name in wrapper.__all__ if name != "__version__"])
def test_every_name_is_there_when_it_is_asked_for(name):
    assert getattr(wrapper, name).__name__ == name
    assert name in dir(wrapper)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = wrapper.Nothing
    with pytest.raises(ImportError):
        from wrapper import Nothing  # noqa: F401  # the point of the test
