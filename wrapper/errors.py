"""Every way the wrapper says no, with the status it says it with.

A `Refusal` becomes an HTTP answer in one place (`server.py`); a `CannotStart`, `CannotMake` or `BadSettings` becomes an
exit status in one place (`cli.py`). Nothing here touches a socket or a process.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Refusal(Exception):
    """A request that is answered by the wrapper itself, with `status` and one sentence for people.

    `headers` are further (name, value) pairs of the answer, such as Retry-After.
    """

    status = 500

    def __init__(self, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.message = message
        self.headers: Iterable[tuple[str, str]] = headers


class BadRequest(Refusal):
    """The request breaks the grammar of HTTP, or asks for what cannot be (RFC 9110 section 15.5.1)."""

    status = 400


class Unauthorized(Refusal):
    """The token is missing or wrong (RFC 9110 section 15.5.2)."""

    status = 401

    def __init__(self, message: str) -> None:
        super().__init__(message, ("WWW-Authenticate", 'Bearer realm="wrapper"'))


class Forbidden(Refusal):
    """The path is not for callers on this port, whatever they send."""

    status = 403


class NotFound(Refusal):
    """No sidecar path has this name."""

    status = 404


class MethodNotAllowed(Refusal):
    """The path exists, the method does not; `allowed` goes out as Allow (RFC 9110 section 15.5.6)."""

    status = 405

    def __init__(self, message: str, allowed: Iterable[str]) -> None:
        super().__init__(message, ("Allow", ", ".join(allowed)))


class RequestTimeout(Refusal):
    """The client took too long to send what it had begun (RFC 9110 section 15.5.9)."""

    status = 408


class Busy(Refusal):
    """Another action is under way and this one does not fit behind it."""

    status = 409


class ContentTooLarge(Refusal):
    """The body is over the limit of whoever would read it."""

    status = 413


class ExpectationFailed(Refusal):
    """The request expects what nobody here can do (RFC 9110 section 10.1.1)."""

    status = 417


class LineTooLong(Refusal):
    """The request line alone is over `--max-header` (RFC 9110 section 15.5.15)."""

    status = 414


class TooManyRequests(Refusal):
    """The peer has to wait before it tries again (RFC 6585 section 4); `retry_after` in whole seconds."""

    status = 429

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message, ("Retry-After", str(retry_after)))


class HeadTooLarge(Refusal):
    """The request line and the header section are over `--max-header` (RFC 6585 section 5)."""

    status = 431


class NotImplementedHere(Refusal):
    """A transfer coding or a method this proxy does not do (RFC 9112 section 6.1)."""

    status = 501


class BadGateway(Refusal):
    """The service cannot be reached, or does not speak HTTP."""

    status = 502


class Unavailable(Refusal):
    """The service is stopped, has failed, or too many requests wait for it already.

    `retry_after` goes out as Retry-After, in whole seconds (RFC 9110 section 10.2.3).
    """

    status = 503

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message, ("Retry-After", str(retry_after)))


class GatewayTimeout(Refusal):
    """The request was held, or the service was awaited, for longer than allowed."""

    status = 504


class VersionNotSupported(Refusal):
    """The request speaks a major version of HTTP other than 1 (RFC 9110 section 15.6.6)."""

    status = 505


class CannotStart(Exception):
    """The wrapper or the service cannot start; `exit_status` is what the wrapper ends with.

    `public` says it without any word of the command line, for answers that everybody may read.
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
