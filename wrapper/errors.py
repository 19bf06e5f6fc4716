"""Every way the wrapper says no, with the status it says it with.

`front/reply.py` makes an HTTP response of a `Refusal`, `cli.py` an exit status of a `CannotStart`, `CannotMake` or
`BadSettings`. Nothing here touches a socket or a process.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NO_TLS = "this Python has no TLS (its module _ssl); an image gets it with: docker build --build-arg MODULES=ssl"


class Refusal(Exception):
    """A request that is answered by the wrapper itself, with `status` and one sentence for people.

    `headers` are further (name, value) pairs of the response, such as Retry-After.
    """

    status = 500

    def __init_subclass__(cls, status: int | None = None) -> None:
        cls.status = status or cls.status  # None: the parent's

    def __init__(self, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.message = message
        self.headers: Iterable[tuple[str, str]] = headers


class BadRequest(Refusal, status=400):
    """The request breaks the grammar of HTTP, or asks for what cannot be (RFC 9110 section 15.5.1)."""


class Unauthorized(Refusal, status=401):
    """The token is missing or wrong (RFC 9110 section 15.5.2)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ("WWW-Authenticate", 'Bearer realm="wrapper"'))


class Forbidden(Refusal, status=403):
    """The path is not for callers on this port, whatever they send."""


class NotFound(Refusal, status=404):
    """No sidecar path has this name."""


class MethodNotAllowed(Refusal, status=405):
    """The path exists, the method does not; `allowed` goes out as Allow (RFC 9110 section 15.5.6)."""

    def __init__(self, message: str, allowed: Iterable[str]) -> None:
        super().__init__(message, ("Allow", ", ".join(allowed)))


class RequestTimeout(Refusal, status=408):
    """The client took too long to send what it had begun (RFC 9110 section 15.5.9)."""


class Busy(Refusal, status=409):
    """Another action is under way and this one does not fit behind it."""


class ContentTooLarge(Refusal, status=413):
    """The body is over the limit of the handler that would read it."""


class ExpectationFailed(Refusal, status=417):
    """The request expects what the wrapper cannot do (RFC 9110 section 10.1.1)."""


class LineTooLong(Refusal, status=414):
    """The request line alone is over `--max-header` (RFC 9110 section 15.5.15)."""


class RetryLater(Refusal):
    """`retry_after` goes out as Retry-After, in whole seconds (RFC 9110 section 10.2.3)."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message, ("Retry-After", str(retry_after)))


class TooManyRequests(RetryLater, status=429):
    """The peer has to wait before it tries again (RFC 6585 section 4)."""


class HeadTooLarge(Refusal, status=431):
    """The request line and the header section are over `--max-header` (RFC 6585 section 5)."""


class NotImplementedHere(Refusal, status=501):
    """A transfer coding or a method this proxy does not do (RFC 9112 section 6.1)."""


class BadGateway(Refusal, status=502):
    """The service cannot be reached, or does not speak HTTP. `reason` is one of REASONS."""

    REASONS = ("refused", "unreachable", "closed", "malformed", "ended_twice", "loop")

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Unavailable(RetryLater, status=503):
    """The service is stopped, has failed, or too many requests wait for it already."""


class GatewayTimeout(Refusal, status=504):
    """The request was held, or the service was awaited, for longer than allowed."""


class VersionNotSupported(Refusal, status=505):
    """The request speaks a major version of HTTP other than 1 (RFC 9110 section 15.6.6)."""


class CannotStart(Exception):
    """The wrapper or the service cannot start; `exit_status` is what the wrapper ends with.

    `public` says it without any word of the command line, for responses that any client may read.
    """

    def __init__(self, message: str, exit_status: int, public: str = "") -> None:
        super().__init__(message)
        self.exit_status = exit_status
        self.public = public or message


class CannotMake(Exception):
    """A part of an image cannot be made of what was given."""

    exit_status = 1


class BadSettings(Exception):
    """One or more settings are wrong; `faults` has a line for each, with its origin."""

    exit_status = 2

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))
