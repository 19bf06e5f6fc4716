"""A wrapper around an unmodified service: its entrypoint, its front door and its sidecar.

What sidecar authors import stands here. Nothing is loaded before it is asked for (PEP 562): the wrapper starts the
service first and imports the rest while that starts.
"""

# No annotation and no f-string: Pythons that are too old must get as far as `__main__.py`, which says so.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # noqa: F401  in the comments that are types

    from wrapper.http1.message import Request as Request, Response as Response
    from wrapper.problems import Problem as Problem
    from wrapper.sidecar.extension import Sidecar as Sidecar
    from wrapper.sidecar.handle import ServiceHandle as ServiceHandle

__version__ = "0.1.0"
__all__ = ["Sidecar", "Problem", "Request", "Response", "ServiceHandle", "__version__"]

_HOMES = {"Sidecar": "wrapper.sidecar.extension", "Problem": "wrapper.problems",
          "Request": "wrapper.http1.message", "Response": "wrapper.http1.message",
          "ServiceHandle": "wrapper.sidecar.handle"}


def __getattr__(name):
    # type: (str) -> Any
    if name not in _HOMES:
        raise AttributeError("module " + repr(__name__) + " has no attribute " + repr(name))
    import importlib  # start-up: see above

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    # type: () -> list[str]
    return sorted(__all__)
