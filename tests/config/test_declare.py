"""declare.py: the --config-* options. The little cases here, whole wrappers in test_configuration.py."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from tests.config.test_change import Stage
from wrapper.config import declare
from wrapper.config.change import apply, roll_back
from wrapper.config.declare import Declared, part, render
from wrapper.deadline import Deadline


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
    """The owner of the source may fill the folder, and write nowhere else; nor what a repair would believe."""
    with pytest.raises(ValueError, match="no name of a file inside the folder"):
        declare._inside(name)
    assert declare._inside("sub/.a.yml") == "sub/.a.yml"


class Site:
    """A source, its destination and what brings the one into the other, looked at by hand; the service is stopped."""

    def __init__(self, folder, place, *options):
        self.source = folder / "source"
        self.place = folder / place
        self.stage = Stage(folder, "--config-source", str(self.source), "--config-file",
                           str(self.place) + ("/" if place.endswith("/") else ""), "--config-action", "none",
                           "--config-min-interval", "0s", *options)
        self.subscription = Declared(self.stage.around.settings, self.stage.service).subscription()

    def fetch(self):
        for _ in range(2):  # what was written just now counts when it has been still for a fetch
            is_still = self.subscription._fetch()
        assert is_still, self.subscription.status()
        self.subscription._bring_pending()
        return [entry["message"] for entry in self.stage.around.board.list()]


@pytest.fixture
def folders(tmp_path):
    site = Site(tmp_path, "place/")
    site.source.mkdir()
    site.place.mkdir()
    (site.place / "image.yml").write_text("of the image")
    (site.source / "a.yml").write_text("a")
    (site.source / "b.yml").write_text("b")
    return site


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_goes_from_a_folder_goes_and_what_did_not_come_from_it_stays(folders):
    assert folders.fetch() == []
    assert names(folders.place) == ["a.yml", "b.yml", "image.yml"]
    (folders.source / "b.yml").unlink()
    assert folders.fetch() == []
    assert names(folders.place) == ["a.yml", "image.yml"]


def test_what_goes_from_a_folder_while_no_wrapper_runs_goes_at_its_next_change(folders, tmp_path):
    assert folders.fetch() == []
    (folders.source / "b.yml").unlink()
    (folders.place / "other.yml").write_text("of a sidecar")
    assert apply(folders.stage.service, {str(folders.place / "other.yml"): "new"}, action=None) == []
    again = Site(tmp_path, "place/")
    again.stage.service.history = folders.stage.service.history  # as on the disk
    assert again.fetch() == []
    assert names(folders.place) == ["a.yml", "image.yml", "other.yml"]


def test_what_an_operator_went_back_to_goes_with_the_next_change_of_the_source(folders):
    folders.fetch()
    (folders.source / "b.yml").rename(folders.source / "c.yml")
    assert folders.fetch() == []
    assert roll_back(folders.stage.service, 1, [folders.subscription]) == []
    assert names(folders.place) == ["a.yml", "b.yml", "image.yml"]
    (folders.source / "d.yml").write_text("d")
    assert folders.fetch() == []
    assert names(folders.place) == ["a.yml", "c.yml", "d.yml", "image.yml"]


def test_what_came_anew_where_a_file_of_the_source_was_is_not_the_sources(folders):
    folders.fetch()
    (folders.source / "b.yml").unlink()
    assert folders.fetch() == []
    (folders.place / "b.yml").write_text("of an operator")
    (folders.source / "z.yml").write_text("z")
    assert folders.fetch() == []
    assert (folders.place / "b.yml").read_text() == "of an operator"


def test_an_editor_at_work_in_the_source_changes_nothing(folders):
    """vim keeps a swap file, tries with 4913 whether it can write, and moves the old file aside."""
    folders.fetch()
    before = folders.subscription.status()["hash_seen"]
    for name in (".a.yml.swp", "4913", "a.yml~", "#a.yml#", "a.yml.tmp"):
        (folders.source / name).write_text("an editor's")
    assert folders.fetch() == []
    assert folders.subscription.status()["hash_seen"] == before
    assert names(folders.place) == ["a.yml", "b.yml", "image.yml"]


def test_folders_in_a_folder_come_too(folders):
    (folders.source / "sub").mkdir()
    (folders.source / "sub" / "c.yml").write_text("c")
    assert folders.fetch() == []
    assert names(folders.place) == ["a.yml", "b.yml", "image.yml", "sub/c.yml"]


def test_a_place_that_ends_in_a_slash_becomes_a_folder(tmp_path):
    site = Site(tmp_path, "sub/place/")
    site.source.mkdir()
    (site.source / "a.yml").write_text("a")
    assert site.fetch() == []
    assert names(site.place) == ["a.yml"]


def test_a_folder_that_cannot_be_made_now_is_made_later(folders):
    """The content is not to blame for a full disk, nor for a file that is in the way."""
    (folders.source / "sub").mkdir()
    (folders.source / "sub" / "c.yml").write_text("c")
    (folders.place / "sub").write_text("in the way")
    problem, = folders.fetch()
    assert problem == f"cannot make {folders.place / 'sub'}: Not a directory"
    (folders.place / "sub").unlink()
    assert folders.fetch() == []
    assert names(folders.place) == ["a.yml", "b.yml", "image.yml", "sub/c.yml"]


def test_a_document_cannot_write_outside_the_folder(tmp_path):
    site = Site(tmp_path, "place/")
    site.place.mkdir()
    site.source.write_text(json.dumps({"ok.yml": "fine", "../escaped": "no"}))
    assert site.fetch() == ["the source holds what is no name of a file inside the folder"]
    details = site.stage.around.board.list()[0]["details"]
    assert details == {"step": "render", "content": ["../escaped"]}, "content is not for all who read the message"
    assert names(site.place) == []
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("content", [b'{"version": 1.10, "id": 12345678901234567890.5, "a": 1, "a": 2}', b"\xff\xfe"])
def test_without_a_selection_the_bytes_go_through(tmp_path, content):
    site = Site(tmp_path, "place")
    site.source.write_bytes(content)
    assert site.fetch() == []
    assert site.place.read_bytes() == content
    assert site.subscription.status()["hash_applied"] == hashlib.sha256(content).hexdigest()[:12]


def test_a_source_that_is_written_in_place_is_one_change_when_it_is_whole(tmp_path):
    """Truncated, written half, written whole, as a shell's `>` and many programs do it."""
    site = Site(tmp_path, "place")
    site.source.write_text("old")
    site.fetch()
    for content in ("", "ha", "half", "half and whole"):
        site.source.write_text(content)
        site.subscription._fetch()
        site.subscription._bring_pending()
        assert site.place.read_text() == "old"
    assert site.fetch() == []
    assert site.place.read_text() == "half and whole"


