"""What operators look at: the page, the numbers that feed its plots, and the scrape.

The page is one file. It may run nothing but its own script and fetch from nowhere but here: its Content-Security-Policy
(https://www.w3.org/TR/CSP3/) names script and style by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import pkgutil
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wrapper.http1.message import Response
from wrapper.service import procfs
from wrapper.service.state import stop_timeout
from wrapper.settings import values
from wrapper.sidecar import collectors, registry
from wrapper.sidecar.access import Access
from wrapper.sidecar.api import query_value
from wrapper.sidecar.reply import NO_STORE
from wrapper.sidecar.router import Route
from wrapper.sidecar.traffic import FINE_TIMES, Sampler, Traffic
from wrapper.text import dumps

if TYPE_CHECKING:
    from typing import Any

    from wrapper.front.server import Server
    from wrapper.http1.message import Request
    from wrapper.sidecar.registry import Family
    from wrapper.sidecar.site import Site

PAGE = "dashboard.html"
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
PAGE_HEADERS = (
    ("Cache-Control", "no-cache"), ("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)


class Dashboard:
    """Counts the traffic, and shows it with all else that is known of a site.

    What observes exchanges is `traffic.observe`, what collects metrics is `families`.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        path, board = site.around.settings.metrics_token_file, site.around.board
        self._scrapers = None if path is None else Access(None, path, board, "access:metrics", site.access)
        self._page: Page | None = None
        self._servers: list[Server] = []
        self.traffic = Traffic()
        self.sampler = Sampler(self.traffic, site.services, site.around.feed)
        site.registry.collector(self.families)

    def watch(self, server: Server) -> None:
        """Show the connections of the exposed port too, and the traffic second by second."""
        self._servers.append(server)
        self.sampler.start()

    def routes(self, prefix: str) -> Iterator[Route]:
        yield Route("GET", prefix, self._redirect)
        yield Route("GET", f"{prefix}/", self._show)
        yield Route("GET", f"{prefix}/metrics", self._scrape, access=self._scrapers)
        yield Route("GET", f"{prefix}/api/traffic", self._numbers)

    def _redirect(self, request: Request) -> Response:
        """Redirect to the path that the page's relative addresses start from (RFC 3986 section 5.2)."""
        last = self._site.around.settings.prefix.rpartition("/")[2]
        return Response(status=308, headers=[("Location", f"{last}/")])

    def _show(self, request: Request) -> Response:
        page = self._page = self._page or Page()
        headers = [*PAGE_HEADERS, ("ETag", page.tag), ("Content-Security-Policy", page.policy)]
        if page.tag in request.headers.get("if-none-match", ""):
            return Response(status=304, headers=headers)
        return Response(page.content, headers=headers, content_type="text/html; charset=utf-8")

    def _numbers(self, request: Request) -> Response:
        """The seconds behind number `?after=`, for the page alone, which comes from the same wrapper.

        So many at a time that the page asks again while there were several. At first with what does not change while
        the wrapper runs.
        """
        number = query_value(request, "after", "0", values.count)
        facts = {"time": time.time(), **({} if number else {"bounds": FINE_TIMES, "about": self._about()})}
        text = f'{dumps(facts)[:-1]}, "seconds": {self.traffic.told_after(number)}}}\n'
        return Response(text, headers=[NO_STORE], content_type="application/json")

    def _about(self) -> dict[str, Any]:
        """Settings and limits that the page's words depend on; times in seconds, limits in bytes and cores."""
        settings = self._site.around.settings
        return {"has_token": bool(settings.token or settings.token_file), "keeps_output": settings.capture_output,
                "hold": settings.hold, "drain": settings.drain_timeout, "stop": stop_timeout(settings, is_last=False),
                "overlap_drain": settings.overlap_drain_timeout, "memory_limit": procfs.memory_limit(),
                "cpu_limit": procfs.cpu_limit()}

    def _scrape(self, request: Request) -> Response:
        return Response(self._site.registry.render(), headers=[NO_STORE], content_type=registry.CONTENT_TYPE)

    def families(self) -> Iterator[Family]:
        yield from self.traffic.families()
        yield from collectors.of_services(self._site.services)
        yield from collectors.of_configuration(self._site.subscriptions)
        yield from collectors.of_board(self._site.around.board)
        for server in self._servers:
            yield from collectors.of_server(server)
        yield from collectors.of_process()


class Page:
    """The page with its entity tag, and the policy that lets nothing run but what is written in it."""

    def __init__(self) -> None:
        # Asked of the package's loader, because the package may be part of a zip archive.
        content = pkgutil.get_data(__name__.rpartition(".")[0], PAGE)
        assert content is not None, "loaders of files and archives have data"
        self.content = content
        self.tag = f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'
        hashes: dict[str, list[str]] = {"script": [], "style": []}
        for kind, code in INLINE.findall(content.decode()):
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            hashes[kind].append(f"'sha256-{digest}'")
        self.policy = "; ".join((
            "default-src 'none'", f"script-src {' '.join(hashes['script'])}", f"style-src {' '.join(hashes['style'])}",
            "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"))
