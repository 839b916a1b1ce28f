"""The live page of a receiver, at `/poc`: what may be read there may be read by its other routes too."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from hallmark.poc.core.errors import DatabaseError
from hallmark.server.pages.files import HEADERS, file_answer, html_answer, html_text, json_answer
from hallmark.server.pages.live_feed import LiveFeed, event_stream, is_ending, server_sent_event
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

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._feed.followers:
                try:
                    self._feed.publish(server_sent_event("moment", await self._read()))
                except DatabaseError as exc:
                    # The page shows that nothing comes; the next time the file may be readable.
                    logger.error("The page is not told: %s", exc)

    async def _read(self) -> dict[str, Any]:
        return await run_in_threadpool(self._overview.read)

    async def _lead(self) -> RedirectResponse:
        return RedirectResponse("poc", 303, HEADERS)

    async def _page(self) -> Response:
        return html_answer(html_text("receiver.html"))

    async def _moment(self) -> Response:
        return json_answer(await self._read())

    async def _events(self, request: Request) -> StreamingResponse:
        opening = server_sent_event("moment", await self._read())
        return event_stream(self._feed.follow(opening, lambda: is_ending(request.app)))

    # Not a coroutine: it reads and packs a large file, beside the event loop.
    def _file(self, request: Request, name: str) -> Response:
        return file_answer(request, name)
