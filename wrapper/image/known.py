"""Well-known images: which port they have, and what moves it so that the wrapper can take its place.

`{port}` is a free port of each run, so that two runs can be up at once; a port in a file is the same for every run.
"""

from __future__ import annotations

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


PROMETHEUS = ("--web.listen-address=127.0.0.1:{port}",)
# By the last part of an image's name, before its tag.
IMAGES = {
    "grafana": Known(3000, variables=("GF_SERVER_HTTP_ADDR=127.0.0.1", "GF_SERVER_HTTP_PORT={port}"),
                     ready="/api/health"),
    "prometheus": Known(9090, words=PROMETHEUS, ready="/-/ready", note=(
        "Rules and receivers from a site configuration: ENV WRAPPER_SIDECAR=wrapper.presets.prometheus")),
    "alertmanager": Known(9093, words=PROMETHEUS, ready="/-/ready"),
    "nginx": Known(80, port=8081, run=("sed", "-i", "-e", r"s/^\( *listen *\)80;/\1127.0.0.1:8081;/", "-e",
                                       r"/listen *\[::\]:80;/d", "/etc/nginx/conf.d/default.conf")),
    "httpd": Known(80, port=8081, run=(
        "sed", "-i", "s/^Listen 80$/Listen 127.0.0.1:8081/", "/usr/local/apache2/conf/httpd.conf")),
    "node-red": Known(1880, variables=("PORT={port}",)),
    "registry": Known(5000, variables=("REGISTRY_HTTP_ADDR=127.0.0.1:{port}",)),
    "jenkins": Known(8080, variables=("JENKINS_OPTS=--httpListenAddress=127.0.0.1 --httpPort={port}",),
                     note="JENKINS_OPTS of your own belong into the same --env."),
    "gitea": Known(3000, variables=("GITEA__server__HTTP_ADDR=127.0.0.1", "GITEA__server__HTTP_PORT={port}")),
    "minio": Known(9000, variables=("MINIO_ADDRESS=127.0.0.1:{port}",),
                   note="The console's port is --console-address, and not behind the wrapper."),
    "keycloak": Known(8080, variables=("KC_HTTP_HOST=127.0.0.1", "KC_HTTP_PORT={port}", "KC_HTTP_ENABLED=true"),
                      note="So that it believes X-Forwarded-*: ENV KC_PROXY_HEADERS=xforwarded"),
    "nexus3": Known(8081, port=8082, note=(
        "Its port is in a file of its volume: application-port=8082 in /nexus-data/etc/nexus.properties")),
    "sonarqube": Known(9000, variables=("SONAR_WEB_HOST=127.0.0.1", "SONAR_WEB_PORT={port}")),
    "n8n": Known(5678, variables=("N8N_LISTEN_ADDRESS=127.0.0.1", "N8N_PORT={port}"), ready="/healthz"),
    "vaultwarden/server": Known(80, variables=("ROCKET_ADDRESS=127.0.0.1", "ROCKET_PORT={port}"), ready="/alive"),
    "rabbitmq": Known(15672, port=15673, note="Only the management's page is behind the wrapper; 5672 is not HTTP.",
                      run=("sh", "-c", "echo 'management.tcp.port = 15673' >/etc/rabbitmq/conf.d/90-wrapper.conf")),
    "elasticsearch": Known(9200, variables=("ES_SETTING_HTTP_PORT={port}",), note=(
        "From 8.0 on it speaks TLS there: ENV xpack.security.http.ssl.enabled=false, and --tls-cert of the wrapper")),
    "kibana": Known(5601, variables=("SERVER_HOST=127.0.0.1", "SERVER_PORT={port}")),
    "influxdb": Known(8086, variables=("INFLUXD_HTTP_BIND_ADDRESS=127.0.0.1:{port}",
                                       "INFLUXDB_HTTP_BIND_ADDRESS=127.0.0.1:{port}"), ready="/ping"),
    "notebook": Known(8888, variables=("JUPYTER_PORT={port}",)),
}


def find(image: str) -> Known | None:
    """By its name, without registry, tag and digest."""
    path, _, last = image.partition("@")[0].rpartition("/")
    name = last.partition(":")[0]
    if name.endswith("-notebook"):  # Jupyter's stacks
        name = "notebook"
    return IMAGES.get(name) or IMAGES.get(f"{path.rpartition('/')[2]}/{name}")
