"""The page by axe-core's rules (WCAG 2.2 A and AA, and best practices), in every state that it has."""

from __future__ import annotations

import os
import signal

import pytest

from tests.browser.conftest import TOKEN, wrapped
from tests.browser.test_page import becomes, shows
from tests.running import service

pytestmark = pytest.mark.browser

HELPER = f"mail=/mail={' '.join(service('plain'))}"
LOOKS = {"light": {"color_scheme": "light"}, "dark": {"color_scheme": "dark"},
         "narrow": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}}}


def findings(page):
    from axe_playwright_python.sync_playwright import Axe  # as in conftest.py

    page.emulate_media(reduced_motion="reduce")  # a colour on its way is none
    found = Axe().run(page).response
    assert "color-contrast" in {one["id"] for one in found["passes"]}, "it has looked"
    return [(one["id"], node["html"][:120], node["failureSummary"]) for one in found["violations"]
            for node in one["nodes"]]


@pytest.mark.parametrize("look", LOOKS)
@wrapped("--token", TOKEN, "--capture-output", "--restart", "on-failure", "--backoff", "60s..60s", "--helper", HELPER)
def test_axe_finds_nothing(open_page, wrapper, complaints, look):
    page = open_page(**LOOKS[look])
    shows(page, "#state", "running")
    shows(page, "#helpers", "mail")
    wrapper.command("POST", "/sidecar/api/restart?wait=1&reason=a+test")
    shows(page, "#events", "Restarted in").click()
    assert findings(page) == []
    page.get_by_role("button", name="Restart", exact=True).click()
    assert findings(page) == []
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Escape")
    page.evaluate(f"keepToken('{TOKEN}')")
    os.kill(wrapper.status()["pid"], signal.SIGKILL)
    shows(page, "#state", "backoff")
    becomes(page, "refresh().then(() => document.querySelector('.problem') !== null)")
    page.locator("#timeline").focus()
    page.keyboard.press("ArrowLeft")
    assert findings(page) == []
    page.close()


@wrapped()
def test_axe_finds_nothing_where_the_wrapper_is_gone(page, wrapper, complaints):
    complaints.expected.append("ERR_")
    shows(page, "#no-actions", "No token is configured")
    assert findings(page) == []
    wrapper.end(signal.SIGTERM)
    shows(page, "#state", "no answer")
    assert findings(page) == []
    page.close()
