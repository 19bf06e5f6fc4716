"""dashboard.html in a real browser: what is on it, that it lives, and that it does what its buttons say."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.browser.conftest import TOKEN, wrapped
from tests.running import Wrapper, service, wait_until

pytestmark = pytest.mark.browser

UNAUTHORIZED = "401 (Unauthorized)"  # the browser itself writes a line for every such answer
HIDE = """() => { Object.defineProperty(document, "hidden", {get: () => true, configurable: true});
                  document.dispatchEvent(new Event("visibilitychange")); }"""
NAMELESS = """() => [...document.querySelectorAll("button, input, svg, section, dialog, [tabindex]")].filter(one =>
    !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.textContent.trim()
      || one.labels && one.labels.length)).map(one => one.outerHTML.slice(0, 100))"""


def shows(page, selector, text):
    """Wait until an element holds a text; a pattern where it is compiled."""
    found = page.locator(selector, has_text=text).first
    found.wait_for()
    return found


def becomes(page, expression):
    """Wait until it is true in the page; playwright's own way needs eval(), which the policy forbids."""
    wait_until(lambda: page.evaluate(expression), what=expression)


def confirm(page, button, token=None):
    page.get_by_role("button", name=button, exact=True).click()
    if token is not None:
        page.get_by_label("Token").fill(token)
    page.locator("#confirm").click()


def test_it_shows_the_state_why_and_since_when(page, wrapper):
    shows(page, "#state", "running")
    shows(page, "#age", re.compile(r"^for \d+ s, since \d\d:\d\d:\d\d$"))
    shows(page, "#facts", f"pid {wrapper.status()['pid']}")
    shows(page, "#no-problems", "none")
    shows(page, "#events", "starting \u2192 running")
    shows(page, "#link", "live")
    assert page.title().startswith("running")


def test_numbers_move_under_load(page, wrapper):
    assert shutil.which("wrk"), "cannot make load: apt-get install wrk"
    rate, latency = page.locator(".plot-head").nth(0).locator("b"), page.locator(".plot-head").nth(1).locator("b")
    shows(page, ".plot-head b", "0")
    load = subprocess.Popen(["wrk", "-t1", "-c4", "-d6s", f"http://127.0.0.1:{wrapper.port}/"],
                            stdout=subprocess.DEVNULL)
    try:
        rate.first.filter(has_text=re.compile(r"^([1-9]\d+|\d+\.\d k)")).wait_for()
        latency.first.filter(has_text="ms").wait_for()
        shows(page, ".plot-head b", re.compile("^[1-4]$"))
        assert page.locator("#plots svg").first.locator("path.stroke").count() >= 1
        assert re.match(r"Requests per second: all \d", page.locator("#plots svg").first.get_attribute("aria-label"))
    finally:
        load.wait()


def test_a_page_opened_later_knows_the_minutes_before(open_page, wrapper):
    for _ in range(50):
        wrapper.get("/")
    page = open_page()
    becomes(page, "model.samples.some(sample => sample.rate > 0)")


def test_restart_asks_for_the_token_and_marks_the_restart(page, wrapper, complaints):
    complaints.expected.append(UNAUTHORIZED)
    before = wrapper.status()["generation"]
    confirm(page, "Restart", "wrong")
    shows(page, "#dialog-fault", "The token is wrong.")
    page.get_by_label("Reason").fill("new certificates")
    page.get_by_label("Token").fill(TOKEN)
    page.locator("#confirm").click()
    page.locator("#dialog").wait_for(state="hidden")
    shows(page, "#events", "new certificates (asked by 127.0.0.1)")
    becomes(page, f"model.status.generation === {before + 1} && model.status.state === 'running'")
    page.locator("#plots .flag.mark-restart").first.wait_for()
    page.locator("#timeline .flag.mark-restart").first.wait_for()


