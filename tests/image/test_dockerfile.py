"""dockerfile.py: from `docker inspect` to a Dockerfile. Pure, but for the verb itself."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.running import ROOT, run
from wrapper.image import bundle, dockerfile
from wrapper.image.dockerfile import IMAGES, find
from wrapper.settings import settings

LOADER = bundle.command()
# What the issue asks for by name, as these images are called.
NAMES = ("grafana/grafana", "prom/prometheus:v3", "prom/alertmanager", "nginx:alpine", "docker.io/library/httpd",
         "nodered/node-red", "registry:2", "jenkins/jenkins:lts", "gitea/gitea", "quay.io/minio/minio@sha256:0",
         "quay.io/keycloak/keycloak", "sonatype/nexus3", "sonarqube", "localhost:5000/n8nio/n8n", "vaultwarden/server",
         "rabbitmq:3-management", "elasticsearch:8", "kibana", "influxdb:2", "quay.io/jupyter/base-notebook")


def made(name="my/service:1", **config):
    """The lines without comments."""
    return [line for line in "\n".join(dockerfile.lines(name, config)).splitlines() if not line.startswith("#")]


def array(lines, word):
    return json.loads(next(line for line in lines if line.startswith(word + " ")).partition(" ")[2])


def variables(lines):
    words = " ".join(line[4:] for line in lines if line.startswith("ENV ")).split()
    return dict(word.split("=", 1) for word in words)


def settings_of(lines, *arguments):
    """What the wrapper of the image reads, as `docker run IMAGE ARGUMENTS` would start it."""
    words = array(lines, "ENTRYPOINT")
    assert words[:len(LOADER)] == LOADER
    return settings.read([*words[len(LOADER):], *arguments], variables(lines))


def test_the_entrypoint_goes_behind_ours_and_the_rest_stays():
    lines = made(Entrypoint=["/run me.sh", 'a "b"', "--"], Cmd=["x y", "$HOME"], ExposedPorts={"3000/tcp": {}})
    assert settings_of(lines, "--its-own", "z").command == ("/run me.sh", 'a "b"', "--", "--its-own", "z")
    assert array(lines, "CMD") == ["x y", "$HOME"]
    assert not [line for line in lines[6:] if line.startswith(("USER", "WORKDIR", "VOLUME", "STOPSIGNAL"))]


@pytest.mark.parametrize("nothing", [None, []])
def test_without_an_entrypoint_the_words_of_docker_run_are_the_command(nothing):
    lines = made(Entrypoint=nothing, Cmd=nothing, ExposedPorts=None, Env=["PORT=80"])
    assert settings_of(lines, "serve", "-x").command == ("serve", "-x")
    assert not [line for line in lines if line.startswith("CMD")]


def test_a_healthcheck_is_added_only_where_there_is_none():
    ours = next(line for line in made() if line.startswith("HEALTHCHECK"))
    assert json.loads(ours.partition("CMD ")[2]) == [*LOADER, "health", "--ready"]
    assert "HEALTHCHECK" not in "\n".join(made(Healthcheck={"Test": ["CMD", "true"]}))
    assert "HEALTHCHECK" not in "\n".join(dockerfile.lines("a", {}, {"Test": ["CMD", "true"]}))


@pytest.mark.parametrize(("signal", "ours"), [("SIGQUIT", "SIGQUIT"), ("SIGTERM", None), (None, None), ("", None)])
def test_planned_restarts_stop_it_as_docker_does(signal, ours):
    assert variables(made(StopSignal=signal)).get("WRAPPER_STOP_SIGNAL") == ours


def test_an_image_with_a_port_variable_keeps_its_port_outside():
    chosen = settings_of(made(Env=["PATH=/bin", "PORT=3000"], Entrypoint=["/s"]))
    assert (str(chosen.listen), chosen.env, chosen.upstream) == (":3000", (("PORT", "{port}"),), None)


@pytest.mark.parametrize(("ports", "listen", "upstream"), [
    ({"3000/tcp": {}, "53/udp": {}}, ":8080", "127.0.0.1:3000"),
    ({"8080/tcp": {}, "8081/tcp": {}}, ":8082", "127.0.0.1:8080"),
    ({"8079-8081/tcp": {}, "53-54/udp": {}}, ":8082", "127.0.0.1:8079")])  # buildah keeps EXPOSE's ranges
def test_a_service_that_nothing_is_known_of_stays_where_it_is(ports, listen, upstream):
    lines = made(ExposedPorts=ports, Entrypoint=["/s"])
    chosen = settings_of(lines)
    assert (str(chosen.listen), str(chosen.upstream)) == (listen, upstream)
    assert f"EXPOSE {listen[1:]}" in lines


@pytest.mark.parametrize("name", NAMES)
def test_a_known_image_keeps_its_port_outside(name):
    image = find(name)
    chosen = settings_of(made(name, Entrypoint=["/entrypoint"], Cmd=["serve"]), "serve")
    assert chosen.listen.port == image.exposed
    assert chosen.upstream is None or chosen.upstream.port == image.port != image.exposed
    assert chosen.command[0] == "/entrypoint"
    assert chosen.command[-1] == "serve"
    comments = [line for line in dockerfile.lines(name, {}) if line.startswith("#")]
    assert any(f"takes port {image.exposed}" in line for line in comments), "what moves the port is said"


def test_all_known_images_are_asked_for():
    assert {id(find(name)) for name in NAMES} == {id(image) for image in IMAGES.values()}
    assert find("example.org/nginxlike") is None


@pytest.mark.parametrize(("shown", "name"), [
    ({"RepoTags": ["a:1", "a:2"], "RepoDigests": ["a@sha256:0"], "Id": "sha256:9"}, "a:1"),
    ({"RepoTags": [], "RepoDigests": ["a@sha256:0"], "Id": "sha256:9"}, "a@sha256:0"),
    ({"RepoTags": None, "Id": "sha256:9"}, "sha256:9")])
def test_the_image_goes_by_its_name(shown, name, tmp_path):
    text = json.dumps([{**shown, "Config": {"Cmd": ["x"]}}])
    (tmp_path / "inspect.json").write_text(text)
    done = run("dockerfile", str(tmp_path / "inspect.json"))
    assert f"\nFROM {name}\n" in done.stdout
    assert run("dockerfile", input=text).stdout == run("dockerfile", "-", input=text).stdout == done.stdout


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '{"Id": "x"}', '{"Id": "x", "Config": [1]}', "null"])
def test_what_is_no_inspect_is_one_line_and_1(text):
    done = run("dockerfile", input=text)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "wrapper: dockerfile: expected what docker inspect IMAGE prints\n"


@pytest.mark.parametrize(("shown", "cause"), [
    ({"Id": "x", "State": {}, "Config": {"Image": "nginx"}},
     "this is a container, not an image; say docker inspect --type image NAME"),
    ({"Id": "x", "RepoTags": ["a-wrapped:1"], "Config": {"Entrypoint": [*LOADER, "--", "/a"]}},
     "a-wrapped:1 is wrapped already; inspect the image that it was made from")])
def test_what_is_no_image_to_wrap_is_named(shown, cause):
    """Where a container is called as its image is, `docker inspect` shows the container."""
    done = run("dockerfile", input=json.dumps([shown]))
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"wrapper: dockerfile: {cause}\n")


def test_the_dockerfile_of_the_repository_is_made_alike():
    text = (ROOT / "Dockerfile").read_text()
    assert dockerfile.STAGES.format(image="${IMAGE}") in text
    assert f"ENTRYPOINT {json.dumps(LOADER)}\n" in text
    assert f"HEALTHCHECK {dockerfile.PACE} CMD {json.dumps([*LOADER, 'health', '--ready'])}\n" in text
    assert re.search(r"^ARG IMAGE=", text, re.MULTILINE)


@pytest.mark.parametrize(("name", "before", "after"), [
    ("nginx", "server {\n    listen       80;\n    listen  [::]:80;\n    server_name  localhost;\n",
     "server {\n    listen       127.0.0.1:8081;\n    server_name  localhost;\n"),
    ("httpd", "# Listen 80 is\nListen 80\n", "# Listen 80 is\nListen 127.0.0.1:8081\n")])
def test_a_port_in_a_file_is_moved_there(name, before, after, tmp_path):
    """The files as these images have them."""
    file = tmp_path / "file"
    file.write_text(before)
    subprocess.run([*find(name).run[:-1], str(file)], check=True)
    assert file.read_text() == after
    assert find(name).port == 8081


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
