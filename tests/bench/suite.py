"""Points measured in rounds in which the proxies take turns: the stages, the command line, what is written down.

A figure is the median of the ratios within a round, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

import contestants
import report
from report import Point, Result

Rounds = list[dict[str, dict[str, float]]]


class Suite(NamedTuple):
    """What one script measures. `mark`: of its part of the README; `others`: who else takes part."""

    description: str
    points: Callable[[bool], Sequence[Point]]  # told whether it is a quick run
    mark: str
    plot: Path
    title: str
    seconds: float
    quick_rounds: int
    others: tuple[str, ...] = ()
    are_fresh: bool = False  # each round starts all anew


# Stages: who takes part, as (name, proxy).


def behind(service: str, scheme: str = "http") -> Callable[[list[str]], Any]:
    """All in front of one service; those that have no way to do it stay away."""
    @contextlib.contextmanager
    def open_stage(names: list[str]) -> Iterator[list[tuple[str, contestants.Running]]]:
        makers = contestants.TLS_PROXIES if scheme == "https" else contestants.PROXIES
        with contextlib.ExitStack() as stack:
            upstream = stack.enter_context(contestants.run("the service", contestants.SERVICES[service])).address
            yield [(name, stack.enter_context(contestants.run(
                name, functools.partial(makers[name], upstream=upstream), scheme, upstream)))
                   for name in names if name in makers]
    return open_stage


def measure(point: Point, names: list[str], numbers: Sequence[int], seconds: float, is_fresh: bool = False) -> Rounds:
    """Rounds of {proxy: {metric: value}}; the order turns by one each round."""
    measured = []
    with point.stage(names) as proxies:
        for _, proxy in proxies:
            if point.rounds is None and not is_fresh:
                point.load(proxy, 1)  # warms caches and threads up; not counted
        for number in numbers:
            turn = number % len(proxies)
            measured.append({name: loaded(point, name, proxy, seconds)
                             for name, proxy in proxies[turn:] + proxies[:turn]})
    return measured


def loaded(point: Point, name: str, proxy: Any, seconds: float) -> dict[str, float]:
    """Raises: RuntimeError where the proxy failed under its load."""
    try:
        return point.load(proxy, seconds)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise RuntimeError(f"{name}: {error}") from error


def arguments(suite: Suite) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=suite.description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: wrapper and Go only, few and short rounds")
    parser.add_argument("--only", metavar="POINT,...", help=", ".join(point.name for point in suite.points(False))
                        + "; empty: none, to report what --json holds")
    parser.add_argument("--proxies", metavar="NAME,...", help="of " + ", ".join(contestants.PROXIES))
    parser.add_argument("--before", metavar="FOLDER", help='another checkout, whose wrapper takes part as "before"')
    parser.add_argument("--bare", action="store_true", help="the relay alone, not the whole wrapper: for profiles")
    parser.add_argument("--rounds", type=int, help=f"default 5, quick {suite.quick_rounds}")
    parser.add_argument("--seconds", type=float, help=f"of each load; default {suite.seconds:g}, quick 1")
    parser.add_argument("--readme", action="store_true",
                        help=f"put table and plot where README.md has <!-- {suite.mark} -->")
    parser.add_argument("--json", metavar="FILE", help="figures of every round; points measured before are kept in it")
    parser.add_argument("--svg", metavar="FILE", help="where the plot goes")
    return parser.parse_args()


def chosen_proxies(options: argparse.Namespace, others: tuple[str, ...]) -> list[str]:
    names = options.proxies.split(",") if options.proxies else ["wrapper", "Go"]
    if not options.quick and not options.proxies:
        names += [name for name in others if shutil.which(name.lower())]
    if options.before:
        contestants.enter_before(Path(options.before).resolve())
        names.insert(1, "before")
    return ["bare" if options.bare and name == "wrapper" else name for name in names]


def chosen_points(options: argparse.Namespace, points: Sequence[Point]) -> list[str]:
    known = [point.name for point in points]
    only = known if options.only is None else [name for name in options.only.split(",") if name]
    if unknown := set(only).difference(known):
        sys.exit(f"no such point: {', '.join(sorted(unknown))}")
    return only


def publish(suite: Suite, table: str) -> None:
    """Between the README's marks: the table, and the plot beside this file."""
    readme = contestants.ROOT / "README.md"
    plot = f"![{suite.title}]({suite.plot.relative_to(contestants.ROOT)})"
    before, begin, rest = readme.read_text().partition(f"<!-- {suite.mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{suite.mark} -->")
    if not end:
        sys.exit(f"README.md has no <!-- {suite.mark} --> part")
    readme.write_text(f"{before}{begin}{table}\n\n{plot}\n{end}{after}")


def figures_in(path: str | None) -> dict[str, Rounds]:
    """The rounds of each point that were measured before."""
    if path is None or not Path(path).exists():
        return {}
    points: dict[str, Rounds] = json.loads(Path(path).read_text())["points"]
    return points


def main(suite: Suite) -> int:
    options = arguments(suite)
    points = suite.points(options.quick)
    only, names = chosen_points(options, points), chosen_proxies(options, suite.others)
    rounds = options.rounds or (suite.quick_rounds if options.quick else 5)
    seconds = options.seconds or (1.0 if options.quick else suite.seconds)
    known, has_failed = figures_in(options.json), False
    results = [Result(point, known[point.name]) for point in points if point.name in known]
    for point in (point for point in points if point.name in only):
        print(f"{point.name}: {point.title} ...", file=sys.stderr, flush=True)
        try:
            known[point.name] = all_rounds(suite, point, names, rounds, seconds)
        except RuntimeError as error:  # the others are measured all the same
            print(f"{point.name}: {error}", file=sys.stderr)
            has_failed = True
        results = [Result(point, known[point.name]) for point in points if point.name in known]
        if options.json:
            Path(options.json).write_text(json.dumps(report.figures(results), indent=1) + "\n")
    write(suite, options, results, names)
    return 1 if has_failed or any(report.missed(result, names) for result in results) else 0


def all_rounds(suite: Suite, point: Point, names: list[str], rounds: int, seconds: float) -> Rounds:
    numbers = range(min(rounds, point.rounds or rounds))
    if suite.are_fresh:
        return [one for number in numbers for one in measure(point, names, [number], seconds, is_fresh=True)]
    return measure(point, names, numbers, seconds)


def write(suite: Suite, options: argparse.Namespace, results: list[Result], names: list[str]) -> None:
    """Print the table, and put it where else it was asked for."""
    print(report.table(results, names))
    if options.readme:
        publish(suite, report.table(results, names))
        options.svg = str(suite.plot)
    if options.svg:
        Path(options.svg).write_text(report.plot(results, names, suite.title))