def test_the_token_is_kept_by_the_page_alone(page):
    """What the service's own pages can read, such as sessionStorage, is no place for it: they have the same origin."""
    confirm(page, "Restart", TOKEN)
    page.locator("#dialog").wait_for(state="hidden")
    page.get_by_role("button", name="Restart", exact=True).click()
    assert page.locator("#token-field").is_hidden()
    page.locator("#cancel").click()
    assert page.evaluate("sessionStorage.length + localStorage.length + document.cookie.length") == 0
    page.locator("#forget").click()
    page.get_by_role("button", name="Restart", exact=True).click()
    assert page.locator("#token-field").is_visible()
    page.get_by_label("Token").fill(TOKEN)
    page.locator("#confirm").click()
    page.locator("#dialog").wait_for(state="hidden")
    page.reload()
    shows(page, "#state", "running")
    page.get_by_role("button", name="Restart", exact=True).click()
    assert page.locator("#token-field").is_visible()


def test_an_answer_that_is_no_list_of_problems_is_survived(page):
    page.route("**/api/problems", lambda route: route.fulfill(json={"error": "somebody in between"}))
    page.reload()
    shows(page, "#state", "running")
    shows(page, "#link", "live")


def test_stop_and_start(page, wrapper):
    shows(page, "#state", "running")
    assert page.locator("#start").is_disabled()
    confirm(page, "Stop", TOKEN)
    shows(page, "#state", "stopped")
    assert page.locator("#stop").is_disabled()
    assert wrapper.request("GET", "/")[0] == 503
    confirm(page, "Start")
    shows(page, "#state", "running")


def test_a_call_that_is_called_off_does_nothing(page, wrapper):
    shows(page, "#state", "running")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.keyboard.press("Escape")
    page.locator("#dialog").wait_for(state="hidden")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.locator("#cancel").click()
    page.locator("#dialog").wait_for(state="hidden")
    assert wrapper.status()["state"] == "running"


@wrapped("--token", TOKEN, "--capture-output", "--restart", "on-failure", "--backoff", "60s..60s")
def test_a_problem_appears_and_goes(page, wrapper):
    shows(page, "#no-problems", "none")
    os.kill(wrapper.status()["pid"], signal.SIGKILL)
    shows(page, "#state", "backoff")
    shows(page, "#problem-list", "is told with the token")
    page.locator("#tell").click()
    page.get_by_label("Token").fill(TOKEN)
    page.locator("#confirm").click()
    shows(page, "#problem-list", "the service ended by itself with status 137")
    assert page.locator("#tell").is_hidden()
    page.locator("#timeline .flag.mark-crash").first.wait_for()
    assert wrapper.command("POST", "/sidecar/api/start")[0] == 202
    shows(page, "#state", "running")
    page.locator("#no-problems").wait_for()
    shows(page, "#events", "problem gone: the service ended by itself with status 137")


def test_the_last_output_needs_the_token_and_goes_on(page, wrapper):
    page.locator("#output-toggle").click()
    page.get_by_label("Token").fill(TOKEN)
    page.locator("#confirm").click()
    os.kill(wrapper.status()["pid"], signal.SIGUSR1)
    shows(page, "#output", f"signal {int(signal.SIGUSR1)}")
    page.locator("#output-toggle").click()
    assert page.locator("#output").is_hidden()


def test_it_survives_a_restart_of_the_wrapper(page, wrapper, complaints):
    complaints.expected += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET",
                            "ERR_EMPTY_RESPONSE", "ERR_SOCKET_NOT_CONNECTED", "ERR_NETWORK_CHANGED"]
    shows(page, "#state", "running")
    wrapper.end(signal.SIGTERM)
    shows(page, "#state", "no answer")
    shows(page, "#link", "cannot reach the wrapper")
    assert page.locator("#restart").is_disabled(), "nobody would hear of it"
    again = Wrapper("--listen", f"127.0.0.1:{wrapper.port}", command=service("plain"), wait=False)
    again.port = wrapper.port
    with again:
        again.wait_state("running")
        shows(page, "#state", "running")
        shows(page, "#link", "live")
        shows(page, "#facts", f"pid {again.status()['pid']}")
        becomes(page, "document.querySelector('#events').textContent.split('first start').length === 3")  # both runs
        page.close()


