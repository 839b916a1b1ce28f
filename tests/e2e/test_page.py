"""The live pages of a real server and of a receiver in a browser, through a whole round."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from browser import LAUNCH, Watched
from node import Node, Receiver, proof, round_request, running_node
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

KEY = "a token of the tests"
MARKUP = '<a href="%">x</a>'
"""A key that would be markup, where anything took it for that."""

PATIENCE = 60_000
"""Milliseconds: what a page shows comes within seconds, and the machine may be busy."""

SIZES = [("light", 1400), ("dark", 1400), ("light", 400), ("dark", 400)]
PICTURES: Final = os.environ.get("HALLMARK_PICTURES")
"""Where the quickstart's pictures go; `make pictures` sets it."""


@pytest.fixture(scope="module")
def guarded(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A server that asks for a token; the last test here ends it."""
    log = tmp_path_factory.mktemp("page") / "server.log"
    with running_node(small_model, log, "--enforce-eager", HALLMARK_API_KEY=KEY) as node:
        node.http.headers["Authorization"] = f"Bearer {KEY}"
        yield node


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright, playwright.chromium.launch(**LAUNCH) as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser) -> Iterator[Watched]:
    """A tab of an empty browser, which asks no machine but this one and whose scripts make no mistake."""
    with browser.new_context(viewport={"width": 1400, "height": 900}) as context:
        context.set_default_timeout(PATIENCE)
        tab = Watched(context.new_page())
        yield tab
        assert tab.problems == []
        assert {urlsplit(url).hostname for url in tab.asked} <= {"127.0.0.1"}


def log_in(tab: Watched, node: Node, token: str = KEY) -> None:
    """As a person does who has no mouse."""
    tab.page.goto(f"{node.url}/poc")
    expect(tab.page.get_by_label("Token of the control routes")).to_be_focused()
    tab.page.keyboard.type(token)
    tab.page.keyboard.press("Enter")


def number(text: str) -> int:
    return int(text.split()[0].replace(",", ""))


def picture(shown: Page | Locator, name: str) -> None:
    """Take a picture of what is shown for the quickstart, where that is wanted."""
    if PICTURES is not None:
        shown.screenshot(path=Path(PICTURES, f"{name}.png"))


def test_a_wrong_token_is_kept_out_and_the_right_one_lets_in(tab: Watched, guarded: Node) -> None:
    log = guarded.process.log
    assert log is not None
    said = f"hallmark: look at it: {guarded.url}/poc\n"
    # The command asks the server now and then whether it is ready.
    guarded.process.wait_until(lambda: said in log.read_text(errors="replace"), seconds=60)
    log_in(tab, guarded, "another token")
    expect(tab.page.get_by_role("alert")).to_have_text("This is not the token.")
    assert tab.barriers() == []
    log_in(tab, guarded)
    expect(tab.page.locator("#state")).to_have_text("IDLE", timeout=PATIENCE)
    tab.page.get_by_role("button", name="Log out").click()
    expect(tab.page.get_by_label("Token of the control routes")).to_be_focused()
    tab.page.goto(f"{guarded.url}/poc")
    expect(tab.page.get_by_label("Token of the control routes")).to_be_visible()


def test_the_cookie_of_a_session_starts_no_round(tab: Watched, guarded: Node) -> None:
    log_in(tab, guarded)
    expect(tab.page.locator("#connection")).to_have_text("Live", timeout=PATIENCE)
    [cookie] = tab.page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/poc")
    started = tab.page.request.post(
        f"{guarded.url}/api/v1/pow/init/generate",
        data=json.dumps(round_request()),
        headers={"Cookie": f"{cookie['name']}={cookie['value']}"},
    )
    assert started.status == 401
    assert guarded.status()["state"] == "IDLE"
    assert tab.page.evaluate("document.cookie") == ""


def test_a_round_is_seen_from_its_first_nonce_to_its_verdicts(
    tab: Watched, guarded: Node, receiver: Receiver
) -> None:
    log_in(tab, guarded)
    expect(tab.page.locator("#state")).to_have_text("IDLE", timeout=PATIENCE)
    round_ = round_request(valid_rate=0.5, fraud_threshold=1e-7, callback_url=receiver.url)
    guarded.poc("/init/generate", round_)
    expect(tab.page.locator("#state")).to_have_text("GENERATING", timeout=PATIENCE)
    before = number(tab.term("round", "Checked"))
    expect(tab.page.locator("#round")).not_to_contain_text(f"{before:,} nonces", timeout=PATIENCE)
    assert number(tab.term("round", "Checked")) > before, "numbers move"
    expect(tab.page.locator("#inference")).to_contain_text("refused while the round generates")
    tab.wait_until("document.getElementById('rate').data[0].y.some(rate => rate > 0)")
    # So many that the law can be seen in them, and that the charts have some rows.
    guarded.wait_for(lambda status: status["total_valid"] >= 500)
    assert tab.barriers() == []
    picture(tab.page, "page-generating")
    guarded.poc("/stop")
    check_round(tab, guarded)

    found = guarded.status()
    claims = found["valid_nonces"][:32], found["valid_distances"][:32]
    guarded.poc("/init/validate", round_)
    honest = guarded.poc("/validate", proof(round_, *claims))
    forged = guarded.poc("/validate", proof(round_, claims[0], [1.38] * 32, public_key="a thief"))
    check_verdicts(tab, [forged, honest])
    check_inference(tab, guarded)
    assert tab.barriers() == []
    picture(tab.page.locator("section", has=tab.page.locator("#verdicts")), "page-verdicts")

    receiver.wait_for("validated", lambda bodies: len(bodies) == 2)
    check_receiver(tab, receiver)
    guarded.poc("/stop")


def check_round(tab: Watched, node: Node) -> None:
    """The page has the very numbers of `/status`, in words and in charts."""
    expect(tab.page.locator("#state")).to_have_text("STOPPED", timeout=PATIENCE)
    status = node.status()
    expect(tab.page.locator("#round")).to_contain_text(f"{status['total_checked']:,} nonces")
    assert number(tab.term("round", "Checked")) == status["total_checked"]
    assert number(tab.term("round", "Valid")) == status["total_valid"]
    counted = "document.getElementById('numbers').data[0].y.reduce((sum, each) => sum + each, 0)"
    tab.wait_until(f"{counted} === {status['total_checked']}")
    # Half of the nonces count: the upper half of the law's bins.
    assert sum(tab.points("numbers")[20:]) == status["total_valid"]
    assert sum(tab.points("numbers", 1)) == pytest.approx(status["total_checked"], rel=1e-3)
    assert "r_target" in tab.page.locator("#numbers").inner_text()
    moment = tab.page.evaluate("fetch('poc/moment').then(answer => answer.json())")
    assert moment["status"]["total_checked"] == status["total_checked"]


def check_verdicts(tab: Watched, answers: list[Any]) -> None:
    """A row for each verdict, the latest first, with the p-value of each test."""
    rows = tab.page.locator("#verdicts tbody tr")
    expect(rows).to_have_count(len(answers), timeout=PATIENCE)
    headings = tab.page.locator("#verdicts th").all_inner_texts()
    for row, answer in zip(rows.all(), answers, strict=True):
        shown = dict(zip(headings, row.locator("td").all_inner_texts(), strict=True))
        assert shown["Verdict"] == answer["verdict"]
        assert number(shown["Nonces"]) == 32
        for test, value in answer["tests"].items():
            p_value = shown[test.replace("_", " ")]
            assert p_value == "< 1e-300" if value == 0 else float(p_value) == pytest.approx(value, rel=0.1)
        assert shown["Rejected by"] == ", ".join(answer["rejected_by"]).replace("_", " ")


def check_inference(tab: Watched, node: Node) -> None:
    """Chat is counted, in flight and in tokens a second."""
    seen = threading.Event()

    def chat() -> None:
        while not seen.is_set():
            node.complete("A proof of compute is", 200)

    with ThreadPoolExecutor(4) as clients:
        chats = [clients.submit(chat) for _ in range(4)]
        try:
            # Not always all: between two completions a client is in none.
            several = re.compile(r"In flight\s*[2-4] requests")
            expect(tab.page.locator("#inference")).to_contain_text(several, timeout=2 * PATIENCE)
        finally:
            seen.set()
            for each in chats:
                each.result()
    tab.wait_until("document.getElementById('tokens').data[0].y.some(rate => rate > 0)")
    expect(tab.page.locator("#inference")).to_contain_text("0 requests", timeout=PATIENCE)


def check_receiver(tab: Watched, receiver: Receiver) -> None:
    """The receiver's page has what reached it, and gives it out."""
    tab.page.goto(receiver.url)
    expect(tab.page.locator("#provers tbody tr")).to_have_count(2, timeout=PATIENCE)
    stats = receiver.http.get("/stats").json()
    assert f"{stats['generated']['batches']:,} batch" in tab.term("totals", "Proofs")
    assert f"{stats['generated']['nonces']:,} nonces" in tab.term("totals", "Proofs")
    tab.wait_until("document.getElementById('verdict-times').data?.length === 2")
    assert [sum(tab.points("verdict-times", place)) for place in (0, 1)] == [1, 1]
    assert sum(tab.points("rates")) > 0
    expect(tab.page.locator("#nodes tbody tr")).to_have_count(2)
    assert tab.term("fleet", "Proving").endswith(" of 2 nodes in the last 5 minutes")
    assert tab.term("fleet", "Rate").endswith(" nonces/s in the last 5 minutes")
    assert tab.term("fleet", "Verdicts") == "1 honest, 1 fraud in the last three hours"
    assert tab.barriers() == []
    picture(tab.page, "page-receiver")
    batch = proof(round_request(), [0], [1.4], public_key=MARKUP)
    receiver.http.post("/generated", json=batch).raise_for_status()
    expect(tab.page.locator("#provers tbody tr").first).to_contain_text(MARKUP, timeout=PATIENCE)
    expect(tab.page.locator("#rates .legendtext").last).to_have_text(MARKUP, timeout=PATIENCE)
    tab.page.get_by_label("Kind").select_option("validated")
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name="Download").click()
    lines = download.value.path().read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["validated", "validated"]


