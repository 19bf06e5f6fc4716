"""From a `watch` declaration to a subscription of the configuration rooms."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from wrapper.service.service import Surroundings


def subscribe(name: str, source: Any, on_change: Callable[[Any], Any], around: Surroundings, **options: Any) -> Any:
    """Raises: ValueError or TypeError for what cannot be watched."""
    raise NotImplementedError
