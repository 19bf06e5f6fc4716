"""What the wrapper knows, as text for people at a terminal. Pure: documents in, lines out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wrapper.text import elapsed, one_line

GOOD, WARN, BAD, FAINT, PLAIN = "32", "33", "31", "2", ""  # SGR parameters (ECMA-48 section 8.3.117)
COLOURS = {"running": GOOD, "stopped": FAINT, "failed": BAD}  # all other states are on the way: WARN
SGR = re.compile("(\x1b\\[[0-9;]*m)")
GUTTER = "  "


class Paint:
    """Colours text, or leaves it as it is."""

    def __init__(self, is_on: bool) -> None:
        self._is_on = is_on

    def __call__(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._is_on and colour else text

    def state(self, state: str) -> str:
        return self(COLOURS.get(state, WARN), state)

    def fit(self, line: str) -> str:
        """A line for the terminal: of all control characters only our colours stay."""
        pieces = SGR.split(line) if self._is_on else [line]
        return "".join(piece if index % 2 else one_line(piece) for index, piece in enumerate(pieces))


def overview(status: Mapping[str, Any], problems: Sequence[Mapping[str, Any]], config: Sequence[Mapping[str, Any]],
             paint: Paint, now: float, peer: str) -> list[str]:
    """The whole picture on one screen: the service first, what is wrong, then the rest; `peer` says whose it is."""
    rows = _service("service", status, paint, now)
    for name, helper in status.get("helpers", {}).items():
        rows += [("", ""), *_service(name, helper, paint, now)]
    rows.append(("", ""))
    rows.append(("problems", paint(GOOD, "none") if not problems else paint(BAD, str(len(problems)))))
    rows += [("", line) for line in problem_lines(problems, paint, now)]
    rows += [("" if index else "config", line) for index, line in enumerate(config_lines(config, paint, now))]
    rows.append(("wrapper", f"{status.get('version', '?')}, up {span(status.get('uptime_seconds', 0.0))}, {peer}"))
    return aligned(rows)


def _service(name: str, status: Mapping[str, Any], paint: Paint, now: float) -> list[tuple[str, str]]:
    since, last = status["since"], status.get("last_exit")
    process = f"pid {status['pid']}" if status.get("pid") else "none"
    crashes = paint(WARN if status["crashes"] else PLAIN, str(status["crashes"]))
    held = paint(WARN if status["held"] else PLAIN, f"{status['held']} held")
    held += paint(WARN, f"; paused: {status['paused']}") if status.get("paused") else ""
    return [(name, f"{paint.state(status['state'])} for {age(since, now)}, since {clock(since)}"),
            ("why", one_line(status.get("reason") or "-")),
            ("process", f"{process}, generation {status['generation']}, "
                        f"planned restarts: {status['restarts_planned']}, crashes: {crashes}"),
            *([("last exit", f"{_exit(last, paint)}, {age(last.get('at'), now)} ago")] if last else []),
            ("requests", f"{status['in_flight']} in flight, {held}")]


def _exit(last: Mapping[str, Any], paint: Paint) -> str:
    how = f"signal {last['signal']}" if last.get("signal") else f"status {last.get('status')}"
    return f"{how}, " + ("planned" if last.get("planned") else paint(BAD, "by itself"))


def problem_lines(problems: Iterable[Mapping[str, Any]], paint: Paint, now: float) -> list[str]:
    lines = []
    for problem in problems:
        times = f", seen {problem['count']} times" if problem.get("count", 1) > 1 else ""
        lines.append(paint(BAD, "!") + f" {one_line(problem['source'])}: {one_line(problem['message'])} "
                     + paint(FAINT, f"(for {age(problem.get('since'), now)}{times})"))
        lines += [f"    {one_line(str(key))}: {one_line(str(value))}"
                  for key, value in (problem.get("details") or {}).items()]
    return lines


def config_lines(config: Iterable[Mapping[str, Any]], paint: Paint, now: float) -> list[str]:
    lines = []
    for one in config:
        applied, seen = one.get("hash_applied"), one.get("hash_seen")
        facts = [f"applied {str(applied)[:12]}" if applied else paint(WARN, "nothing applied yet")]
        if seen and seen != applied:
            facts.append(paint(WARN, f"seen {str(seen)[:12]}"))
        if one.get("last_fetch"):
            facts.append(f"looked {age(one['last_fetch'], now)} ago")
        if one.get("stale_since"):
            facts.append(paint(BAD, f"stale for {age(one['stale_since'], now)}"))
        lines.append(f"{one_line(str(one.get('name') or one.get('source') or '?'))}: " + ", ".join(facts))
        if one.get("last_result") not in (None, "applied"):
            lines.append(f"    {one_line(str(one['last_result']))}")
        lines.append("    " + paint(FAINT, f"from {one_line(str(one.get('source')))}"))
    return lines


def version_lines(versions: Iterable[Mapping[str, Any]]) -> list[str]:
    return aligned([(str(one["version"]), f"{clock(one['at'])}  {one_line(one['reason'])}: " + ", ".join(
        map(one_line, [*one["files"], *one["environment"]]))) for one in versions])


def diff_lines(found: Mapping[str, Any], paint: Paint) -> list[str]:
    """What changed since a version: lines of files, and of the environment only names."""
    colours = {"+": GOOD, "-": BAD}
    lines = []
    for path, difference in found["files"].items():
        lines += [one_line(path), *(paint(colours.get(line[:1], PLAIN), one_line(line)) for line in difference)]
    return lines + [f"environment: {name} {how}" for how, names in found["environment"].items() for name in names]


def event_line(event: Mapping[str, Any], paint: Paint, main: str = "service") -> str:
    """One event, one line: when, whose, what, why."""
    whose = event.get("service")
    name = f"{whose}: " if whose and whose != main else ""
    return f"{paint(FAINT, clock(event.get('at')))}  {name}{_told(event, paint)}"


def _told(event: Mapping[str, Any], paint: Paint) -> str:
    kind, message = event.get("kind"), one_line(str(event.get("message")))
    why = paint(FAINT, one_line(str(event.get("reason") or "")))
    if kind == "state":
        return f"{event.get('before')} -> {paint.state(str(event.get('state')))}  {why}"
    if kind == "exit":
        return f"the service ended: {_exit(event, paint)}"
    if kind == "next":
        is_begun = event.get("step") == "starting"
        return (f"starting the next run, pid {event.get('pid')}" if is_begun else "the next run failed") + f"  {why}"
    if kind == "restarted":
        return message
    if kind == "problem":
        return f"{paint(BAD, 'problem')}: {message}"
    if kind == "resolved":
        return f"{paint(GOOD, 'problem gone')}: {message}"
    facts = " ".join(f"{key}={one_line(str(value))}" for key, value in event.items()
                     if key not in ("id", "at", "time", "kind", "service"))
    return f"{one_line(str(kind))}  {facts}".rstrip()


def fitting(lines: Sequence[str], columns: int, rows: int) -> list[str]:
    """The lines, cut to what a terminal of that size can show at once, from the top; colours take no room."""
    if len(lines) > rows:
        lines = [*lines[:rows - 1], f"{len(lines) - rows + 1} more lines"] if rows > 1 else lines[:1]
    return [_cut(line, columns) for line in lines]


def _cut(line: str, columns: int) -> str:
    kept, left = [], columns
    for index, piece in enumerate(SGR.split(line)):
        kept.append(piece if index % 2 else piece[:left])
        left -= 0 if index % 2 else len(kept[-1])
    return "".join(kept)


def aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(label) for label, _ in rows), default=0)
    return [f"{label:{width}}{GUTTER}{value}".rstrip() for label, value in rows]


def age(moment: str | None, now: float) -> str:
    """How long ago an RFC 3339 moment was."""
    seconds = elapsed(moment, now)
    return "?" if seconds is None else span(seconds)


def clock(moment: str | None) -> str:
    """A moment as the wrapper's log writes it, to the second, so that the two can be laid side by side."""
    return (moment or "?").replace("T", " ")


def span(seconds: float) -> str:
    """`3s`, `2m 05s`, `1h 04m`, `3d 02h`."""
    whole = int(seconds)
    for unit, size, lesser, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part:02d}{lesser}"
    return f"{whole}s"
