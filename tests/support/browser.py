"""A browser for the tests of pages: whatever Chromium there is, without a word to anybody outside."""

import time
from typing import Any, Final

from axe_playwright_python.sync_playwright import Axe
from install_browser import chromium
from playwright.sync_api import Page, Request

__all__ = ["LAUNCH", "Watched"]

LAUNCH: Final[dict[str, Any]] = {
    "executable_path": chromium(),
    "args": [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-gpu",
        "--disable-quic",
        "--disable-sync",
        "--no-first-run",
    ],
}
"""How the browser is launched."""


_PATIENCE: Final = 60.0


class Watched:
    """A tab of the browser, and what went wrong or out in it.

    Attributes:
        page: The tab.
        problems: Errors of scripts, and what the console says of them.
        asked: The URL of every request.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        self.asked: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self._hear(message.type, message.text, message.location["url"]))
        page.on("request", self._ask)

    def _hear(self, kind: str, text: str, url: str) -> None:
        # The form to log in comes with 401, a server that is gone with nothing. plotly.js has a style for
        # maps, which no chart here needs, and which the page's policy keeps out.
        expected = "Failed to load resource" in text or ("inline style" in text and "plotly.min.js" in url)
        if kind == "error" and not expected:
            self.problems.append(text)

    def _ask(self, request: Request) -> None:
        self.asked.append(request.url)

    def barriers(self) -> list[str]:
        """Return what axe finds serious or critical: what keeps people from using the page."""
        return [
            f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}"
            for each in Axe().run(self.page).response["violations"]
            if each["impact"] in ("serious", "critical")
        ]

    def wait_until(self, expression: str) -> None:
        """Wait until an expression is true; Playwright's own way needs what the page's policy forbids."""
        deadline = time.monotonic() + _PATIENCE
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"not so within {_PATIENCE:g} s: {expression}"
            self.page.wait_for_timeout(100)

    def points(self, chart: str, series: int = 0) -> list[Any]:
        """Return the values that a series of a chart has."""
        values: list[Any] = self.page.evaluate(f"document.getElementById('{chart}').data[{series}].y")
        return values

    def term(self, group: str, name: str) -> str:
        """Return what a list of terms says of one."""
        shown = self.page.locator(f"#{group} dt", has_text=name).first.locator(
            "xpath=following-sibling::dd[1]"
        )
        return shown.inner_text()
