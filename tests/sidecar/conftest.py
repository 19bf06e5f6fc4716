"""A site over services that are not started: enough for everything that is answered here."""

import threading

import pytest

from tests.sidecar.parts import make_site
from wrapper import Sidecar


@pytest.fixture
def site():
    return make_site()


@pytest.fixture
def sidecar():
    return Sidecar("mine")


@pytest.fixture
def refuse_threads(monkeypatch):
    """Have no thread to be had whose name ends in one of some words, as at a limit of processes."""
    start = threading.Thread.start

    def refuse(*ends):
        def start_unless(thread):
            if thread.name.endswith(ends):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_unless)

    return refuse
