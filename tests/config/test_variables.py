"""variables.py: what may be a variable of the service, and how it is spelled."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrapper.config.variables import LONGEST, judged


@pytest.mark.parametrize(("value", "text"), [
    ("text", "text"), ("", ""), ("two\nlines", "two\nlines"), (1, "1"), (-1.5, "-1.5"), (1e300, "1e+300"),
    (True, "true"), (False, "false"), (None, None), ("größe", "größe"),
])
def test_one_spelling_for_each_value(value, text):
    assert judged({"A": value}) == {"A": text}


@pytest.mark.parametrize("name", ["", "A=B", "A\0", "\ud800", 5])
def test_a_name_is_text_without_an_equals_sign(name):
    """POSIX, Base Definitions, 8.1."""
    with pytest.raises(ValueError, match="no name of a variable"):
        judged({name: "x"})


@pytest.mark.parametrize("name", ["a", "A.B", "with space", "1", "größe"])
def test_a_name_is_as_free_as_docker_leaves_it(name):
    assert judged({name: "x"}) == {name: "x"}


@pytest.mark.parametrize("value", [["hidden"], {"hidden": "hidden"}, "hidden\0", "hidden\ud800", b"hidden",
                                   float("nan"), float("inf"), "hidden" * LONGEST])
def test_a_bad_value_is_told_by_its_name_only(value):
    with pytest.raises(ValueError, match="the variable NAME") as caught:
        judged({"NAME": value})
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("found", [None, [], "text", 5, b""])
def test_what_is_no_object_is_no_environment(found):
    with pytest.raises(ValueError, match="members of an object"):
        judged(found)


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.floats() | st.text(), max_size=3))
def test_whatever_is_taken_can_be_given_to_a_process(found):
    try:
        variables = judged(found)
    except ValueError:
        return
    for name, text in variables.items():
        assert "=" not in name
        assert text is None or b"\0" not in os.fsencode(name) + os.fsencode(text)


def test_the_longest_one_is_as_long_as_the_kernel_takes():
    """execve(2): MAX_ARG_STRLEN, with the equals sign and NUL."""
    name, value = "A", "x" * (LONGEST - 1)
    assert os.spawnve(os.P_WAIT, "/bin/true", ["true"], judged({name: value})) == 0
    assert os.spawnve(os.P_WAIT, "/bin/true", ["true"], {name: value + "x"}) == 127
