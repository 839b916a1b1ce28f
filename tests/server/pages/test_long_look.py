"""A page that is open for hours: it holds as much after hours as after minutes."""

from collections.abc import Iterator

import pytest
from _simulated_page import KEPT_SECONDS, SimulatedNode, simulated_node
from browser import LAUNCH, Watched
from playwright.sync_api import expect, sync_playwright

from hallmark.server.http.node_history import ROW_SECONDS

pytestmark = pytest.mark.timeout(600)

PATIENCE = 300_000
MOST_ROWS = KEPT_SECONDS // ROW_SECONDS


@pytest.fixture
def node() -> Iterator[SimulatedNode]:
    with simulated_node() as node:
        yield node


@pytest.fixture
def tab(node: SimulatedNode) -> Iterator[Watched]:
    with sync_playwright() as playwright, playwright.chromium.launch(**LAUNCH) as browser:
        tab = Watched(browser.new_page())
        tab.page.goto(f"{node.url}/poc")
        yield tab
        assert tab.problems == []


def look_until(tab: Watched, node: SimulatedNode, second: int) -> int:
    """Let the page come to a second; return how many elements it has then."""
    node.allowed = second
    expect(tab.page.locator("#round")).to_contain_text(f"{100 * (second - 1):,} nonces", timeout=PATIENCE)
    tab.wait_until(f"document.getElementById('rate').data[0].y.length >= {min(second // ROW_SECONDS, 180)}")
    elements: int = tab.page.evaluate("document.getElementsByTagName('*').length")
    return elements


def test_a_connection_that_ends_without_a_word_is_made_anew(node: SimulatedNode, tab: Watched) -> None:
    look_until(tab, node, 10)
    # Nothing is told any more, and nothing says why: as after a sleep.
    expect(tab.page.locator("#connection")).to_contain_text("No word from the server", timeout=PATIENCE)
    tab.wait_until("document.getElementById('connection').textContent === 'Live'")
    assert node.streams >= 2


@pytest.mark.parametrize("seconds", [1500, pytest.param(3600, marks=pytest.mark.slow)])
def test_hours_leave_no_more_on_the_page_than_minutes(
    node: SimulatedNode, tab: Watched, seconds: int
) -> None:
    early = look_until(tab, node, 950)
    late = look_until(tab, node, seconds)
    # An axis may have a tick more or less, with its line and its words.
    assert abs(late - early) < 40
    assert len(tab.points("rate")) <= 900 // ROW_SECONDS + 2
    # Shown whole, there is what the server said that it keeps, and no more.
    tab.page.get_by_label("3 hours").check()
    tab.wait_until("document.getElementById('rate').data[0].y.length > 200")
    assert len(tab.points("rate")) == MOST_ROWS
    assert node.streams == 1
