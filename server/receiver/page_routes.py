"""The live page of a receiver, at `/poc`: what may be read there may be read by its other routes too."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from hallmark.poc.core.compact_json import compact_json
from hallmark.server.pages.files import HEADERS, file_answer, html_answer, html_text, json_answer
from hallmark.server.pages.live_feed import (
    LiveFeed,
    RepeatedFailures,
    event_stream,
    is_ending,
    server_sent_event,
)
from hallmark.server.receiver.overview import Overview
from hallmark.server.receiver.store import BatchStore

__all__ = ["ReceiverPage"]

logger = logging.getLogger(__name__)

_PATH: Final = "/poc"
_TICK_SECONDS: Final = 2.0


class ReceiverPage:
    """The page of one receiver."""

    def __init__(self, app: FastAPI, store: BatchStore) -> None:
        """Add its routes."""
        self._app = app
        self._overview = Overview(store)
        self._feed = LiveFeed()
        self._reading = asyncio.Lock()
        self._read_at = -math.inf
        self._latest = b""
        self._failures = RepeatedFailures(logger, "The page cannot show what came")
        for path, answer in (
            ("/", self._lead),
            (_PATH, self._page),
            (f"{_PATH}/moment", self._moment),
            (f"{_PATH}/events", self._events),
            (f"{_PATH}/files/{{name}}", self._file),
        ):
            app.add_api_route(path, answer, methods=["GET"], include_in_schema=False, response_model=None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tell those who look what comes."""
        telling = asyncio.create_task(self._tell(), name="hallmark page")
        try:
            yield
        finally:
            telling.cancel()
            # It may be in the middle of reading the file.
            await asyncio.wait({telling})

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._feed.followers:
                with self._failures.logged():
                    self._feed.publish(await self._event())

    async def _moment_now(self) -> bytes:
        """Return what the page shows, as JSON; read once in a while, however many ask."""
        async with self._reading:
            if time.monotonic() - self._read_at >= _TICK_SECONDS / 2:
                self._latest = await run_in_threadpool(lambda: compact_json(self._overview.read()))
                self._read_at = time.monotonic()
            return self._latest

    async def _event(self) -> bytes:
        return server_sent_event("moment", await self._moment_now())

    async def _lead(self) -> RedirectResponse:
        return RedirectResponse("poc", 303, HEADERS)

    async def _page(self) -> Response:
        return html_answer(html_text("receiver.html"))

    async def _moment(self) -> Response:
        return json_answer(await self._moment_now())

    async def _events(self, request: Request) -> StreamingResponse:
        return event_stream(self._feed.follow(await self._event(), lambda: is_ending(request.app)))

    # Not a coroutine: it reads and packs a large file, beside the event loop.
    def _file(self, request: Request, name: str) -> Response:
        return file_answer(request, name)