@pytest.mark.parametrize(("scheme", "width"), SIZES)
def test_it_fits_in_light_and_dark_on_a_desk_and_on_a_phone(
    tab: Watched, guarded: Node, scheme: Any, width: int
) -> None:
    tab.page.emulate_media(color_scheme=scheme)
    tab.page.set_viewport_size({"width": width, "height": 900})
    log_in(tab, guarded)
    expect(tab.page.locator("#connection")).to_have_text("Live", timeout=PATIENCE)
    tab.page.wait_for_selector("#rate .main-svg")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, "nothing to scroll sideways"
    assert tab.barriers() == []
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    paper = tab.page.evaluate("document.getElementById('rate').layout.paper_bgcolor")
    lightness = [sum(map(int, ground[4:-1].split(","))) / 3, int(paper[1:3], 16)]
    assert all(value > 200 if scheme == "light" else value < 60 for value in lightness)
    # The page's own keys: the span of the charts is chosen without a mouse.
    tab.page.get_by_label("15 minutes").focus()
    tab.page.keyboard.press("ArrowRight")
    expect(tab.page.get_by_label("hour", exact=True)).to_be_checked()


def test_a_server_that_is_gone_is_shown_as_such(tab: Watched, guarded: Node) -> None:
    log_in(tab, guarded)
    expect(tab.page.locator("#connection")).to_have_text("Live", timeout=PATIENCE)
    # It ends though a page is open: within the seconds that it takes without one.
    guarded.process.send_signal(signal.SIGTERM)
    assert guarded.process.wait(30) is not None
    expect(tab.page.locator("#connection")).to_contain_text("No word from the server", timeout=PATIENCE)
    expect(tab.page.locator("body")).to_have_class("is-stale")
    expect(tab.page.locator("#state")).not_to_be_empty()
