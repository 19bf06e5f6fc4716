"""Peers that forward like a proxy and are not trusted: each is named in the log, once, where that changes something."""

from __future__ import annotations

from wrapper.log import log
from wrapper.proxy.headers import TrustedProxies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wrapper.http1.message import Ended
    from wrapper.settings.settings import Settings

MOST_NAMED = 100  # peers that are remembered; all who come later are strangers, not a fleet of proxies


class Fronts:
    """Looks at the exchanges that have ended. A front says https where TLS ends with it; the service is told http."""

    def __init__(self, settings: Settings) -> None:
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._is_secure = bool(settings.tls_cert)
        self._named: set[str | None] = set()

    def observe(self, facts: Ended) -> None:
        if self._is_secure or facts.head is None or facts.peer in self._named or len(self._named) >= MOST_NAMED:
            return
        said = facts.head.special.get(b"x-forwarded-proto", ())
        if any(value.lower() == b"https" for _, _, value in said) and not self._proxies.trust(facts.peer):
            self._named.add(facts.peer)
            log.warning("X-Forwarded-Proto: https is replaced by http, because its sender is not in --trusted-proxies; "
                        "name it there where it is a proxy of yours", peer=facts.peer or "unix")
