"""Who runs in the bench: the services, and the proxies in front of them, each started and ended here."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HIGHEST = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (HIGHEST, HIGHEST))  # inherited; Go does so for itself
START_TIMEOUT = 15.0  # seconds until whatever was started must answer
DOWNLOAD_SIZE = 1 << 30

NGINX = """
user root; daemon off; pid {folder}/pid; error_log {folder}/error.log crit; worker_rlimit_nofile 20000;
worker_processes {workers};
events {{ worker_connections 9000; }}
http {{
    access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000; client_max_body_size 0;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    {http}
}}
"""
NGINX_SERVICE = """
    server {{
        listen {listen} backlog=4096;
        location / {{ default_type text/plain; return 200 "0123456789abcdef0123456789abcdef"; }}
        location /download {{ alias {folder}/download; }}
    }}
"""
NGINX_PROXY = """
    upstream service {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {listen} backlog=4096;
        location / {{
            proxy_pass http://service; proxy_http_version 1.1; proxy_request_buffering off;
            proxy_set_header Connection ""; proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $host; proxy_max_temp_file_size 0;
        }}
        location /events {{ proxy_pass http://service; proxy_http_version 1.1; proxy_buffering off; }}
    }}
"""


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wrapper-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def environment() -> dict[str, str]:
    """Without settings of ours, and with compiled bytecode, as images have it."""
    clean = {key: value for key, value in os.environ.items()
             if key not in ("PORT", "PYTHONDONTWRITEBYTECODE") and not key.startswith("WRAPPER_")}
    return {**clean, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(cache() / "bytecode")}


def peer() -> str:
    """The path of the built `peer.go` and its neighbours; built once for each text of them and each Go."""
    sources = sorted(HERE.glob("*.go"))
    version = subprocess.run(["go", "version"], check=True, stdout=subprocess.PIPE).stdout
    name = hashlib.sha256(b"".join(source.read_bytes() for source in sources) + version).hexdigest()[:16]
    built = cache() / f"peer-{name}"
    if not built.exists():
        subprocess.run(["go", "build", "-o", str(built), *map(str, sources)], check=True, timeout=300)
    return str(built)


def certificate() -> tuple[str, str]:
    """Where a certificate and its key lie; made once."""
    chain, key = cache() / "certificate.pem", cache() / "key.pem"
    if not chain.exists():
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "3650", "-subj", "/CN=bench", "-keyout", str(key), "-out", str(chain)],
                       check=True, stderr=subprocess.DEVNULL, timeout=60)
    return str(chain), str(key)


def nginx(folder: str, workers: int, http_part: str, **names: str) -> list[str]:
    path = Path(folder) / "nginx.conf"
    path.write_text(NGINX.format(folder=folder, workers=workers, http=http_part.format(folder=folder, **names)))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    return [program, "-c", str(path), "-e", f"{folder}/error.log"]


def nginx_service(folder: str, listen: str) -> list[str]:
    with open(f"{folder}/download", "wb") as file:
        file.truncate(DOWNLOAD_SIZE)
    return nginx(folder, 1, NGINX_SERVICE, listen=listen)


def go_service(folder: str, listen: str) -> list[str]:
    return [peer(), "service", listen]


SERVICES: dict[str, Callable[[str, str], list[str]]] = {"nginx": nginx_service, "go": go_service}


def python(root: Path = ROOT) -> list[str]:
    """The interpreter with the wrapper of one checkout; `run` sees to it that no other lies in its working folder."""
    return ["env", f"PYTHONPATH={root}", sys.executable]


def wrapper(folder: str, listen: str, upstream: str, *options: str, root: Path = ROOT) -> list[str]:
    return [*python(root), "-m", "wrapper", "--listen", listen, "--upstream", upstream,
            "--control", f"{folder}/control.sock", *options, "--", "sleep", "600"]


def wrapper_with_tls(folder: str, listen: str, upstream: str, root: Path = ROOT) -> list[str]:
    chain, key = certificate()
    return wrapper(folder, listen, upstream, "--tls-cert", chain, "--tls-key", key, root=root)


def bare(folder: str, listen: str, upstream: str) -> list[str]:
    return [sys.executable, str(HERE / "bare.py"), listen, upstream]


def go(folder: str, listen: str, upstream: str) -> list[str]:
    return [peer(), "proxy", listen, upstream]


def go_with_tls(folder: str, listen: str, upstream: str) -> list[str]:
    return [*go(folder, listen, upstream), *certificate()]


def nginx_proxy(folder: str, listen: str, upstream: str) -> list[str]:
    return nginx(folder, os.cpu_count() or 1, NGINX_PROXY, listen=listen, upstream=upstream)


def caddy(folder: str, listen: str, upstream: str) -> list[str]:
    path = Path(folder) / "Caddyfile"
    path.write_text("{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n}\n"
                    f"http://:{listen.rpartition(':')[2]} {{\n\tbind 127.0.0.1\n\treverse_proxy {upstream}\n}}\n")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(path)]


def asyncio_road(folder: str, listen: str, upstream: str) -> list[str]:
    return [sys.executable, str(HERE / "asyncio_road.py"), listen, upstream]


Proxies = dict[str, Callable[[str, str, str], list[str]]]
PROXIES: Proxies = {"wrapper": wrapper, "bare": bare, "asyncio": asyncio_road, "Go": go, "nginx": nginx_proxy,
                    "Caddy": caddy}
TLS_PROXIES: Proxies = {"wrapper": wrapper_with_tls, "Go": go_with_tls}


ROOTS = {"wrapper": ROOT}  # the checkouts whose wrappers take part


def enter_before(root: Path) -> None:
    """Another checkout's wrapper takes part, under the name of "before"."""
    ROOTS["before"] = root
    PROXIES["before"] = functools.partial(wrapper, root=root)
    TLS_PROXIES["before"] = functools.partial(wrapper_with_tls, root=root)


class Running:
    """A started program: where it answers, and what it costs."""

    def __init__(self, address: str, process: subprocess.Popen[bytes], scheme: str, service: str) -> None:
        self.address = address
        self.url = f"{scheme}://{address}"
        self.service = service  # the URL of the service behind it
        self.pid = process.pid
        self._process = process

    def cost(self) -> dict[str, float]:
        """Resident memory in MiB and threads, of the program and what it forked but not of the wrapped `sleep`."""
        pages = threads = 0
        for pid in family(self.pid):
            facts = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if facts["Name"].strip() == "sleep":
                continue
            pages += int(facts["VmRSS"].split()[0])
            threads += int(facts["Threads"])
        return {"MiB resident": pages / 1024, "threads": float(threads)}

    def has_ended(self) -> bool:
        return self._process.poll() is not None


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(part) for part in (task / "children").read_text().split()]
    return found


