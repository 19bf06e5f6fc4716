"""Every figure of the page against the truth of a scripted load, as its clients have measured it."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time

import pytest

from tests.browser.conftest import wrapped
from tests.running import service, wait_until

pytestmark = pytest.mark.browser

BUCKET = 1 / 20  # decades, of the time to the first byte, see traffic.FINE_TIMES
UNITS = {"ms": .001, "s": 1, "MiB": 2 ** 20, "GiB": 2 ** 30, "": 1}


class Load:
    """Requests at the same time, and how long each took its client."""

    def __init__(self, wrapper):
        self._wrapper = wrapper
        self.times = []

    def run(self, *paths):
        return [self._start(path) for path in paths]

    def _start(self, path):
        def ask():
            began = time.monotonic()
            self._wrapper.request("GET", path)
            self.times.append(time.monotonic() - began)

        thread = threading.Thread(target=ask)
        thread.start()
        return thread

    def held(self, *paths):
        """The same, held at first until all of them are; the longest wait."""
        assert self._wrapper.command("POST", "/sidecar/api/pause?for=20s")[0] == 200
        began = time.monotonic()
        threads = self.run(*paths)
        wait_until(lambda: self._wrapper.status()["held"] == len(paths))
        time.sleep(max(0.0, 1.2 - (time.monotonic() - began)))  # what is measured
        self._wrapper.command("POST", "/sidecar/api/resume")
        waited = time.monotonic() - began
        return threads, waited


def figures(page, title):
    """What stands beside the names of a plot's lines."""
    head = page.locator(".plot-head", has=page.get_by_role("heading", name=title, exact=True))
    names = [text.strip() for text in head.locator("small").all_text_contents()]
    return dict(zip(names, head.locator("b").all_text_contents()))


def number(text):
    value, unit = re.fullmatch(r"([\d.]+)(?: (\w+))?", text).groups()
    return float(value) * UNITS[unit or ""]


def is_near(shown, truth, buckets=1.0):
    return abs(math.log10(number(shown) / truth)) <= (buckets + .5) * BUCKET  # a bucket is shown as its middle


def note(page, title):
    section = page.locator("section", has=page.get_by_role("heading", name=title, exact=True))
    return section.locator(".note").text_content()


@wrapped("--token", "sesame", command=service("timed"))
def test_every_figure_is_true_and_known_after_a_reload(page, wrapper):
    load = Load(wrapper)
    threads, waited = load.held(*["/0.3/200"] * 10)
    for thread in threads:
        thread.join()
    threads = load.run(*["/0.25/404"] * 3, *["/0.25/500"] * 2, *["/0.6/200"] * 5, "/2.0/200")
    for thread in threads:
        thread.join()
    for _ in range(2):
        wait_until(lambda: page.evaluate("model.samples.reduce((sum, one) => sum + one.requests, 0)") == 21)
        wait_until(lambda: "in flight 0 to" in note(page, "Requests under way"))
        times = sorted(load.times)
        shown = figures(page, "Time to first byte")
        assert is_near(shown["p50"], times[10])
        assert is_near(shown["p99"], times[-1])
        assert is_near(shown["longest"], times[-1], .5)
        assert is_near(figures(page, "Time held")["longest"], waited)
        ranges = dict(re.findall(r"([\w ]+?) 0 to (\d+)", note(page, "Requests under way").replace(" \u00b7 ", "\n")))
        assert int(ranges["held"].strip()) == 10
        assert int(ranges["in flight"].strip()) in (10, 11)
        for key, count in (("rate", 21), ("denied", 3), ("errors", 2)):
            total = page.evaluate(f"model.samples.reduce((sum, one) => sum + one.{key} * one.seconds, 0)")
            assert total == pytest.approx(count)
        (highest,) = re.findall(r"5xx 0 to ([\d.]+)", note(page, "Requests per second"))
        most = page.evaluate("Math.max(...model.samples.map(one => one.errors))")
        assert float(highest) == pytest.approx(most, abs=.051)
        assert is_near(figures(page, "Memory")["service"], resident(wrapper.status()["pid"]), 2)
        assert is_near(figures(page, "Memory")["wrapper"], resident(wrapper.process.pid), 2)
        page.reload()


BURNS = """
import time
while True:
    end = time.process_time() + .02
    while time.process_time() < end:
        pass
    time.sleep(.06)  # a quarter of one processor is used
"""


@wrapped(command=["sh", "-c", '"$0" -c "$1" & shift; exec "$@"', sys.executable, BURNS, *service("plain")])
def test_the_processor_shown_is_what_the_kernel_says_of_the_service_and_its_children(page, wrapper):
    service_cores = "model.samples.filter(one => one.service_cores != null).map(one => [one.time, one.service_cores])"
    truth = [(time.time(), spent(wrapper.status()["pid"]))]
    while len(shown := page.evaluate(service_cores)) < 3:
        assert time.time() < truth[0][0] + 40, shown
        time.sleep(.1)  # the truth is looked at ten times a second
        truth.append((time.time(), spent(wrapper.status()["pid"])))
    for (began, _), (ended, cores) in zip(shown, shown[1:]):
        (first, before), (last, after) = near(truth, began), near(truth, ended)
        assert after - before > .2 and cores == pytest.approx((after - before) / (last - first), rel=.15)
    said = figures(page, "Processor")["service"]
    assert float(said.rstrip(" %")) / 100 == pytest.approx(shown[-1][1], abs=.006)
    assert f"Service uses{said}" in page.locator("#facts").text_content()


def near(truth, moment):
    return min(truth, key=lambda one: abs(one[0] - moment))


def spent(pid):
    """Processor seconds of a process and its children (proc(5): fields 14 and 15 of stat, in ticks)."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        pids = [pid, *file.read().split()]
    total = 0
    for one in pids:
        with open(f"/proc/{one}/stat") as file:
            total += sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def resident(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096
