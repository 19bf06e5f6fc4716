"""A road whose script echoes, and a certificate for it."""

import subprocess

import pytest

from tests.proxy.road import Road, echoing


@pytest.fixture
def road():
    roads = []

    def build(script=echoing, **settings):
        roads.append(Road(script, **settings))
        return roads[-1]

    yield build
    for made in roads:
        made.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    return folder


def make_certificate(folder):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "key", "-out",
                    folder / "cert", "-days", "1", "-subj", "/CN=localhost"], check=True, capture_output=True)
