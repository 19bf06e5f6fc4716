"""launcher.py: command, port and environment of a run."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from wrapper import sockets
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.service.launcher import Launcher
from wrapper.service.state import Life
from wrapper.settings.address import tcp, unix


class Spy:
    def spawn(self, command, environment, on_end, **streams):
        self.command, self.environment = command, environment
        return SimpleNamespace(ended=None)


def launch(subject):
    feed = Feed()
    return subject.launch(Life("service", feed, Board(feed)), None)


@pytest.mark.parametrize(("environment", "upstream", "port"), [
    ({}, tcp("127.0.0.1", 5), None), ({"PORT": "80"}, tcp("127.0.0.1", 5), "5"), ({"PORT": "80"}, unix("/s"), "80")])
def test_the_port_rule(environment, upstream, port):
    spy = Spy()
    subject = Launcher(["serve", "--port={port}"], upstream, environment, spy, None)
    launch(subject)
    assert spy.environment.get("PORT") == port
    assert environment.get("PORT") in (None, "80")
    if not upstream.is_unix:
        assert spy.command == ["serve", "--port=5"]


def test_variables_come_over_the_environment_with_the_port_in_them():
    spy, environment = Spy(), {"PORT": "80", "KEPT": "1", "OVER": "2"}
    variables = (("OVER", "at {port}"), ("PORT", "{port}0"))
    subject = Launcher(["serve"], tcp("127.0.0.1", 5), environment, spy, None, variables=variables)
    launch(subject)
    assert spy.environment == {"KEPT": "1", "OVER": "at 5", "PORT": "50"}
    assert environment == {"PORT": "80", "KEPT": "1", "OVER": "2"}


def test_a_chosen_port_is_a_new_one_each_time():
    subject = Launcher(["serve", "{port}"], None, {}, Spy(), None)
    assert launch(subject).address != launch(subject).address


def test_what_something_listens_at_is_not_free(answering, tmp_path):
    assert not sockets.is_free(tcp(*answering(None)))
    assert not sockets.is_free(tcp(*answering(None)), closed=True)
    assert sockets.is_free(tcp("127.0.0.1", sockets.free_port()))
    assert sockets.is_free(unix(str(tmp_path / "s")))
    answering(None, socket.AF_UNIX, str(tmp_path / "s"))
    assert not sockets.is_free(unix(str(tmp_path / "s")))


def test_a_port_in_time_wait_is_free_for_those_who_say_so():
    """socket(7), SO_REUSEADDR."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = listener.getsockname()
        with socket.create_connection(place) as client:
            listener.accept()[0].close()  # the side that closes first waits
            client.recv(1)
    assert not sockets.is_free(tcp(*place))
    assert sockets.is_free(tcp(*place), closed=True)
