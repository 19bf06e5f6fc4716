"""known.py: well-known images, found by their name."""

from __future__ import annotations

import pytest

from wrapper.image.known import IMAGES, find


@pytest.mark.parametrize(("image", "name"), [
    ("nginx", "nginx"), ("nginx:1.27-alpine", "nginx"), ("docker.io/library/nginx@sha256:00", "nginx"),
    ("registry:5000/grafana:11", "grafana"), ("quay.io/prometheus/prometheus:v3", "prometheus"),
    ("vaultwarden/server:1", "vaultwarden/server"), ("jupyter/scipy-notebook", "notebook"),
])
def test_an_image_is_known_by_its_name_without_registry_tag_and_digest(image, name):
    assert find(image) is IMAGES[name]


@pytest.mark.parametrize("image", ["server", "my/own:nginx", ""])
def test_another_one_is_not(image):
    assert find(image) is None


def test_each_is_moved_in_one_way():
    """By its environment or its words to `{port}`, or in a file to a port that is the same in every run."""
    for name, known in IMAGES.items():
        moved = "{port}" in " ".join([*known.variables, *known.words])
        assert moved != (known.port is not None), name
