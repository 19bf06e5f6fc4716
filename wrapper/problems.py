"""The board of problems: what is wrong now, since when, and how often it was seen. All is well when it is empty."""

from __future__ import annotations

import threading

from wrapper.log import log, timestamp
from wrapper.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from wrapper.events import Feed


MOST = 200  # problems of one source; more are told as a number
MORE = "more"  # the key of that
MESSAGE_LENGTH = 4000  # characters of one that are kept: it is in the feed and in the log once for each change
UNTOLD = "what it is, is told with the token, or over the control socket"


class Problem:
    """One thing that is wrong: `message` for people, `key` to tell several of one source apart, `details` as JSON.

    What is no text, such as an exception, is told as `str` has it, and of what is long the first MESSAGE_LENGTH
    characters.

    `source` is where it was found, "" until it has been on the board.
    Raises: ValueError where the key is a sentence and the message is a word, or a detail is called `source`.
    """

    source = ""

    def __init__(self, message: str, key: str = "", **details: Any) -> None:
        self.message = str(message)[:MESSAGE_LENGTH]  # all readers of the board count on text
        if " " in key.strip() and len(self.message.split()) == 1:
            raise ValueError(f"{key!r} is no key of a problem: the message comes first, then the key, {message!r}")
        if "source" in details:
            raise ValueError("a problem's detail cannot be called 'source': that is where it was found")
        self.key = key
        self.details = details

    def __repr__(self) -> str:
        return f"Problem({self.message!r})"


class Board:
    """Problems by (source, key). A source is a short name such as `service` or `config:rules`."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        # Guards the entries; news goes out behind it.
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], dict[str, Any]] = {}

    def report(self, source: str, message: str, key: str = "", **details: Any) -> None:
        """Put a problem on the board, or see it again: then the newer message and details count."""
        now, details = timestamp(), plain(details)
        with self._lock:
            if (source, key) not in self._entries and sum(name == source for name, _ in self._entries) >= MOST:
                more = self._entries.get((source, MORE))
                key, details = MORE, {}
                message = f"and {more['count'] + 1 if more else 1} more"
            entry = self._entries.get((source, key))
            is_news = entry is None or (entry["message"] != message and key != MORE)
            if entry is None:
                name = f"{source}/{key}" if key else source
                entry = self._entries[source, key] = {"id": name, "source": source, "kind": source.partition(":")[0],
                                                      "since": now, "count": 0}
            entry.update(message=message, last_seen=now, count=entry["count"] + 1, details=details)
        if is_news:
            said = details.get("output") if details.get("step") == "check" else None
            log.warning(f"problem: {message}", source=source, **({"output": "\n".join(said)} if said else {}))
            self._feed.publish("problem", problem=entry["id"], source=source, message=message)

    def resolve(self, source: str, key: str = "") -> None:
        """Take a problem off the board; nothing happens where there is none."""
        with self._lock:
            entry = self._entries.pop((source, key), None)
            if entry is not None:
                self._entries.pop((source, MORE), None)  # there is room again: they come when they are seen again
        if entry is not None:
            log.info(f"problem gone: {entry['message']}", source=source)
            self._feed.publish("resolved", problem=entry["id"], source=source, message=entry["message"])

    def replace(self, source: str, problems: Iterable[Problem]) -> None:
        """Make these the problems of `source`: new ones come, those not named any more go."""
        found = {problem.key or problem.message: problem for problem in problems}
        with self._lock:
            gone = [key for name, key in self._entries if name == source and key not in found]
        for key in gone:
            self.resolve(source, key)
        for key, problem in found.items():
            self.report(source, problem.message, key, **problem.details)

    def problems(self) -> list[Problem]:
        """The entries as problems, oldest first."""
        found = []
        with self._lock:
            for (source, key), entry in self._entries.items():
                problem = Problem(entry["message"], key, **entry["details"])
                problem.source = source
                found.append(problem)
        return found

    def outline(self) -> list[dict[str, Any]]:
        """What strangers may know: a message may quote what a command printed, and so may a key and the details."""
        return [{**entry, "id": entry["source"], "message": UNTOLD, "details": {}} for entry in self.list()]

    def list(self) -> list[dict[str, Any]]:
        """Copies of the entries, oldest first: id, source, kind, message, since, last_seen, count, details."""
        with self._lock:
            return [dict(entry) for entry in self._entries.values()]

    def __len__(self) -> int:
        return len(self._entries)


def outlined(event: dict[str, Any]) -> dict[str, Any]:
    """An event of the feed as strangers may have it."""
    if event["kind"] in ("problem", "resolved"):
        return {**event, "problem": event["source"], "message": UNTOLD}
    return {name: value for name, value in event.items() if event["kind"] != "config" or name != "reason"}