def test_text_is_never_markup(page, wrapper):
    wrapper.command("POST", "/sidecar/api/restart?wait=1&reason=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    shows(page, "#events", "<img src=x onerror=alert(1)>")
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("width", [320, 390, 760, 1200, 1900])
def test_it_fits_every_width(open_page, width):
    page = open_page(viewport={"width": width, "height": 800})
    shows(page, "#state", "running")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_it_is_dark_where_that_is_wanted(open_page, scheme, is_dark):
    page = open_page(color_scheme=scheme)
    red = int(re.search(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[0])
    assert (red < 60) is is_dark


def test_the_keyboard_is_enough(page, wrapper):
    shows(page, "#state", "running")
    page.locator("#restart").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Token").wait_for()
    assert page.evaluate("document.activeElement.id") == "token"
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    page.locator("#dialog").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.id") == "restart", "focus goes back to where it was"


def test_a_screen_reader_finds_names_and_hears_what_changes(page, wrapper):
    shows(page, "#state", "running")
    becomes(page, "document.querySelector('#plots svg').getAttribute('aria-label')")
    assert page.evaluate(NAMELESS) == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1
    wrapper.command("POST", "/sidecar/api/restart?wait=1")
    shows(page, "#announce[aria-live=polite]", "starting \u2192 running")


def test_nothing_is_asked_while_nobody_looks(page):
    shows(page, "#link", "live")
    page.evaluate(HIDE)
    shows(page, "#link", "paused")
    page.wait_for_timeout(100)  # what was under way when it was hidden
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)  # more than two beats
    assert asked == []


# Which service, and what became of it


def test_it_says_which_service_this_is(page, wrapper):
    status = wrapper.status()
    for fact in (status["command"], status["upstream"], "replace", status["host"], status["version"]):
        shows(page, "#identity", fact)
    shows(page, "#command", status["command"])
    assert wrapper.folder not in page.locator("#identity").text_content()


def test_one_row_for_one_restart_unfolds_into_its_steps(page, wrapper):
    wrapper.command("POST", "/sidecar/api/restart?wait=1&reason=deploying+the+hotfix")
    said = re.compile(r"^Restarted in \d+\.\d s: deploying the hotfix .*; 0 held, 0 failed$")
    row = shows(page, "#events summary", said)
    assert not page.get_by_text("running \u2192 draining", exact=True).is_visible()
    row.click()
    page.get_by_text("running \u2192 draining", exact=True).wait_for()
    page.get_by_text("ended with exit 0, as planned", exact=True).wait_for()
    becomes(page, "marks().map(one => one.kind).join() === 'restart'")


def test_a_crash_that_healed_stays_told_and_is_counted_apart(page, wrapper):
    shows(page, "#facts", "Crashes0")
    os.kill(wrapper.status()["pid"], signal.SIGKILL)
    wait_until(lambda: wrapper.status()["crashes"] == 1)
    shows(page, "#state", "running")
    shows(page, "#healed", re.compile(r"^Crashed \d+ s ago, signal KILL$"))
    shows(page, "#facts", "Planned restarts0Crashes1")
    shows(page, "#events summary", re.compile(r"^Crashed, signal KILL; back after \d+\.\d s; 0 held, 0 failed$"))
    assert page.evaluate("marks().map(one => one.kind)") == ["crash"], "the start after it is no mark over it"
    page.evaluate("model.status.last_crash.at = new Date(Date.now() - 3700e3).toISOString(); showAges()")
    assert page.locator("#healed").is_hidden(), "after an hour it is no news"


# What each frame paints of the ages, as seconds; null where one is empty.
WATCH_AGES = """() => {
    window.painted = [];
    const look = () => {
        const ages = [...document.querySelectorAll("#age, [data-since]")].filter(one => one.checkVisibility());
        painted.push(ages.map(one => Number((/(\\d+) s/.exec(one.textContent) || [0, null])[1])));
        requestAnimationFrame(look);
    };
    look();
}"""


@wrapped("--token", TOKEN, "--restart", "on-failure", "--backoff", "60s..60s",
         "--helper", f"mail=/mail={' '.join(service('plain'))}")
def test_ages_grow_and_never_blink(page, wrapper):
    """While all that they stand in is asked for again and again, and the wrapper is reached fast and slowly in turn."""
    shows(page, "#helpers .running", "running")
    page.evaluate(f"keepToken('{TOKEN}')")
    os.kill(wrapper.status()["pid"], signal.SIGKILL)
    shows(page, "#problem-list [data-since]", "for")
    shows(page, "#healed", "Crashed")
    page.evaluate(WATCH_AGES)
    for turn in range(40):
        page.evaluate("Promise.all([refresh(), look()])")
        page.wait_for_timeout(50)
        page.unroute_all()
        if turn % 2:
            page.route("**/api/traffic?*", slowly)
    page.unroute_all(behavior="wait")
    painted = page.evaluate("painted")
    assert {len(ages) for ages in painted} == {4}, "of the state, the crash, the problem and the helper"
    assert [ages for ages in painted if None in ages] == []
    assert all(younger <= older for before, after in zip(painted, painted[1:]) for younger, older in zip(before, after))
    assert all(last > first for first, last in zip(painted[0], painted[-1]))


def slowly(route):
    time.sleep(.3)  # of the network
    route.continue_()


@wrapped("--token", TOKEN, "--capture-output", "--restart", "on-failure", "--backoff", "60s..60s",
         command=["sh", "-c", f"echo no such table >&2; exec {' '.join(service('plain'))}"])
def test_the_problem_of_a_crash_shows_the_last_output(page, wrapper):
    shows(page, "#state", "running")
    page.evaluate(f"keepToken('{TOKEN}')")
    os.kill(wrapper.status()["pid"], signal.SIGKILL)
    shows(page, ".problem pre", "no such table")


def test_a_restart_that_overlaps_is_told_while_it_happens(open_page, tmp_path):
    begin = tmp_path / "begin"
    start = f"[ ! -e {begin} ] || read line <{begin}; exec {' '.join(service('plain'))}"
    with Wrapper("--token", TOKEN, "--restart-mode", "overlap", command=["sh", "-c", start]) as wrapper:
        os.mkfifo(begin)
        page = open_page(at=wrapper)
        page.get_by_role("button", name="Restart", exact=True).click()
        shows(page, "#dialog-text", "A second run is started beside this one and takes over when it is ready")
        page.get_by_label("Token").fill(TOKEN)
        page.locator("#confirm").click()
        said = r"^Starting the next run, pid \d+, for \d+ s; this one serves until that is ready.$"
        shows(page, "#next", re.compile(said))
        shows(page, "#events", "starting the next run, pid")
        shows(page, "#state", "running")
        begin.write_text("go\n")
        shows(page, "#why", re.compile(r"the next run, ready after \d+\.\d s, took over"))
        shows(page, "#events summary", "Restarted in")
        assert page.locator("#next").is_hidden()
        page.close()


def test_a_pause_is_shown_for_as_long_as_it_lasts(page, wrapper):
    assert wrapper.command("POST", "/sidecar/api/pause?reason=a+migration")[0] == 200
    shows(page, "#why", "every request is held: a migration")
    assert wrapper.command("POST", "/sidecar/api/resume")[0] == 200
    becomes(page, "document.querySelector('#why').textContent === ''")


def test_the_time_line_begins_with_the_wrapper(page, wrapper):
    """It must not show a day of "stopped" where the first event told of no state."""
    shows(page, "#state", "running")
    page.get_by_label("24 h").check()
    page.evaluate("""() => { for (const one of model.events) one.id += 1;
                             model.events.unshift({...model.events[0], id: 1, kind: "problem"}); paint(); }""")
    assert page.evaluate("now() - segments('service')[0].from") < 60
    widths = page.evaluate("[...document.querySelectorAll('#timeline .segment')].map(one => one.getBBox().width)")
    assert max(widths) < 10


def test_the_time_line_is_reached_by_keys(page):
    shows(page, "#state", "running")
    line = page.locator("#timeline")
    assert line.get_attribute("aria-valuetext") == "running"
    line.focus()
    page.keyboard.press("ArrowLeft")
    shows(page, "#readout", re.compile(r"^\d\d:\d\d:\d\d \u00b7 "))
    page.keyboard.press("Home")
    shows(page, "#readout", "unknown")
    becomes(page, "document.querySelector('#timeline').getAttribute('aria-valuenow') === '0'")
    page.keyboard.press("Escape")
    becomes(page, "document.querySelector('#readout').textContent === ''")


def test_the_time_line_is_reached_by_touch(open_page):
    page = open_page(has_touch=True, viewport={"width": 390, "height": 844})
    shows(page, "#state", "running")
    page.locator("#timeline .segment.running").tap()  # once it stands still, wherever what is above it has pushed it
    shows(page, "#readout", "running")
    page.touchscreen.tap(200, 60)
    becomes(page, "document.querySelector('#readout').textContent === ''")


def test_what_is_unknown_once_the_wrapper_is_gone_is_drawn_and_said_so(page, wrapper, complaints):
    complaints.expected.append("ERR_")
    shows(page, "#state", "running")
    wrapper.end(signal.SIGTERM)
    shows(page, "#why", "The wrapper has ended. What the service does now is unknown;")
    page.locator("#timeline .segment.unknown").wait_for()
    becomes(page, "[...document.querySelectorAll('#facts dd')].every(one => one.textContent === 'unknown')")
    shows(page, "#no-problems", "unknown")
    page.close()


def test_times_are_local_or_utc_and_say_so(open_page):
    page = open_page(timezone_id="Asia/Kolkata")
    shows(page, "#zones", "local, UTC+5:30")
    local = shows(page, "#age", re.compile("since")).text_content()[-8:]
    page.get_by_label("UTC", exact=True).check()
    utc = page.locator("#age").text_content()[-8:]
    assert (int(local[:2]) * 60 + int(local[3:5]) - int(utc[:2]) * 60 - int(utc[3:5])) % 1440 == 330
    shows(page, "#events time", utc)


@wrapped()
def test_what_the_settings_rule_out_is_said_at_once(page):
    shows(page, "#no-actions", "No token is configured, so nothing can be done from here")
    for button in ("#start", "#restart", "#stop", "#output-toggle"):
        assert page.locator(button).get_attribute("aria-disabled") == "true"
    shows(page, "#output-note", "Not kept: start the wrapper with --capture-output.")
    page.locator("#restart").click(force=True)
    assert page.locator("#dialog").is_hidden()


@wrapped("--token", TOKEN, "--hold", "0", "--drain-timeout", "1500ms", "--stop-timeout", "7s")
def test_dialogs_promise_what_the_settings_say(page):
    page.get_by_role("button", name="Restart", exact=True).click()
    shows(page, "#dialog-text", "get 1.5 s before the stop signal")
    shows(page, "#dialog-text", "7 s after it the service is killed. New requests get 503 until it is ready.")
    page.keyboard.press("Escape")


@wrapped("--token", TOKEN, "--helper", f"mail=/mail={' '.join(service('plain'))}")
def test_a_helper_is_stopped_and_started_and_stands_in_the_time_line(page, wrapper):
    shows(page, "#helpers .running", "running")
    assert page.get_by_role("button", name="Start mail", exact=True).get_attribute("aria-disabled") == "true"
    page.get_by_role("button", name="Stop mail").click()
    page.get_by_label("Token").fill(TOKEN)
    page.locator("#confirm").click()
    shows(page, "#helpers .stopped", "stopped")
    shows(page, "#timeline text", "mail")
    page.locator("#timeline .segment.stopped").first.wait_for()
    page.get_by_role("button", name="Start mail", exact=True).click()
    page.locator("#confirm").click()
    shows(page, "#helpers .running", "running")
    assert wrapper.status()["generation"] == 1


def test_applied_and_rejected_configuration_differ_and_stand_above_the_fold(open_page, tmp_path):
    source = tmp_path / "source"
    source.write_text("good")
    options = ("--config-source", str(source), "--config-file", str(tmp_path / "file"),
               "--config-check", "grep -q good {file}", "--config-action", "signal:HUP",
               "--config-interval", "100ms", "--config-min-interval", "0s")
    with Wrapper(*options, command=service("plain")) as wrapper:
        page = open_page(at=wrapper, viewport={"width": 1440, "height": 900})
        shows(page, "#config", "applied")
        box = page.locator("#config").bounding_box()
        assert box["y"] + box["height"] < 900
        source.write_text("good too")
        page.locator("#timeline .mark-applied").first.wait_for()
        source.write_text("bad")
        page.locator("#timeline .mark-rejected").first.wait_for()
        shows(page, "#legend", "configuration rejected")
        page.close()
