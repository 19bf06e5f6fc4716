"""Debian's programs in images laid out as the well-known ones are: none has a Python, Prometheus no shell either."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

from wrapper.image import bundle

TEMPLATES = "usr/share/prometheus/alertmanager"  # Debian's Alertmanager reads its own from there
CONFIGURATION = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ["/etc/prometheus/rules/*.yml"]
scrape_configs:
  - job_name: itself
    static_configs: [{targets: ["127.0.0.1:9090"]}]
alerting:
  alertmanagers:
    - path_prefix: /alertmanager
      static_configs: [{targets: ["127.0.0.1:9090"]}]
"""
# As prom/prometheus has it, but for the libc, which its static programs do without.
PROMETHEUS = """FROM scratch
COPY lib /lib
COPY lib /lib64
COPY --chown=65534:65534 root /
COPY bin /bin
USER 65534
EXPOSE 9090
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
"""
SHELL = 'FROM scratch\nCOPY lib /lib\nCOPY lib /lib64\nCOPY bin /bin\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
NGINX = f"""{SHELL}COPY root /
COPY --chmod=755 entrypoint.sh /docker-entrypoint.sh
ENTRYPOINT ["/docker-entrypoint.sh"]
EXPOSE 80
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "daemon off;"]
"""
NGINX_CONFIGURATION = """user nginx;
error_log /dev/stderr notice;
pid /tmp/nginx.pid;
events { worker_connections 1024; }
http { access_log off; include /etc/nginx/conf.d/*.conf; }
"""
NGINX_DEFAULT = """server {
    listen       80;
    listen  [::]:80;
    server_name  localhost;

    location / {
        root   /usr/share/nginx/html;
        index  index.html;
    }
}
"""
# Its 117 MB of modules are mounted.
NODE_RED = f"""{SHELL}COPY --chmod=755 entrypoint.sh /usr/src/node-red/entrypoint.sh
COPY --chown=1000:1000 data /data
COPY passwd /etc/passwd
USER node-red
WORKDIR /usr/src/node-red
ENV FLOWS=flows.json HOME=/data
EXPOSE 1880
VOLUME /data
ENTRYPOINT ["./entrypoint.sh"]
"""
NODE_RED_VERSION = "4"


def prometheus(folder):
    """The context of PROMETHEUS."""
    copy(folder, prometheus="prometheus", promtool="promtool", alertmanager="prometheus-alertmanager", amtool="amtool")
    for name in ("prometheus", "etc/prometheus/rules", "etc/alertmanager"):
        (folder / "root" / name).mkdir(parents=True)
        (folder / "root" / name / ".kept").touch()
    shutil.copytree(f"/{TEMPLATES}", folder / "root" / TEMPLATES)
    (folder / "root/etc/prometheus/prometheus.yml").write_text(CONFIGURATION)


def nginx(folder):
    copy(folder, nginx="nginx", busybox="busybox")
    write(folder, {"entrypoint.sh": '#!/bin/sh\nexec "$@"\n', "root/etc/nginx/nginx.conf": NGINX_CONFIGURATION,
                   "root/etc/nginx/conf.d/default.conf": NGINX_DEFAULT, "root/var/lib/nginx/.kept": "",
                   "root/usr/share/nginx/html/index.html": "<h1>Welcome to nginx!</h1>\n" * 1000, "root/tmp/.kept": "",
                   "root/etc/passwd": "root:x:0:0::/:/bin/sh\nnginx:x:101:101::/:/bin/false\n",
                   "root/etc/group": "root:x:0:\nnginx:x:101:\n"})


def node_modules():
    """Installed once by npm into the folder that tests/browser uses too."""
    place = pathlib.Path(os.environ.get("NODE_RED_FOLDER") or pathlib.Path.home() / ".cache" / "wrapper-node-red")
    if not (place / "node_modules/node-red/red.js").exists():
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", f"node-red@{NODE_RED_VERSION}"], cwd=place,
                       check=True, timeout=600)
    return place / "node_modules"


def node_red(folder):
    copy(folder, node="node", busybox="busybox")
    write(folder, {"entrypoint.sh": '#!/bin/sh\nexec node node_modules/node-red/red.js --userDir /data $FLOWS "$@"\n',
                   "passwd": "root:x:0:0::/:/bin/sh\nnode-red:x:1000:1000::/data:/bin/sh\n",
                   "data/settings.js": "module.exports = {uiPort: process.env.PORT || 1880, "
                                       "telemetry: {enabled: false}, editorTheme: {tours: false}}\n"})


def copy(folder, **programs):
    """Programs of this machine into `bin`, the libraries that they need into `lib`."""
    missing = [program for program in programs.values() if shutil.which(program) is None]
    assert not missing, f"cannot build the image without {', '.join(missing)}: .ci/run packages"
    for part in ("bin", "lib"):
        (folder / part).mkdir()
    for name, program in programs.items():
        shutil.copy(shutil.which(program), folder / "bin" / name)
    loader = bundle.program_loader()
    libraries = bundle.needed_libraries(loader, [str(folder / "bin" / name) for name in programs])
    for name, path in {os.path.basename(loader): loader, **libraries}.items():
        shutil.copy(path, folder / "lib" / name)


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