@contextlib.contextmanager
def run(name: str, make: Callable[[str, str], list[str]], scheme: str = "http",
        upstream: str = "") -> Iterator[Running]:
    """Start what `make(folder, listen)` says, wait until it answers, and end it and its folder at the end."""
    address = free_address()
    with tempfile.TemporaryDirectory(prefix="wrapper-bench-") as folder:
        os.chmod(folder, 0o755)
        own = {"XDG_DATA_HOME": folder, "XDG_CONFIG_HOME": folder}
        with open(f"{folder}/output", "wb") as output:
            process = subprocess.Popen(make(folder, address), env={**environment(), **own}, start_new_session=True,
                                       cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            running = Running(address, process, scheme, f"http://{upstream}")
            if not answers(running):
                said = Path(folder, "output").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} did not answer on {address}:\n{said}")
            yield running
        finally:
            end(process)


def connect(running: Running) -> http.client.HTTPConnection:
    if running.url.startswith("https:"):
        trusting = ssl._create_unverified_context()
        return http.client.HTTPSConnection(running.address, timeout=START_TIMEOUT, context=trusting)
    return http.client.HTTPConnection(running.address, timeout=START_TIMEOUT)


def answers(running: Running) -> bool:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and not running.has_ended():
        connection = connect(running)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                return True
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)  # the pace of the poll
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    members = family(process.pid) if process.poll() is None else []
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in members[1:]:  # what an unclean end left behind
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
