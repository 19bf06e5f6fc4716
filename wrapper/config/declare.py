"""Configuration without Python: the --config-* options as one subscription and one transaction."""

from __future__ import annotations

import json
import os
import re
import string

from wrapper.config import history, journal, source
from wrapper.config.change import apply, apply_first, subscribe
from wrapper.config.folder import content_of, find
from wrapper.config.source import CannotFetch, document
from wrapper.config.steps import variables_of
from wrapper.config.subscription import Pace
from wrapper.deadline import Deadline
from wrapper.problems import Problem
from wrapper.settings import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Optional

    from wrapper.config.source import Snapshot, Source
    from wrapper.config.subscription import Subscription
    from wrapper.config.transaction import Content
    from wrapper.service.service import Service
    from wrapper.settings.settings import Settings

    Files = dict[str, Content]
    Variables = Optional[dict[str, Optional[str]]]


class Template(string.Template):
    """`$name` and `${a.b.c}`: names of the selected part, with dots into what it holds; `$$` is a dollar sign."""

    idpattern = r"(?a:[_a-z][_a-z0-9]*)"
    braceidpattern = r"(?a:[^{}\s]+)"
    flags = re.IGNORECASE


class Declared:
    """What the options say, ready to be subscribed to."""

    def __init__(self, settings: Settings, service: Service) -> None:
        self._settings = settings
        self._service = service
        self._target = settings.config_file
        self._name = os.path.basename(self._target.rstrip("/")) if self._target else "environment"
        self._select_path = settings.config_select or ""
        self._part = selection(self._select_path) if self._select_path else lambda document: document
        self._template = settings.config_template
        self._how: dict[str, Any] = {
            "check": settings.config_check, "action": settings.config_action or settings.reload,
            "mode": settings.config_mode, "reason": f"configuration {self._name}"}
        self._placed: set[str] = set()  # the files of a folder that came from the source, as far as this process knows

    def subscription(self) -> Subscription:
        settings = self._settings
        assert settings.config_source is not None
        origin = source.of(settings.config_source, timeout=settings.config_timeout,
                           token_file=settings.config_token_file)
        if self._template is not None:
            origin = WithTemplate(origin, source.of(self._template))
        pace = Pace(settings.config_interval, settings.config_splay, settings.config_min_interval)
        return subscribe([self._service], self._name, origin, self._bring, pace, self._read)

    def first(self, value: Any, deadline: Deadline) -> tuple[list[Problem], Callable[[], list[Problem]] | None]:
        """Bring a value into force before the first start; the rest is done once the service has come up, or not."""
        files, variables, problems = self._rendered(value)
        if problems:
            return problems, None
        problems, change = apply_first(self._service, files, deadline=deadline, environment=variables,
                                       placed=_present(files), **self._how)
        if change is None:
            return self._noted(files, problems), None
        return problems, lambda: self._noted(files, change.settle())

    def _bring(self, value: Any) -> list[Problem]:
        files, variables, problems = self._rendered(value)
        return problems or self._noted(files, apply(self._service, files, environment=variables,
                                                    placed=_present(files), **self._how))

    def _rendered(self, value: Any) -> tuple[Files, Variables, list[Problem]]:
        try:
            return self._files(value), self._variables(value), []
        except ValueError as error:
            message, *content = error.args
            return {}, None, [Problem(message, "", step="render", **({"content": content} if content else {}))]
        except OSError as error:
            return {}, None, [Problem(f"cannot make {error.filename}: {error.strerror}", step="write", retry=True)]

    def _noted(self, files: Files, problems: list[Problem]) -> list[Problem]:
        if not problems:
            self._placed = set(_present(files))
        return problems

    def _read(self, snapshot: Snapshot) -> Any:
        """The part that counts; with the template it is to be rendered by, where there is one: both may change.

        What is to become the file as it stands is not looked into: JSON that is read and written is another text.
        """
        needs_json = bool(self._select_path or self._template or self._settings.config_env)
        if isinstance(snapshot.content, bytes) and not needs_json and not self._is_folder:
            return snapshot.content
        found = self._part(document(snapshot, must_be_json=needs_json))
        if self._template is None:
            return found
        try:
            return {"part": found, "template": content_of(self._template, source.MAX_BYTES).decode()}
        except (OSError, UnicodeDecodeError) as error:
            raise CannotFetch(f"cannot read the template {self._template}: {error}") from error

    @property
    def _is_folder(self) -> bool:
        return self._target is not None and (self._target.endswith("/") or os.path.isdir(self._target))

    def _files(self, found: Any) -> Files:
        """Raises: ValueError, and OSError where a folder for them cannot be made."""
        if self._target is None:
            return {}
        if self._template is not None:
            try:
                return {self._target: render(found["template"], found["part"])}
            except ValueError as error:
                raise ValueError(f"{self._template}: {error}") from error
        if found is None:
            raise ValueError(f"there is nothing to write: {self._select_path or 'the source'} is null")
        if isinstance(found, dict) and self._is_folder:
            return self._files_inside(found)
        if self._target.endswith("/"):
            raise ValueError(f"what the source holds is one file, and --config-file={self._target} is a folder: "
                             "name a file in it")
        return {self._target: _text(found)}

    def _variables(self, found: Any) -> Variables:
        """With --config-env: the members of the selected object. Raises: ValueError."""
        if not self._settings.config_env:
            return None
        return variables_of(found if self._template is None else found["part"])

    def _files_inside(self, found: dict[str, Any]) -> Files:
        """The files of the source, and None for each that came from it before, to an earlier wrapper or a version."""
        folder = os.path.join(self._target or "", "")
        files: Files = {folder + _inside(name): _text(content) for name, content in found.items()}
        for inner in {os.path.dirname(path) for path in files}:
            find(f"{inner}/", make=True)
        newest = history.of(self._service).newest()
        came = self._placed.union(newest.placed if newest is not None else ())
        return {**{path: None for path in came if path.startswith(folder) and os.path.lexists(path)}, **files}


