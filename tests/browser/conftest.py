"""Debian's Chromium, driven by playwright; a page that complains or asks another host fails its test."""

from __future__ import annotations

import shutil

import pytest

from tests.running import Wrapper, service

CHROMIUM = "chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
TOKEN = "sesame"


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright  # the plain run collects these tests without having it

    program = shutil.which(CHROMIUM)
    assert program, "cannot drive the page: apt-get install chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


OPTIONS = ("--token", TOKEN, "--capture-output", "--restart", "on-failure", "--backoff", "2s..2s")


@pytest.fixture
def wrapper(request):
    """With `OPTIONS` before the plain service, or as a test's parameter has it: (options, command)."""
    options, command = getattr(request, "param", (OPTIONS, service("plain")))
    with Wrapper(*options, command=command) as wrapper:
        yield wrapper


def wrapped(*options, command=()):
    """A test's own `wrapper`."""
    return pytest.mark.parametrize("wrapper", [(options, command or service("plain"))], indirect=True, ids=["own"])


class Complaints:
    """What a page must not do; a test that expects an answer of 401 or a broken connection says so."""

    def __init__(self) -> None:
        self.expected: list[str] = []
        self.found: list[str] = []

    def watch(self, page, host):
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("console", lambda line: self.found.append(f"console: {line.text}") if line.type in ("error", "warning")
                else None)
        page.on("request", lambda request: self.found.append(f"another host: {request.url}")
                if not request.url.startswith((f"http://{host}/", "data:")) else None)

    def unexpected(self):
        return [line for line in self.found if not any(text in line for text in self.expected)]


@pytest.fixture
def complaints():
    return Complaints()


@pytest.fixture
def open_page(browser, wrapper, complaints):
    """A page on a wrapper's dashboard; other keywords go to the browser's context."""
    contexts = []

    def open_it(at=wrapper, **options):
        context = browser.new_context(viewport=options.pop("viewport", {"width": 1200, "height": 1000}), **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        host = f"127.0.0.1:{at.port}"
        complaints.watch(page, host)
        page.goto(f"http://{host}/sidecar/")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert complaints.unexpected() == []


@pytest.fixture
def page(open_page):
    return open_page()
