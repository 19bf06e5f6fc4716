"""plain.py: JSON of whatever authors put on the board."""

from __future__ import annotations

import datetime
import json

import pytest

from tests.sidecar.parts import make_request, make_site
from wrapper.plain import dumps


class Odd:
    def __str__(self):
        raise ValueError


def within_itself():
    inner = {}
    inner["self"] = inner
    return inner


@pytest.mark.parametrize(("value", "found"), [
    ({"a": [1, 2.5, None, True, "x"]}, {"a": [1, 2.5, None, True, "x"]}),
    ({(1, 2): 3}, {"(1, 2)": 3}),
    ([float("nan"), float("inf")], ["nan", "inf"]),
    ({"at": datetime.date(2026, 1, 31)}, {"at": "2026-01-31"}),
    ({"odd": Odd()}, {"odd": "Odd"}),
    ({(): 10**400}, {"()": 10**400}),
])
def test_what_json_does_not_have_becomes_text(value, found):
    assert json.loads(dumps(value), parse_constant=pytest.fail) == found


def test_a_number_that_nobody_can_read_is_survived():
    assert isinstance(json.loads(dumps([10**5000]), parse_int=str)[0], str)


def test_what_holds_itself_ends_somewhere():
    assert json.loads(dumps(within_itself()))


@pytest.mark.parametrize("detail", [{(1, 2): 3}, float("nan"), Odd(), within_itself()])
def test_one_odd_detail_does_not_hide_the_problems(detail):
    site = make_site()
    site.around.board.report("sidecar:mine", "it hurts", odd=detail)
    answer = site.answer(make_request("GET", "/sidecar/api/problems", trusted=True))
    assert json.loads(answer.whole(), parse_constant=pytest.fail)[0]["message"] == "it hurts"