def _present(files: Files) -> list[str]:
    """The paths of those that are to be there."""
    return [path for path, content in files.items() if content is not None]


class WithTemplate:
    """A source that is looked at anew when the template for it has changed."""

    def __init__(self, origin: Source, template: Source) -> None:
        self.name = origin.name
        self._origin = origin
        self._template = template

    def fetch(self, within: float | None = None) -> Snapshot:
        template = self._template.fetch()
        if template.changed:
            self._origin.forget()
        found = self._origin.fetch(within)
        return found._replace(is_still=found.is_still and template.is_still)

    def forget(self) -> None:
        self._origin.forget()


def _inside(name: str) -> str:
    """A name from the source, where it stays inside the folder and is none of the journal's.

    Raises: ValueError, whose second argument, the name, is content and not for all.
    """
    parts = name.split("/")
    if "\0" in name or not {"", ".", ".."}.isdisjoint(parts) or journal.is_ours(parts[-1]):
        raise ValueError("the source holds what is no name of a file inside the folder", name)
    return name


def selection(path: str) -> Callable[[Any], Any]:
    """A function that takes the part at a path such as `a.b.0` out of a document; it raises CannotFetch for none.

    Raises: ValueError for what is no path.
    """
    names = tuple(values.dotted(path).split("."))

    def select(document: Any) -> Any:
        try:
            return part(document, names)
        except ValueError as error:
            raise CannotFetch(f"cannot select {path}: {error}") from error

    return select


def part(found: Any, path: tuple[str, ...]) -> Any:
    """The part of a document at a path of keys and list positions. A key may hold dots itself, as names of files do.

    Raises: ValueError that names what is missing.
    """
    if not path:
        return found
    for length in range(len(path), 0, -1):
        key = ".".join(path[:length])
        if isinstance(found, dict) and key in found:
            return part(found[key], path[length:])
        if isinstance(found, list) and key.isascii() and key.isdigit() and int(key) < len(found):
            return part(found[int(key)], path[length:])
    raise ValueError(f"there is no {path[0]!r}" + (f" on the way to {'.'.join(path)!r}" if len(path) > 1 else ""))


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
    subscription = declared.subscription()
    subscription.first(Deadline(settings.config_wait), declared.first)
    return subscription
