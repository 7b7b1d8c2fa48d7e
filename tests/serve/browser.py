"""A real browser on the explorer's page; every message of its console is an error of the test."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(os.environ.get("REGARD_AXE", "nowhere"))
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@contextmanager
def browser():
    """The system's Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


class Page:
    """The page at an address, as somebody sees it."""

    def __init__(self, chromium, address, **context):
        self.context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page, self.address, self.said = self.context.new_page(), address, []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def open(self, **state):
        """The page in a state, once its view is drawn."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}/#{urlencode(state, doseq=True)}")
        return self.drawn(state.get("view", "process"))

    def drawn(self, view=None):
        """Once the view is there and nothing is asked any more."""
        name = "[data-shown]" if view is None else f'[data-shown="{view}"]'
        self.page.wait_for_selector(f".view{name}:not([aria-busy])")
        return self

    def state(self):
        """What stands in the address."""
        return self.page.evaluate("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")

    def text(self, selector):
        return self.page.locator(selector).first.inner_text()

    def close(self):
        self.context.close()
        assert self.said == []
