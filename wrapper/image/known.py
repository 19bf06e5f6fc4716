"""Well-known images: which port they have, and what moves it so that the wrapper can take its place.

`{port}` is a free port of each run, so that two runs can be up at once; a port in a file is the same for every run.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Sequence
from typing import NamedTuple


class Known(NamedTuple):
    """`variables` or `words` (behind the image's entrypoint) move the port; `run` does it in a file, to `port`."""

    exposed: int
    variables: Sequence[str] = ()
    words: Sequence[str] = ()
    run: Sequence[str] = ()
    port: int | None = None
    ready: str = ""
    note: str = ""


# By the package's name: from an archive, CPython 3.9 sets no __package__ before a module has run.
_FACTS = json.loads(pkgutil.get_data(__name__.rpartition(".")[0], "known.json") or "")
# By the last part of an image's name, before its tag.
IMAGES = {name: Known(**facts) for name, facts in _FACTS.items()}


def find(image: str) -> Known | None:
    """By its name, without registry, tag and digest."""
    path, _, last = image.partition("@")[0].rpartition("/")
    name = last.partition(":")[0]
    if name.endswith("-notebook"):  # Jupyter's stacks
        name = "notebook"
    return IMAGES.get(name) or IMAGES.get(f"{path.rpartition('/')[2]}/{name}")
