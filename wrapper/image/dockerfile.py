"""`python3 -m wrapper dockerfile`: from what `docker inspect IMAGE` prints to a Dockerfile that wraps that image.

The image's interface stays: its entrypoint goes behind ours; its CMD, user, folder, volumes and signals stay its own.
What is known of images that many use stands in `known.json`.
"""

from __future__ import annotations

import json
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from wrapper.errors import CannotMake
from wrapper.image import bundle

WRAPPER_PORT = 8080  # where the service cannot be moved, and does not have it
PACE = "--interval=10s --timeout=5s --start-period=60s"  # Compose waits for the first of them
STAGES = f"""\
ARG PYTHON=python:3-slim
FROM ${{{{PYTHON}}}} AS wrapper
COPY wrapper /src/wrapper
WORKDIR /src
# Modules for sidecars beyond the usual ones: --build-arg MODULES="ssl sqlite3". TLS is 9 MB, and needs ssl.
ARG MODULES
RUN python3 -m wrapper bundle {bundle.FOLDER} $MODULES

FROM {{image}}
COPY --from=wrapper {bundle.FOLDER} {bundle.FOLDER}"""


class Known(NamedTuple):
    """A well-known image: which port it has, and what moves it so that the wrapper can take its place.

    `variables` or `words` (behind its entrypoint) move it to `{port}`, a free port of each run, so that two runs can
    be up at once; `run` does it in a file, to `port`, which is the same for every run.
    """

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
    """What is known of an image, by its name without registry, tag and digest."""
    path, _, last = image.partition("@")[0].rpartition("/")
    name = last.partition(":")[0]
    if name.endswith("-notebook"):  # Jupyter's stacks
        name = "notebook"
    return IMAGES.get(name) or IMAGES.get(f"{path.rpartition('/')[2]}/{name}")


def of(words: Sequence[str]) -> str:
    """The Dockerfile for what a file holds, or stdin. Raises: CannotMake, OSError."""
    try:
        if words and words[0] != "-":
            with open(words[0], encoding="utf-8") as file:
                found = json.load(file)
        else:
            found = json.load(sys.stdin)
        image = found[0] if isinstance(found, list) else found
        name, config = _name(image), image["Config"] or {}
        if "State" in image:  # where both have the name, docker inspect shows the container
            raise CannotMake("this is a container, not an image; say docker inspect --type image NAME")
        if bundle.command()[0] in (config.get("Entrypoint") or ()):
            raise CannotMake(f"{name} is wrapped already; inspect the image that it was made from")
        return "\n".join(lines(name, config, image.get("Healthcheck")))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise CannotMake("expected what docker inspect IMAGE prints") from None


def _name(image: Any) -> str:
    names = [*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())]
    return str(names[0] if names else image["Id"])


def lines(name: str, config: Any, podmans_healthcheck: Any = None) -> Iterator[str]:
    """The lines for an image, from its `Config`."""
    yield f"# {name} with the wrapper as its entrypoint. The build's context is a checkout of the wrapper."
    yield STAGES.format(image=name)
    image = find(name) or _by_its_port(config)
    yield from _moves(image) if image is not None else _keeps(_ports(config))
    signal = str(config.get("StopSignal") or "SIGTERM")
    if signal not in ("SIGTERM", "15"):
        yield f"ENV WRAPPER_STOP_SIGNAL={signal}"
    if not (config.get("Healthcheck") or podmans_healthcheck):
        yield f"HEALTHCHECK {PACE} CMD {_array([*bundle.command(), 'health', '--ready'])}"
    moved = image or Known(0)
    options = [word for variable in moved.variables for word in ("--env", variable)]
    entrypoint = [*(config.get("Entrypoint") or ()), *moved.words]
    yield f"ENTRYPOINT {_array([*bundle.command(), *options, '--', *entrypoint])}"
    if config.get("Cmd"):  # an ENTRYPOINT takes away the CMD that came with the image (Dockerfile reference)
        yield f"CMD {_array(config['Cmd'])}"


def _array(words: Sequence[str]) -> str:
    return json.dumps(list(words), ensure_ascii=False)


def _by_its_port(config: Any) -> Known | None:
    """An image that has PORT among its own variables reads it."""
    variables = dict(variable.partition("=")[::2] for variable in config.get("Env") or ())
    port = str(variables.get("PORT", ""))
    return Known(int(port), variables=("PORT={port}",)) if port.isdigit() else None


def _ports(config: Any) -> list[int]:
    """The TCP ports of EXPOSE. Docker spells ranges out, buildah keeps them: `8000-8002/tcp`."""
    names = [name.partition("/") for name in config.get("ExposedPorts") or ()]
    ranges = [numbers.partition("-") for numbers, _, protocol in names if protocol in ("tcp", "")]
    return sorted(port for first, _, last in ranges for port in range(int(first), int(last or first) + 1))


def _moves(image: Known) -> Iterator[str]:
    """The wrapper has the image's port, and the service another."""
    how = " ".join(image.variables or image.words or image.run)
    yield f"# The wrapper takes port {image.exposed}, the service {image.port or 'a free one'}: {how or 'see below'}"
    if image.note:
        yield f"# {image.note}"
    yield f"ENV WRAPPER_LISTEN=:{image.exposed}"
    if image.port:
        yield f"ENV WRAPPER_UPSTREAM=127.0.0.1:{image.port}"
    if image.ready:
        yield f"ENV WRAPPER_READY_PATH={image.ready}"
    if image.run:
        yield f"RUN {_array(image.run)}"


def _keeps(ports: Sequence[int]) -> Iterator[str]:
    """The service keeps its port, because it is not known how it moves."""
    ours = next(port for port in range(WRAPPER_PORT, 65536) if port not in ports)
    if not ports:
        yield "# The image exposes no port: say where its service listens."
        yield f"# ENV WRAPPER_LISTEN=:{ours} WRAPPER_UPSTREAM=127.0.0.1:3000"
        return
    yield f"# The service keeps port {ports[0]}, and the wrapper is at {ours}. If a flag or a variable moves it,"
    yield f"# the wrapper can have {ports[0]}: write WRAPPER_LISTEN=:{ports[0]} without WRAPPER_UPSTREAM, and below"
    yield '# "--env", "ITS_VARIABLE={port}" before the "--", or "--its-flag={port}" behind its entrypoint.'
    yield f"ENV WRAPPER_LISTEN=:{ours} WRAPPER_UPSTREAM=127.0.0.1:{ports[0]}"
    yield f"EXPOSE {ours}"
