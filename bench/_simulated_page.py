"""The page of a node with made-up events, as many and as fast as one likes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from fastapi import FastAPI, Request, Response

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.rounds.number_histogram import BIN_WIDTH, BINS, FIRST_EDGE
from hallmark.server.http.examples import STATUS, VERDICT
from hallmark.server.http.node_history import COLUMNS, ROW_SECONDS
from hallmark.server.pages.files import file_answer, html_answer, html_text
from hallmark.server.pages.live_feed import event_stream, server_sent_event
from hallmark.server.processes.child import free_port

BEGIN: Final = 1_800_000_000
KEPT_SECONDS: Final = 1200

_PAUSE: Final = 0.05


class SimulatedNode:
    """A page that is told of one second after the other, up to where it is allowed to.

    Attributes:
        url: Where it is.
        allowed: The seconds that may be told of.
        streams: How often somebody has begun to look.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.allowed = 0
        self.streams = 0
        self.app = FastAPI()
        self.app.add_api_route("/poc", self._page, response_model=None)
        self.app.add_api_route("/poc/files/{name}", self._file, response_model=None)
        self.app.add_api_route("/poc/events", self._events, response_model=None)
        self.app.add_api_route("/poc/moment", lambda: moment(self.allowed))

    def _page(self) -> Response:
        return html_answer(html_text("node.html").replace("{log out}", ""))

    def _file(self, request: Request, name: str) -> Response:
        return file_answer(request, name)

    def _events(self) -> Response:
        self.streams += 1
        return event_stream(self._told())

    async def _told(self) -> AsyncIterator[bytes]:
        history = {
            "columns": list(COLUMNS),
            "row_seconds": ROW_SECONDS,
            "kept_seconds": KEPT_SECONDS,
            "rows": [],
        }
        yield server_sent_event("history", compact_json(history))
        second = 0
        while True:
            if second >= self.allowed:
                await asyncio.sleep(_PAUSE)
                continue
            yield server_sent_event("moment", compact_json(moment(second)))
            second += 1


def moment(second: int) -> dict[str, Any]:
    """Return what a page is told in a second: everything changes that may."""
    checked = 100 * second
    row_at = second - second % ROW_SECONDS
    status: dict[str, Any] = {
        **STATUS,
        "config": {**STATUS["config"], "block_height": str(STATUS["config"]["block_height"])},
        "total_checked": checked,
        "total_valid": checked // 2,
        "callbacks": {**STATUS["callbacks"], "delivered": second, "receivers": _receivers(second)},
    }
    return {
        "now": BEGIN + second,
        "row": [
            BEGIN + row_at,
            100 + row_at % 7,
            row_at % 5,
            40.0,
            row_at % 3,
            *[0.2] * 4,
        ],
        "status": status,
        "gate_closed": second % 600 < 300,
        "histogram": {
            "first_edge": FIRST_EDGE,
            "bin_width": BIN_WIDTH,
            "counts": [second + place for place in range(BINS)],
            "expected": [float(second)] * BINS,
            "r_target": 1.4,
            "target": 0.3,
        },
        "verdicts": [_verdict(second - place) for place in range(20)],
        "node": {
            "models": ["simulated"],
            "hallmark_version": "",
            "protocol": "",
            "vllm_version": None,
            "torch_version": None,
            "hidden_size": 256,
            "dtype": "bfloat16",
            "max_stall_ms": 10.0,
        },
    }


def _receivers(second: int) -> dict[str, Any]:
    lane = {**STATUS["callbacks"], "last_error": "ConnectError" if second % 2 else None}
    return {f"http://receiver-{(second // 60 + place) % 5}.example": lane for place in range(3)}


def _verdict(second: int) -> dict[str, Any]:
    return {
        "at": BEGIN + second,
        "public_key": f"{second % 16:02x}" * 33,
        "block_hash": f"{second:064x}",
        "n_claims": second,
        "error": None,
        "verdict": VERDICT,
    }


@contextmanager
def simulated_node() -> Iterator[SimulatedNode]:
    """Serve the page from a thread until the block ends."""
    port = free_port()
    node = SimulatedNode(f"http://127.0.0.1:{port}")
    config = uvicorn.Config(node.app, port=port, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="simulated node", daemon=True)
    thread.start()
    try:
        yield node
    finally:
        server.should_exit = True
        thread.join()
