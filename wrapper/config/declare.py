"""Configuration without Python: the --config-* options as one subscription and one transaction."""

from __future__ import annotations

import json
import os
import re
import string

from wrapper.config import journal, source
from wrapper.config.apply import apply, apply_first
from wrapper.config.look import CannotLook
from wrapper.config.subscription import Pace, Subscription
from wrapper.deadline import Deadline
from wrapper.problems import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from wrapper.service.service import Service
    from wrapper.settings import Settings


class Template(string.Template):
    """`$name` and `${a.b.c}`: names of the selected part, with dots into what it holds; `$$` is a dollar sign."""

    idpattern = r"(?a:[_a-z][_a-z0-9]*)"
    braceidpattern = r"(?a:[^{}\s]+)"
    flags = re.IGNORECASE


class Declared:
    """What the options say, ready to be subscribed to."""

    def __init__(self, settings: Settings, service: Service) -> None:
        assert settings.config_file is not None
        self._service = service
        self._place = settings.config_file
        self._name = os.path.basename(self._place.rstrip("/"))
        self._reason = f"configuration {self._name}"
        self._path = tuple(settings.config_select.split(".")) if settings.config_select else ()
        self._template = settings.config_template
        self._check = settings.config_check
        self._action = settings.config_action

    def subscription(self, settings: Settings) -> Subscription:
        assert settings.config_source is not None
        around = self._service.around
        origin = source.of(settings.config_source, timeout=settings.config_timeout,
                           token_file=settings.config_token_file)
        needs_json = bool(self._path or self._template)
        return Subscription(self._name, origin, self._bring, Pace(settings.config_interval, settings.config_splay,
                            settings.config_min_interval), around.board, around.feed, self._select, needs_json)

    def first(self, value: Any, deadline: Deadline) -> tuple[list[Problem], Callable[[], list[Problem]] | None]:
        """Bring a value into force before the first start; the rest is done once the service has come up, or not."""
        try:
            files = self._files(value)
        except ValueError as error:
            return [Problem(str(error), step="render")], None
        problems, change = apply_first(self._service, files, self._check, self._action, deadline, reason=self._reason)
        return problems, None if change is None else change.settle

    def _bring(self, value: Any) -> list[Problem]:
        try:
            files = self._files(value)
        except ValueError as error:
            return [Problem(str(error), step="render")]
        return apply(self._service, files, self._check, self._action, reason=self._reason)

    def _select(self, found: Any) -> dict[str, Any]:
        """The part that counts, with the template it is to be rendered by: a change of either is a change."""
        template = None
        if self._template is not None:
            try:
                with open(self._template, encoding="utf-8") as file:
                    template = file.read()
            except (OSError, UnicodeDecodeError) as error:
                raise CannotLook(f"cannot read the template {self._template}: {error}") from error
        try:
            return {"part": part(found, self._path), "template": template}
        except ValueError as error:
            raise CannotLook(str(error)) from error

    def _files(self, value: dict[str, Any]) -> dict[str, str | bytes | None]:
        """Raises: ValueError."""
        found, template = value["part"], value["template"]
        if template is not None:
            return {self._place: render(template, found)}
        if isinstance(found, dict) and (self._place.endswith("/") or os.path.isdir(self._place)):
            return {os.path.join(self._place, _inside(name)): _text(content) for name, content in found.items()}
        return {self._place: _text(found)}


def _inside(name: str) -> str:
    """A name from the source, where it stays inside the folder and is none of the journal's. Raises: ValueError."""
    parts = name.split("/")
    if "\0" in name or not {"", ".", ".."}.isdisjoint(parts) or journal.is_ours(parts[-1]):
        raise ValueError(f"{name!r} is no name of a file inside the folder")
    return name


def part(document: Any, path: tuple[str, ...]) -> Any:
    """The part of a document at a path of keys and list positions. A key may hold dots itself, as names of files do.

    Raises: ValueError that names what is missing.
    """
    if not path:
        return document
    for length in range(len(path), 0, -1):
        for found in _at(document, ".".join(path[:length])):
            return part(found, path[length:])
    raise ValueError(f"there is no {path[0]!r}" + (f" on the way to {'.'.join(path)!r}" if len(path) > 1 else ""))


def _at(document: Any, key: str) -> Iterator[Any]:
    if isinstance(document, dict) and key in document:
        yield document[key]
    elif isinstance(document, list) and key.isascii() and key.isdigit() and int(key) < len(document):
        yield document[int(key)]


class _Names:
    """Looks names up in the selected part; what is no object at all is called `value`."""

    def __init__(self, found: Any) -> None:
        self._found = found if isinstance(found, dict) else {"value": found}

    def __getitem__(self, name: str) -> str:
        content = part(self._found, tuple(name.split(".")))
        if isinstance(content, bytes):
            raise ValueError(f"{name!r} is not text")  # noqa: TRY004  what string.Template raises, too
        return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def render(template: str, found: Any) -> str:
    """Raises: ValueError that names the missing key, or the place of a stray `$`."""
    try:
        return Template(template).substitute(_Names(found))  # type: ignore[arg-type]  # it only looks names up
    except ValueError as error:
        raise ValueError(f"cannot render the template: {error}") from error


def _text(value: Any) -> str | bytes:
    """Text as it is; anything else as JSON, which is YAML too."""
    return value if isinstance(value, (str, bytes)) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def before_start(settings: Settings, service: Service) -> Subscription | None:
    """Have the service's configuration in place before its first start, where it can be had within --config-wait.

    The subscription is to be started once the service is; None without --config-source.
    """
    if settings.config_source is None:
        return None
    declared = Declared(settings, service)
    subscription = declared.subscription(settings)
    subscription.first(Deadline(settings.config_wait), declared.first)
    return subscription


