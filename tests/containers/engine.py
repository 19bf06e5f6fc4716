"""Real containers with podman and runc, from images made of Debian's packages: no registry is asked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {"podman": "podman", "runc": "runc", "mmdebstrap": "mmdebstrap", "gcc": "gcc libc6-dev",
          "musl-gcc": "musl-tools", "busybox": "busybox-static",
          "ip": "iproute2"}  # program: what to install for it
PACKAGES = "python3-minimal,libpython3-stdlib"
SUITE = "trixie"
SHELLS = {"sh", "bash", "dash", "rbash"}
STAGE = "docker.io/library/python:3-slim"  # what the Dockerfile takes its Python from
PREFIX = "localhost/wrapper-test"
WRAPPER = ("/opt/wrapper/lib/ld.so", "--library-path", "/opt/wrapper/lib", "/opt/wrapper/bin/python3", "-IS",
           "-m", "wrapper")
# The limits that a host may set lower than podman's defaults, and the run time that needs no systemd.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def wait_until(happens, timeout=20.0):
    """What `happens()` says as soon as it is true; an OSError is a not yet."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError):
            if answer := happens():
                return answer
        assert time.monotonic() < deadline, f"not within {timeout} s: {happens}"
        time.sleep(0.05)  # the pace of the poll


def wait_network():
    """Until the addresses of new network devices are settled: a change of them fails what Chromium is loading.

    Duplicate address detection (RFC 4862, section 5.4) takes a second or two after a container has its device.
    """
    tentative = ("ip", "-6", "-oneline", "address", "show", "tentative")
    wait_until(lambda: not subprocess.run(tentative, check=True, capture_output=True).stdout)


class Podman:
    """The command line, with settings and a tag of our own."""

    def __init__(self, folder):
        conf = folder / "containers.conf"
        conf.write_text(CONTAINERS_CONF)
        self.environment = {**os.environ, "CONTAINERS_CONF": str(conf)}
        self.started = []

    def __call__(self, *words, timeout=120, check=True, input=""):
        done = subprocess.run(["podman", *words], env=self.environment, input=input,
                              capture_output=True, text=True, timeout=timeout, check=False)
        assert not check or done.returncode == 0, f"podman {' '.join(words)}: {done.returncode}\n{done.stderr}"
        return done

    def run(self, *words, port=8080):
        """A container in the background."""
        # Without systemd nobody triggers health checks; the tests do it themselves.
        container = self("run", "--detach", "--health-interval=disable", *words).stdout.strip()
        self.started.append(container)
        return Container(self, container, port)

    def once(self, *words):
        """A container that is expected to end by itself, and all that it said."""
        return self("run", "--rm", "--no-healthcheck", *words, check=False)


class Container:
    """`port`: the one inside that is published."""

    def __init__(self, podman, name, port=8080):
        self.podman = podman
        self.name = name
        self.port = port

    @property
    def address(self):
        return self.podman("port", self.name, str(self.port)).stdout.split()[0]

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=5) as answer:
            return answer.read().decode()

    def status(self):
        return json.loads(self.get("/sidecar/api/status"))

    def wait_running(self):
        return wait_until(lambda: (status := self.status())["state"] == "running" and status)

    def execute(self, *words):
        return self.podman("exec", self.name, *words, check=False)

    def wrapper(self, *words):
        """A verb, as it is called where there is no shell."""
        return self.execute(*WRAPPER, *words)

    def logs(self):
        done = self.podman("logs", self.name)
        return done.stdout + done.stderr

    def exit_status(self):
        return int(self.podman("wait", self.name, timeout=30).stdout)


def cache():
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wrapper-ci"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def base_tar():
    """Debian with Python and nothing else, made once."""
    name = hashlib.sha256(f"{SUITE} {PACKAGES}".encode()).hexdigest()[:12]
    path = cache() / f"base-{name}.tar"
    if not path.exists():
        made = path.with_suffix(".part.tar")
        subprocess.run(["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(made)],
                       check=True, timeout=600)
        made.rename(path)
    return path


def without_shell(source):
    """The same files without any shell, as distroless images have it."""
    path = source.with_name(source.name.replace("base-", "bare-"))
    if not path.exists():
        made = path.with_suffix(".part.tar")
        with tarfile.open(source) as old, tarfile.open(made, "w") as new:
            for member in old:
                if Path(member.name).name not in SHELLS or Path(member.name).parent.name != "bin":
                    new.addfile(member, old.extractfile(member) if member.isreg() else None)
        made.rename(path)
    return path


def build(podman, text, name, context=ROOT, *options):
    """An image from the text of a Dockerfile."""
    image = f"{PREFIX}/{name}"
    podman("build", "--isolation=chroot", "--network=host", "--format=docker", "--pull=never", "--tag", image,
           "--file", "-", *options, str(context), timeout=600, input=text)
    return image


def wrap(podman, base, name):
    """The repository's own Dockerfile around an image."""
    image = f"{PREFIX}/{name}"
    podman("build", "--isolation=chroot", "--network=host", "--format=docker", "--pull=never",
           "--build-arg", f"IMAGE={base}", "--tag", image, str(ROOT), timeout=600)
    return image


def wrap_as_it_is(podman, base, name, *options):
    """What the README's recipe does: inspect, generate, build."""
    shown = podman("inspect", base).stdout
    done = subprocess.run([sys.executable, "-m", "wrapper", "dockerfile"], cwd=ROOT, input=shown, capture_output=True,
                          text=True, check=True)
    return build(podman, done.stdout, name, ROOT, *options)
