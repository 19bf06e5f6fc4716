"""launcher.py: command, port and environment of a run."""

from __future__ import annotations

import pytest

from wrapper.settings.address import tcp, unix
from wrapper.service.launcher import Launcher


class Spy:
    def spawn(self, command, environment, on_end, **streams):
        self.command, self.environment = command, environment


@pytest.mark.parametrize(("environment", "upstream", "port"), [
    ({}, tcp("127.0.0.1", 5), None), ({"PORT": "80"}, tcp("127.0.0.1", 5), "5"), ({"PORT": "80"}, unix("/s"), "80")])
def test_the_port_rule(environment, upstream, port):
    spy = Spy()
    launcher = Launcher(["serve", "--port={port}"], upstream, environment, spy, None)
    launcher.launch(launcher.choose_address(), None, None)
    assert spy.environment.get("PORT") == port
    assert environment.get("PORT") in (None, "80")
    if not upstream.is_unix:
        assert spy.command == ["serve", "--port=5"]


def test_variables_come_over_the_environment_with_the_port_in_them():
    spy, environment = Spy(), {"PORT": "80", "KEPT": "1", "OVER": "2"}
    variables = (("OVER", "at {port}"), ("PORT", "{port}0"))
    launcher = Launcher(["serve"], tcp("127.0.0.1", 5), environment, spy, None, variables=variables)
    launcher.launch(launcher.choose_address(), None, None)
    assert spy.environment == {"KEPT": "1", "OVER": "at 5", "PORT": "50"}
    assert environment == {"PORT": "80", "KEPT": "1", "OVER": "2"}


def test_a_chosen_port_is_a_new_one_each_time():
    launcher = Launcher(["serve", "{port}"], None, {}, Spy(), None)
    assert launcher.choose_address() != launcher.choose_address()
