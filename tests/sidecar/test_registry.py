"""registry.py: counters, gauges, histograms and the text they become."""

from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
import threading

import pytest

from wrapper.sidecar.registry import SERIES_MAX, Counter, Family, Gauge, Histogram, Registry, Sample, number, render


def lines(registry):
    return [line for line in registry.render().splitlines() if not line.startswith(("#", "wrapper_"))]


@pytest.fixture
def registry():
    return Registry()


def test_a_counter_starts_at_zero_and_adds_up(registry):
    counter = registry.add(Counter("jobs_total", "Jobs."))
    assert lines(registry) == ["jobs_total 0"]
    counter.inc()
    counter.inc(2.5)
    assert lines(registry) == ["jobs_total 3.5"]


def test_a_counter_gets_the_suffix_that_promtool_asks_for(registry):
    registry.add(Counter("jobs", "Jobs.")).inc()
    assert lines(registry) == ["jobs_total 1"]


@pytest.mark.parametrize("amount", [-1, math.nan])
def test_a_counter_only_rises(registry, amount):
    with pytest.raises(ValueError, match="cannot go up by"):
        registry.add(Counter("jobs", "Jobs.")).inc(amount)


def test_a_gauge_goes_up_and_down(registry):
    gauge = registry.add(Gauge("depth", "Depth.", ["queue"]))
    gauge.set(5, queue="mail")
    gauge.inc(queue="mail")
    gauge.dec(4, queue="mail")
    assert lines(registry) == ['depth{queue="mail"} 2']


@pytest.mark.parametrize("value", [pytest.param(10**400, id="huge"), None, object(), "text"])
def test_what_is_no_number_is_said_at_the_authors_line(registry, value):
    """One that came through would spoil the scrape, the wrapper's own numbers included."""
    counter, gauge, histogram = (
        registry.add(Counter("a", "A.")), registry.add(Gauge("b", "B.")), registry.add(Histogram("c", "C.")))
    for use in (counter.inc, gauge.set, gauge.inc, gauge.dec, histogram.observe):
        with pytest.raises((TypeError, ValueError)):
            use(value)
    assert registry.render()


def test_one_family_that_cannot_be_read_leaves_the_others_whole(registry, capfd):
    def fails():
        yield Family("before", "gauge", "Before.", [Sample((), 1)])
        raise KeyError("a fault")

    registry.collector(fails)
    registry.collector(lambda: [Family("odd", "gauge", "Odd.", [Sample((), "text")]),
                                Family("now", "gauge", "Now.", [Sample((), 7)])])
    assert lines(registry) == ["before 1", "now 7"]
    assert capfd.readouterr().err.count("error: ") == 2


def test_what_is_no_number_at_all_counts_above_every_bound(registry):
    """As Prometheus' own clients count NaN."""
    histogram = registry.add(Histogram("size", "Size.", buckets=[1, 2]))
    histogram.observe(math.nan)
    assert lines(registry)[:3] == ['size_bucket{le="1"} 0', 'size_bucket{le="2"} 0', 'size_bucket{le="+Inf"} 1']


def test_a_histogram_counts_up_to_and_with_each_bound(registry):
    """The exposition format's rules for histograms: cumulative, +Inf equals the count."""
    histogram = registry.add(Histogram("size", "Size.", buckets=[1, 2]))
    for value in (1, 1.5, 3):
        histogram.observe(value)
    assert lines(registry) == ['size_bucket{le="1"} 1', 'size_bucket{le="2"} 2', 'size_bucket{le="+Inf"} 3',
                               "size_sum 5.5", "size_count 3"]


@pytest.mark.parametrize("buckets", [[], [2, 1], [1, 1], [math.inf]])
def test_buckets_must_rise(registry, buckets):
    with pytest.raises(ValueError, match="must rise"):
        registry.add(Histogram("size", "Size.", buckets=buckets))


@pytest.mark.parametrize("name", ["", "1st", "with-dash", "ümlaut", "two words"])
def test_names_are_those_of_the_data_model(registry, name):
    """https://prometheus.io/docs/concepts/data_model/"""
    with pytest.raises(ValueError, match="no name for a metric"):
        registry.add(Gauge(name, "Odd."))


@pytest.mark.parametrize("label", ["le", "__name__", "a-b", ""])
def test_labels_are_those_of_the_data_model(registry, label):
    with pytest.raises(ValueError, match="no name for a label"):
        registry.add(Gauge("odd", "Odd.", [label]))


@pytest.mark.parametrize("words", [(["kind"],), (7,), ("Jobs.", "kind"), ("Jobs.", ["kind", 7])])
def test_what_is_no_help_text_is_said_at_the_authors_line(words):
    """Labels in its place cost the whole scrape, the wrapper's own metrics among them."""
    with pytest.raises(ValueError, match="then a list of the labels' names"):
        Counter("jobs", *words)


def test_names_of_the_wrapper_are_its_own(registry):
    with pytest.raises(ValueError, match="the wrapper's own"):
        registry.add(Gauge("wrapper_problems", "Mine."))


