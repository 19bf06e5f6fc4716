"""Which pages may ask own paths: a browser carries requests of other sites, and names that lead to us by accident.

Fetch Metadata (https://www.w3.org/TR/fetch-metadata/) says where a request comes from, Host under which name it came
(DNS rebinding), Cross-Origin-Resource-Policy (Fetch standard, section 3.7) who may have the response.
"""

from __future__ import annotations

import ipaddress

from wrapper.errors import Forbidden

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from wrapper.http1.message import Request
    from wrapper.sidecar.router import Route

NO_SNIFFING = ("X-Content-Type-Options", "nosniff")
SAME_ORIGIN = ("Cross-Origin-Resource-Policy", "same-origin")


class Origins:
    """Judges requests to own paths. `allowed`: the names under which they are answered; empty: any."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = frozenset(allowed) | {"localhost", ""} if allowed else None

    def judge(self, request: Request, is_shared: bool) -> None:
        """Raises: Forbidden."""
        if not is_shared and _is_foreign(request):
            raise Forbidden("pages of other sites may not ask this path")
        if self._allowed is not None and not self._is_known(request.host):
            raise Forbidden("this path is not answered under this host; --allowed-hosts names those it is")

    def _is_known(self, host: str) -> bool:
        """Judge a Host value, of which the port, brackets and the dot of the root say nothing."""
        assert self._allowed is not None
        inner, bracket, _ = host.partition("]")
        name = inner[1:] if bracket else host.partition(":")[0].rstrip(".").lower()
        try:
            return name in self._allowed or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _is_foreign(request: Request) -> bool:
    """True for what a page of another site fetches; a link there that is followed shows its response to people only."""
    if request.headers.get("sec-fetch-site") != "cross-site":
        return False
    is_followed = request.headers.get("sec-fetch-mode") == "navigate" and request.method in ("GET", "HEAD")
    return not (is_followed and request.headers.get("sec-fetch-dest") == "document")


def protected(headers: Iterable[tuple[str, str]], route: Route | None) -> list[tuple[str, str]]:
    """The fields of a response of ours, and those that keep it from other sites where it has none of that name."""
    fields = list(headers)
    names = {name.lower() for name, _ in fields}
    ours = (NO_SNIFFING,) if route is not None and route.is_shared else (NO_SNIFFING, SAME_ORIGIN)
    return fields + [field for field in ours if field[0].lower() not in names]
