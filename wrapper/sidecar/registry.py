"""The registry of metrics: counters, gauges and histograms, of the wrapper and of sidecar authors, and their text.

The format is Prometheus' text exposition 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, NamedTuple, TypeVar

from wrapper.log import log

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
OWN_NAMES = "wrapper_"  # what authors' metrics may not begin with
SERIES_MAX = 1000  # label sets of one metric; a label that holds user ids must not eat the memory
# Seconds; the defaults of Prometheus' own clients, so that dashboards made for them fit.
DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Sample(NamedTuple):
    """One line: `labels` are (name, value) pairs in order, `suffix` goes behind the family's name."""

    labels: Sequence[tuple[str, str]]
    value: float
    suffix: str = ""


class Family(NamedTuple):
    """Samples under one name; `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    samples: Iterable[Sample]


Collector = Callable[[], Iterable[Family]]


class Series:
    """A row of numbers for each set of label values of one metric."""

    def __init__(self) -> None:
        # Guards the rows, and that a change is made where the metric has its series now.
        self.lock = threading.Lock()
        self.rows: dict[tuple[str, ...], list[float]] = {}
        self.dropped = 0  # observations for label sets over SERIES_MAX


class Metric:
    """What the three kinds share: a name, label names and a value for each set of label values."""

    kind = ""

    def __init__(self, name: str, help: str = "", labels: Sequence[str] = (), bounds: tuple[float, ...] = ()) -> None:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a metric: letters, digits and _, not a digit first")
        if name.startswith(OWN_NAMES):
            raise ValueError(f"{name}: names that begin with {OWN_NAMES} are the wrapper's own")
        texts: tuple[object, ...] = (help, *labels)
        if isinstance(labels, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name}: behind the name comes the help text, then a list of the labels' names")
        for label in labels:
            if not LABEL.fullmatch(label) or label == "le":
                raise ValueError(f"{label!r} is no name for a label of {name}")
        self.name = name
        self.help = help
        self.labels = tuple(labels)
        self.bounds = bounds  # of a histogram
        self.reset()

    def reset(self) -> None:
        """Begin anew, and alone."""
        self._series = Series()
        if not self.labels:
            self._series.rows[()] = self._zero()

    def _zero(self) -> list[float]:
        return [0]

    def _change(self, labels: Mapping[str, object], change: Callable[[list[float]], None]) -> None:
        """Raises: ValueError where the labels are not those of this metric."""
        try:
            key = tuple(str(labels[name]) for name in self.labels)
        except KeyError as error:
            raise ValueError(f"{self.name}: the label {error} is missing") from None
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        while True:
            series = self._series
            with series.lock:
                if series is self._series:  # else it has become one with another meanwhile
                    change(self._at(series, key))
                    return

    def _at(self, series: Series, key: tuple[str, ...]) -> list[float]:
        assert series.lock.locked()
        row = series.rows.get(key)
        if row is None:
            row = self._zero()
            if len(series.rows) < SERIES_MAX:
                series.rows[key] = row
            else:
                series.dropped += 1
        return row

    def judge_second(self, other: Metric) -> None:
        """Raises: ValueError where `other`, of the same name, is another metric."""
        if (type(self), self.labels, self.bounds) != (type(other), other.labels, other.bounds):
            raise ValueError(f"{self.name} is a {self.kind} with the labels {self.labels} already"
                             + (f" and the buckets {self.bounds}" if self.bounds else ""))

    def join(self, present: Metric) -> None:
        """Be one with `present` from now on, and bring along what was counted so far."""
        mine, theirs = self._series, present._series
        with theirs.lock, mine.lock:
            for key, row in mine.rows.items():
                found = theirs.rows.setdefault(key, row)
                if found is not row:
                    found[:] = self._joined(found, row)
            theirs.dropped += mine.dropped
            self._series = theirs

    def _joined(self, present: list[float], row: list[float]) -> list[float]:
        return [one + other for one, other in zip(present, row)]

    @property
    def dropped(self) -> int:
        return self._series.dropped

    def _number(self, value: Any) -> float:
        """Raises: ValueError, at the author's line: in a scrape it would spoil all the others."""
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{self.name}: {error}") from None

    def collect(self) -> Family:
        series = self._series
        with series.lock:
            rows = [(key, list(row)) for key, row in series.rows.items()]
        return Family(self.name, self.kind, self.help, [
            sample for key, row in rows for sample in self._samples(tuple(zip(self.labels, key)), row)])

    def _samples(self, labels: Sequence[tuple[str, str]], row: list[float]) -> Iterable[Sample]:
        return (Sample(labels, row[0]),)


class Counter(Metric):
    """Goes up only. Its name ends in `_total`; that is added where it is missing."""

    kind = "counter"

    def __init__(self, name: str, help: str = "", labels: Sequence[str] = ()) -> None:
        super().__init__(name if name.endswith("_total") else name + "_total", help, labels)

    def inc(self, amount: float = 1, **labels: object) -> None:
        amount = self._number(amount)
        if not amount >= 0:
            raise ValueError(f"{self.name} is a counter: it cannot go up by {amount}")
        self._change(labels, lambda row: add(row, amount))


def add(row: list[float], amount: float) -> None:
    row[0] += amount