def test_what_was_rejected_has_one_hash_everywhere(tmp_path):
    """A reader of the problem and one of the subscription must know that they speak of the same."""
    site = Site(tmp_path, "place", "--config-check", "false {file}")
    site.source.write_text("no good")
    assert site.fetch()
    details = site.stage.around.board.list()[0]["details"]
    assert site.subscription.status()["hash_rejected"] == details["rejected"]


def test_null_is_nothing_to_write(tmp_path):
    site = Site(tmp_path, "place", "--config-select", "a.b")
    site.source.write_text('{"a": {"b": null}}')
    assert "a.b is null" in str(site.fetch())
    assert not site.place.exists()


def test_one_file_is_no_folder(tmp_path):
    """Said as what it is, and not as a folder that is missing."""
    site = Site(tmp_path, "place/")
    site.place.mkdir()
    site.source.write_text("text")
    problem, = site.fetch()
    assert problem.endswith(f"--config-file={site.place}/ is a folder: name a file in it")
    assert names(site.place) == []


def test_the_first_start_waits_for_the_source_as_long_as_the_option_says(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(declare, "Deadline", lambda seconds: waits.append(seconds) or Deadline(0))
    site = Site(tmp_path, "place", "--config-wait", "300ms")
    declare.before_start(site.stage.around.settings, site.stage.service)
    assert waits == [0.3]


def test_a_change_of_the_template_is_a_change(tmp_path):
    template = tmp_path / "template"
    template.write_text("one $a")
    os.utime(template, (1, 1))
    site = Site(tmp_path, "place", "--config-template", str(template))
    site.source.write_text('{"a": 1}')
    os.utime(site.source, (1, 1))
    assert site.fetch() == []
    assert site.place.read_text() == "one 1"
    template.write_text("two $a")
    assert site.fetch() == []
    assert site.place.read_text() == "two 1"