@pytest.mark.parametrize("given", [{}, {"other": "x"}, {"queue": "x", "other": "y"}])
def test_labels_must_be_those_that_were_named(registry, given):
    with pytest.raises(ValueError, match="label"):
        registry.add(Counter("jobs", "Jobs.", ["queue"])).inc(**given)


def test_the_same_metric_asked_for_again_is_the_same(registry):
    assert registry.add(Counter("jobs", "Jobs.")) is registry.add(Counter("jobs", "Jobs."))
    with pytest.raises(ValueError, match="already"):
        registry.add(Counter("jobs", "Jobs.", ["queue"]))
    with pytest.raises(ValueError, match="already"):
        registry.add(Gauge("jobs_total", "Jobs."))


def test_two_authors_of_one_metric_count_together(registry):
    """Also what was counted before the second one met the first."""
    first, second = Counter("jobs", "Jobs.", ["queue"]), Counter("jobs", "Jobs.", ["queue"])
    first.inc(queue="a")
    second.inc(2, queue="a")
    second.inc(queue="b")
    assert registry.add(first) is registry.add(second) is first
    second.inc(queue="b")
    first.inc(queue="b")
    assert lines(registry) == ['jobs_total{queue="a"} 3', 'jobs_total{queue="b"} 3']


def test_no_count_is_lost_while_two_metrics_become_one(registry):
    registry.add(Counter("jobs", "Jobs."))
    second = Counter("jobs", "Jobs.")
    threads = [threading.Thread(target=lambda: [second.inc() for _ in range(2000)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    registry.add(second)
    for thread in threads:
        thread.join()
    assert lines(registry) == ["jobs_total 6000"]


def test_a_gauge_is_what_it_was_set_to_by_whoever_came_first(registry):
    first, second = Gauge("depth", "Depth."), Gauge("depth", "Depth.")
    first.set(3)
    registry.add(first)
    registry.add(second)
    assert lines(registry) == ["depth 3"]


def test_buckets_that_differ_are_another_metric(registry):
    registry.add(Histogram("size", "Size.", buckets=[1, 2]))
    with pytest.raises(ValueError, match="already"):
        registry.add(Histogram("size", "Size.", buckets=[1]))


def test_values_are_escaped_as_the_format_says(registry):
    registry.add(Gauge("odd", "back\\slash\nnew line", ["path"])).set(1, path='a\\b"c\nd')
    text = registry.render()
    assert "# HELP odd back\\\\slash\\nnew line\n" in text
    assert 'odd{path="a\\\\b\\"c\\nd"} 1\n' in text


def test_a_lone_surrogate_does_not_spoil_the_scrape(registry):
    registry.add(Gauge("odd", "Odd.", ["path"])).set(1, path="\udcff")
    assert registry.render().encode()


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (3.0, "3"), (0.1, "0.1"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (1e300, "1e+300"),
    (2**53, "9007199254740992.0"), (True, "1")])
def test_numbers_are_written_as_go_reads_them(value, text):
    assert number(value) == text


def test_label_sets_over_the_limit_are_dropped_and_counted(registry):
    counter = registry.add(Counter("jobs", "Jobs.", ["user"]))
    for user in range(SERIES_MAX + 3):
        counter.inc(user=user)
    assert len(lines(registry)) == SERIES_MAX
    assert "wrapper_metric_series_dropped_total 3" in registry.render()


def test_collectors_are_asked_at_each_scrape(registry):
    registry.collector(lambda: [Family("now", "gauge", "Now.", [Sample((), 7)])])
    assert "now 7\n" in registry.render()


def test_one_scrape_is_made_at_a_time(registry):
    """Any client may ask for it: 64 that did nothing else made a relayed request take 1.8 s, where it takes 1 ms."""
    meeting, met = threading.Barrier(2), []

    def collect():
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(meeting.wait(0.1))
        return []

    registry.collector(collect)
    scrapes = [threading.Thread(target=registry.render) for _ in range(2)]
    for scrape in scrapes:
        scrape.start()
    for scrape in scrapes:
        scrape.join()
    assert met == []


def test_a_family_without_samples_is_left_out():
    assert render([Family("none", "gauge", "None.", [])]) == "\n"


def test_many_threads_lose_no_count(registry):
    counter = registry.add(Counter("jobs", "Jobs."))
    threads = [threading.Thread(target=lambda: [counter.inc() for _ in range(5000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines(registry) == ["jobs_total 20000"]


@pytest.mark.real
def test_promtool_finds_no_fault(registry):
    assert shutil.which("promtool"), "cannot check: apt-get install prometheus"
    registry.add(Counter("jobs", "Jobs.", ["queue"])).inc(queue="mail")
    registry.add(Histogram("job_duration_seconds", "How long.")).observe(0.2)
    registry.add(Gauge("depth", "Depth.")).set(math.nan)
    checked = subprocess.run(["promtool", "check", "metrics"], input=registry.render(), capture_output=True, text=True,
                             timeout=30)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not checked.stdout + checked.stderr
