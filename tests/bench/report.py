"""What the bench found: a Markdown table, figures for machines, a plot for people."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from typing import Any, Callable, NamedTuple

REFERENCE = "Go"


class Goal(NamedTuple):
    """What is asked of the wrapper for one metric: its value, or its ratio or difference to the reference's."""

    metric: str
    kind: str
    sign: str
    bound: float

    def is_met(self, figure: float) -> bool:
        return {"<=": figure <= self.bound, "<": figure < self.bound, ">=": figure >= self.bound}[self.sign]

    def __str__(self) -> str:
        return f"{self.sign.replace('>=', '≥').replace('<=', '≤')} {self.bound:g}"


class Point(NamedTuple):
    """One measurement. `rounds`: where few are enough, because it measures a state and not a rate.

    `stage(names)` is a context in which the proxies run, and yields them as (name, proxy).
    """

    name: str
    title: str
    stage: Callable[[list[str]], Any]
    load: Callable[..., dict[str, float]]
    goals: tuple[Goal, ...]
    rounds: int | None = None


class Result(NamedTuple):
    """A point and its rounds: {proxy: {metric: value}} each."""

    point: Point
    rounds: list[dict[str, dict[str, float]]]

    def median(self, name: str, metric: str) -> float | None:
        """None where this proxy had no part in it."""
        if name not in self.rounds[0]:
            return None
        return statistics.median(one[name][metric] for one in self.rounds)

    def against(self, name: str, goal: Goal) -> float | None:
        """The median over the rounds of what the goal is about; None where one of the two had no part."""
        if goal.kind == "value":
            return self.median(name, goal.metric)
        if not {name, REFERENCE} <= set(self.rounds[0]):
            return None
        pairs = [(one[name][goal.metric], one[REFERENCE][goal.metric]) for one in self.rounds]
        if goal.kind == "difference":
            return statistics.median(mine - reference for mine, reference in pairs)
        return statistics.median(mine / reference for mine, reference in pairs)


def missed(result: Result, names: list[str]) -> list[Goal]:
    found = [(goal, result.against(names[0], goal)) for goal in result.point.goals]
    return [goal for goal, figure in found if figure is not None and not goal.is_met(figure)]


def table(results: list[Result], names: list[str]) -> str:
    """One row for each metric: the medians, the wrapper's figure against Go's, and what was asked."""
    lines = [f"| | {' | '.join(names)} | {names[0]} to {REFERENCE} | goal |",
             f"|---|{'---:|' * (len(names) + 1)}---|"]
    for result in results:
        for goal in result.point.goals:
            figure = result.against(names[0], goal)
            verdict = "" if figure is None else shown(figure, goal) + ("" if goal.is_met(figure) else " (missed)")
            values = " | ".join(number(result.median(name, goal.metric)) for name in names)
            relation = {"ratio": "", "difference": "difference ", "value": "value "}[goal.kind]
            lines.append(f"| {result.point.title}: {goal.metric} | {values} | {verdict} | {relation}{goal} |")
    return "\n".join([*lines, "", machine()])


def shown(figure: float, goal: Goal) -> str:
    return number(figure) if goal.kind == "value" else f"{figure:.2f}"


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> str:
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    cores = os.cpu_count()
    return (f"{platform.python_implementation()} {platform.python_version()}, "
            f"{cores} cores{f' of {models[0]}' if models else ''}; {go_version()}; "
            f"service, proxy and load share them.")


def go_version() -> str:
    """As in "Go 1.19.8"."""
    said = subprocess.run(["go", "version"], check=True, stdout=subprocess.PIPE).stdout.decode()
    return "Go " + said.split()[2].removeprefix("go")


def figures(results: list[Result]) -> dict[str, object]:
    return {"machine": machine(), "points": {result.point.name: result.rounds for result in results}}


# The plot: for each metric with a ratio a group of bars, the reference at the dashed line.

BAR, GAP, LEFT, WIDTH, TOP = 15, 14, 310, 880, 58
COLOURS = ("#2f6fdb", "#8a8f98", "#3a9e5c", "#c9862b", "#8457c2")


def plot(results: list[Result], names: list[str], title: str) -> str:
    rows = [(result, goal) for result in results for goal in result.point.goals
            if goal.kind == "ratio" and REFERENCE in result.rounds[0]]
    ratios = [[result.against(name, goal) for name in names] for result, goal in rows]
    scale = (WIDTH - LEFT - 60) / max([2.0, *(ratio for group in ratios for ratio in group if ratio)])
    height = TOP + len(rows) * (BAR * len(names) + GAP) + 20
    parts = [*heading(names, height, title), *axis(scale, height)]
    for index, ((result, goal), group) in enumerate(zip(rows, ratios)):
        top = TOP + index * (BAR * len(names) + GAP)
        parts += bars(f"{result.point.title}", f"{goal.metric}, {better(goal)}", group, top, scale)
    return "\n".join([*parts, "</svg>", ""])


def better(goal: Goal) -> str:
    return "more is better" if goal.sign == ">=" else "less is better"


def heading(names: list[str], height: int, title: str) -> list[str]:
    parts = [(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
             'font-family="system-ui, sans-serif" font-size="12" role="img">'),
             f"<title>{title}, as multiples of {REFERENCE}</title>",
             '<rect width="100%" height="100%" fill="#ffffff"/>',
             (f'<text x="16" y="22" font-size="15" font-weight="600" fill="#1c2330">As multiples of {REFERENCE}\'s '
             "ReverseProxy</text>")]
    for index, name in enumerate(names):
        x = LEFT + 90 * index
        parts.append(f'<rect x="{x}" y="32" width="11" height="11" fill="{COLOURS[index]}"/>'
                     f'<text x="{x + 16}" y="42" fill="#1c2330">{name}</text>')
    return parts


def axis(scale: float, height: int) -> list[str]:
    x = LEFT + scale
    return [(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height - 16}" stroke="#1c2330" '
            'stroke-dasharray="3 3"/>'),
            f'<text x="{x:.1f}" y="{height - 4}" text-anchor="middle" fill="#1c2330">1.0</text>']


def bars(title: str, metric: str, group: list[float | None], top: int, scale: float) -> list[str]:
    parts = [f'<text x="{LEFT - 10}" y="{top + 12}" text-anchor="end" fill="#1c2330">{title}</text>',
             f'<text x="{LEFT - 10}" y="{top + 27}" text-anchor="end" fill="#626b78">{metric}</text>']
    for index, ratio in enumerate(group):
        if ratio is None:
            continue
        y, width = top + BAR * index, ratio * scale
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 2}" fill="{COLOURS[index]}"/>'
                     f'<text x="{LEFT + width + 5:.1f}" y="{y + 11}" fill="#1c2330" '
                     f'stroke="#ffffff" stroke-width="3" paint-order="stroke">{ratio:.2f}</text>')
    return parts
