"""What a WSGI application learns of a request: the `environ` of PEP 3333, named after CGI (RFC 3875)."""

from __future__ import annotations

from wrapper.proxy.headers import TrustedProxies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from wrapper.message import Request
    from wrapper.settings import Settings

PORTS = {"http": "80", "https": "443"}


class Environment:
    """Makes the environment of each request for one application; `errors` is its `wsgi.errors`."""

    def __init__(self, root: str, settings: Settings, errors: Any) -> None:
        self._root = root
        self._is_secure = bool(settings.tls_cert)
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._errors = errors

    def of(self, request: Request) -> dict[str, Any]:
        scheme = "https" if self._is_secure and not request.trusted else "http"
        name, port = _parted(request.host)
        environment = {
            "REQUEST_METHOD": request.method, "SCRIPT_NAME": _bytes_as_text(self._root),
            "PATH_INFO": _bytes_as_text(request.path[len(self._root):]), "QUERY_STRING": request.query_string,
            "SERVER_NAME": name or "localhost", "SERVER_PORT": port or PORTS[scheme],
            "SERVER_PROTOCOL": f"HTTP/{request.version}", "REMOTE_ADDR": request.peer or "",
            "wsgi.version": (1, 0), "wsgi.url_scheme": scheme, "wsgi.input": request.stream(),
            # Not of the PEP, but what every server says whose input ends with the body, chunked or not.
            "wsgi.input_terminated": True,
            "wsgi.errors": self._errors, "wsgi.multithread": True, "wsgi.multiprocess": False,
            "wsgi.run_once": False}
        environment.update((_variable(field), value) for field, value in self._fields(request))
        if request.host:
            environment["HTTP_HOST"] = request.host
        return environment

    def _fields(self, request: Request) -> Iterator[tuple[str, str]]:
        is_believed = self._proxies.trust(request.peer)
        for field, value in request.headers.items():
            if "_" in field or field == "transfer-encoding":
                continue  # it would read as its twin with a hyphen; or it speaks of chunks that are taken apart already
            if is_believed or not (field == "forwarded" or field.startswith("x-forwarded-")):
                yield field, value


def _parted(host: str) -> tuple[str, str]:
    """Name and port; an IPv6 address keeps its brackets (RFC 3875 section 4.1.14)."""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and not port.endswith("]") else (host, "")


def _variable(field: str) -> str:
    """RFC 3875 section 4.1: two fields have no prefix."""
    name = field.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


def _bytes_as_text(path: str) -> str:
    """PEP 3333, "Unicode Issues": text whose every character is one byte of the path."""
    return path.encode("utf-8", "surrogateescape").decode("latin-1")
