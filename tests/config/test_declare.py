"""declare.py: the --config-* options. The little cases here, whole wrappers in test_configuration.py."""

from __future__ import annotations

import pytest

from wrapper.config import declare
from wrapper.config.declare import part, render


@pytest.mark.parametrize(("document", "path", "found"), [
    ({"a": {"b": {"c": 1}}}, "a.b.c", 1), ({"a": [{"b": 2}]}, "a.0.b", 2), ({"rules.yml": "x"}, "rules.yml", "x"),
    ({"a": {"rules.yml": {"b": 3}}}, "a.rules.yml.b", 3),
])
def test_a_part_is_found_by_its_path(document, path, found):
    assert part(document, tuple(path.split("."))) == found


@pytest.mark.parametrize(("document", "path"), [({"a": 1}, "b"), ({"a": {"b": 1}}, "a.c"), ([1], "1"), ("text", "a")])
def test_a_part_that_is_missing_is_named(document, path):
    with pytest.raises(ValueError, match=path.rsplit(".", 1)[-1]):
        part(document, tuple(path.split(".")))


@pytest.mark.parametrize(("template", "found", "text"), [
    ("host=$host\n", {"host": "a"}, "host=a\n"), ("${a.b}.", {"a": {"b": 1}}, "1."),
    ("$$x $x.y", {"x": "z"}, "$x z.y"),
    ("on: $on", {"on": True}, "on: true\n"), ("[$value]", "plain", "[plain]"),
    ("${rules.yml}", {"rules.yml": "r"}, "r"),
])
def test_a_template_is_filled_in(template, found, text):
    assert render(template, found).rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize(("template", "reason"), [
    ("$missing", "'missing'"), ("${a.b}", "'b'"), ("50$", "line 1"), ("\n ${}", "line 2"),
])
def test_what_cannot_be_filled_in_is_named(template, reason):
    with pytest.raises(ValueError, match=reason):
        render(template, {"a": {"secret": "password"}})


def test_no_value_is_in_a_fault():
    with pytest.raises(ValueError) as caught:
        render("$missing", {"other": "password"})
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "", ".", "..", "a//b", "a/", "x\0y",
                                  ".a.yml.wrapper-journal", "sub/.a.yml.wrapper-old"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name):
    """Whoever answers for the source may fill the folder, and write nowhere else; nor what a repair would believe."""
    with pytest.raises(ValueError, match="no name of a file inside the folder"):
        declare._inside(name)
    assert declare._inside("sub/.a.yml") == "sub/.a.yml"
