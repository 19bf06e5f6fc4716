"""The site configuration that both presets follow: where it is, and how each part of it is watched.

| variable | default | meaning |
|---|---|---|
| SITE_CONFIGURATION | required | URL or path of the document; `off`: nothing is watched, and all else goes on |
| SITE_TOKEN_FILE | none | a file with the bearer token for it |
| SITE_INTERVAL | 5s | between two looks |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from wrapper import Problem, Sidecar

OFF = "off"

Watch = Callable[..., Callable[[Any], Any]]


def watcher(sidecar: Sidecar, environment: Mapping[str, str]) -> Watch:
    """`@watch(name, select)`, which is `sidecar.watch` for the document that the variables name.

    A variable that is missing is a problem, and then nothing is watched either.
    """
    source = environment.get("SITE_CONFIGURATION", "")
    options: dict[str, Any] = {"every": environment.get("SITE_INTERVAL") or "5s",
                               "token_file": environment.get("SITE_TOKEN_FILE") or None}
    if not source:
        sidecar.problem("SITE_CONFIGURATION is missing: the URL or path of the site configuration, or `off`")

    def watch(name: str, select: Callable[[Any], Any], **more: Any) -> Callable[[Any], Any]:
        if source in ("", OFF):
            return lambda function: function
        return sidecar.watch(source, name=name, select=select, **options, **more)

    return watch


def api_problem(message: str, status: int) -> Problem:
    """A problem with an API, tried again where `status` says that it is in trouble (5xx), and not that it refuses."""
    trouble: dict[str, Any] = {"retry": True} if status >= 500 else {}
    return Problem(message, **trouble)
