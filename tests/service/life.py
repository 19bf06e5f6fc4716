"""A service under a real controller, with real processes and a gate that relays to nothing."""

from __future__ import annotations

import os

from tests.running import wait_until
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.service.process import Spawner
from wrapper.service.service import Service, Surroundings
from wrapper.service.state import State
from wrapper.settings import settings


class NoUpstream:
    def __init__(self, address):
        self.address = address
        self.is_doubted = False

    def close(self):
        pass

    def doubt_kept(self):
        self.is_doubted = True


class Life:
    """A service without a proxy, and everything that happened to it."""

    def __init__(self, *options, command):
        self.feed = Feed()
        self.board = Board(self.feed)
        chosen = settings.read([*options, "--", *command], {})
        around = Surroundings(chosen, os.environ, Spawner(), self.feed, self.board, NoUpstream)
        self.overs = []
        self.service = Service("service", chosen.command, chosen.upstream, around,
                               lambda status, planned: self.overs.append((status, planned)))
        self.controller = self.service.controller

    def states(self):
        return [event["state"] for event in self.feed.after(0) if event["kind"] == "state"]

    def wait_state(self, state):
        """Wait until it is in that state, and those who listen to the feed have heard of it."""
        wait_until(lambda: self.service.life.state is State(state) and self.states()[-1:] == [state],
                   what=f"{state}: {self.states()}")

    def wait_over(self):
        """Its exit status and whether that was planned, once the controller has told them."""
        wait_until(lambda: self.overs, what=f"the end: {self.states()}")
        assert self.controller.over.is_set()
        (over,) = self.overs
        return over

    def ask(self, kind, **options):
        job = self.controller.ask(kind, "test", **options)
        job.wait(20)
        return job.error

    def pid(self):
        return self.service.status()["pid"]