class Gauge(Metric):
    """Goes up and down."""

    kind = "gauge"

    def set(self, value: float, **labels: object) -> None:
        number = self._number(value)
        self._change(labels, lambda row: row.__setitem__(0, number))

    def inc(self, amount: float = 1, **labels: object) -> None:
        number = self._number(amount)
        self._change(labels, lambda row: add(row, number))

    def dec(self, amount: float = 1, **labels: object) -> None:
        self.inc(-self._number(amount), **labels)

    def _joined(self, present: list[float], row: list[float]) -> list[float]:
        return present  # of two values of one thing only one can be true


class Histogram(Metric):
    """Counts values by size; `buckets` are the upper bounds, rising, without the last one, infinity."""

    kind = "histogram"

    def __init__(self, name: str, help: str = "", labels: Sequence[str] = (),
                 buckets: Sequence[float] = DEFAULT_BUCKETS) -> None:
        bounds = tuple(float(bound) for bound in buckets if bound != math.inf)
        if not bounds or sorted(set(bounds)) != list(bounds):
            raise ValueError(f"{name}: the buckets must rise: {buckets}")
        super().__init__(name, help, labels, bounds)

    def _zero(self) -> list[float]:
        return [0] * (len(self.bounds) + 2)  # one count for each bound and for infinity, then the sum

    def observe(self, value: float, **labels: object) -> None:
        value = self._number(value)
        # NaN is below no bound, as Prometheus' own clients have it.
        place = len(self.bounds) if math.isnan(value) else bisect_left(self.bounds, value)

        def count(row: list[float]) -> None:
            row[place] += 1
            row[-1] += value

        self._change(labels, count)

    def _samples(self, labels: Sequence[tuple[str, str]], row: list[float]) -> Iterable[Sample]:
        return histogram_samples(labels, self.bounds, row)


def histogram_samples(labels: Sequence[tuple[str, str]], bounds: Sequence[float], row: Sequence[float]) -> list[Sample]:
    """`row` holds a count for each bound and one for infinity, then the sum of what was observed."""
    samples, running = [], 0.0
    for bound, count in zip((*bounds, math.inf), row):
        running += count
        samples.append(Sample((*labels, ("le", number(bound))), running, "_bucket"))
    return [*samples, Sample(labels, row[-1], "_sum"), Sample(labels, running, "_count")]


Kind = TypeVar("Kind", bound=Metric)


class Registry:
    """Every metric there is: those made here by name, and those that collectors bring at each scrape."""

    def __init__(self) -> None:
        # Held by a scrape: many at a time would take the interpreter from the loop, and any client may ask for one.
        self._scrape = threading.Lock()
        # Guards both collections.
        self._lock = threading.Lock()
        self._metrics: dict[str, Metric] = {}
        self._collectors: list[Collector] = []

    def add(self, metric: Kind) -> Kind:
        """The metric, or the one that has its name already, which it becomes one with.

        Raises: ValueError where that one is different.
        """
        with self._lock:
            present = self._metrics.setdefault(metric.name, metric)
            if present is not metric:
                present.judge_second(metric)
                metric.join(present)
        return present  # type: ignore[return-value]  # the same kind, as judged

    def collector(self, collect: Collector) -> None:
        """`collect` is called at each scrape; what it raises leaves the other families whole."""
        with self._lock:
            self._collectors.append(collect)

    def render(self) -> str:
        with self._scrape:
            return self._render()

    def _render(self) -> str:
        with self._lock:
            metrics, collectors = list(self._metrics.values()), list(self._collectors)
        families = [family for collect in collectors for family in _whatever_comes(collect)]
        families += [metric.collect() for metric in metrics]
        if metrics:
            families.append(Family("wrapper_metric_series_dropped_total", "counter",
                                   "Observations for label sets over the limit of one metric.",
                                   [Sample((), sum(metric.dropped for metric in metrics))]))
        return render(families)


def _whatever_comes(collect: Collector) -> Iterator[Family]:
    try:
        yield from collect()
    except Exception as error:  # noqa: BLE001  # one that cannot be read is no reason to show none
        log.error("a metric cannot be read", cause=repr(error))


def render(families: Iterable[Family]) -> str:
    """The text of a scrape. A family without samples is left out, and one that cannot be written."""
    lines: list[str] = []
    for family in families:
        try:
            samples = [_line(family.name, sample) for sample in family.samples]
        except Exception as error:  # noqa: BLE001  # as above
            log.error("a metric cannot be written", name=family.name, cause=repr(error))
            continue
        if samples:
            if family.help:
                lines.append(f"# HELP {family.name} {_escaped_help(family.help)}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines.extend(samples)
    return "\n".join(lines) + "\n"


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in sample.labels)
    return f"{name}{sample.suffix}{'{' + labels + '}' if labels else ''} {number(sample.value)}"


def _escaped_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escaped(value: str) -> str:
    # Lone surrogates (bytes of a file name that were no UTF-8) would make the whole scrape unreadable.
    clean = value.encode("utf-8", "replace").decode("utf-8")
    return _escaped_help(clean).replace('"', '\\"')


def number(value: float) -> str:
    """As Go's strconv.ParseFloat reads it; whole numbers without a point."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
