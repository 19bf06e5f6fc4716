"""survey.py: what the wrapper needs of this Python; in a process of its own, since it imports it all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.running import ROOT
from wrapper.image.survey import libraries, loader


def surveyed(*more):
    program = ("import sys\nfrom wrapper.image import survey\n"
               "print(*sorted(module.name for module in survey.modules(sys.argv[1:])))")
    return subprocess.run([sys.executable, "-c", program, *more], cwd=ROOT, capture_output=True, text=True, check=False)


def test_all_that_the_wrapper_imports_is_found_and_what_is_for_tests_is_not():
    names = set(surveyed().stdout.split())
    assert {"wrapper.entrypoint", "wrapper.sidecar.site", "http.server", "json", "logging", "os"} <= names
    assert not {name for name in names if name.startswith(("wrapper.image", "wrapper.testing", "pytest", "ssl"))}


def test_what_is_asked_for_has_to_be_of_the_standard_library():
    assert "sqlite3" in surveyed("sqlite3").stdout.split()
    assert "is not of the standard library" in surveyed("pytest").stderr


def test_the_libraries_of_the_interpreter_are_those_that_its_loader_names():
    try:
        found = libraries(loader(), [os.path.realpath(sys.executable)])
    except RuntimeError as error:
        pytest.skip(str(error))
    assert any(name.startswith("libc.") for name in found)
    assert all(os.path.isfile(path) for path in found.values())
