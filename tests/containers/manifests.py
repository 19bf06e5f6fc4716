"""The README's files for orchestrators, as they stand there."""

from __future__ import annotations

import re

from tests.containers.engine import ROOT


def block(with_this):
    """The text of the README's one block of YAML that has this in it."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    found = [each for each in blocks if with_this in each]
    assert len(found) == 1, f"{len(found)} blocks with {with_this!r}"
    return found[0]


def documents(text):
    """What YAML holds; PyYAML comes with what .ci/run installs for the tests of this folder alone."""
    import yaml

    return list(yaml.safe_load_all(text))


KUBERNETES = block("kind: Deployment")
OPERATOR = block("kind: ServiceMonitor")
COMPOSE = block("condition: service_healthy")
SWARM = block("update_config")
