"""service.py: one service, whole: what it says of itself, and a helper beside it."""

from __future__ import annotations

from tests.running import wait_until
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.service.process import Spawner
from wrapper.service.service import Helper, Surroundings
from wrapper.settings import settings


def test_a_service_is_ready_while_it_serves_and_says_why_not(live):
    life = live()
    life.wait_state("running")
    assert life.service.readiness() is None
    assert life.ask("stop") is None
    assert life.service.readiness() == "the service is stopped: stopped: test"


def test_a_wrapper_that_is_about_to_shut_down_is_not_ready_though_it_serves(live):
    life = live()
    life.wait_state("running")
    life.service.is_leaving = True
    assert life.service.readiness() == "the wrapper is about to shut down"


def test_the_record_holds_no_argument_and_no_secret(live):
    life = live("--env", "SECRET=s3cret", "--token", "a-token-of-ours")
    life.wait_state("running")
    shown = repr(life.service.status())
    assert "s3cret" not in shown and "a-token-of-ours" not in shown and "plain.py" not in shown


def test_a_helper_that_cannot_run_is_a_problem_and_ends_nothing(tmp_path):
    feed, ends = Feed(), []
    board = Board(feed)
    around = Surroundings(settings.read(["--restart", "never", "--", "x", "{port}"], {}), {}, Spawner(), feed, board,
                          lambda address: None, lambda *over: ends.append(over))
    helper = Helper("mail", [str(tmp_path / "none"), "{port}"], None, around, route="/mail")
    helper.launch()
    assert not helper.controller.over.wait(0)
    assert wait_until(board.list)[0]["source"] == "mail"
    assert ends == []
    helper.controller.shut_down(9)
    assert helper.controller.over.wait(20)
