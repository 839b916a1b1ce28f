"""A feed of server-sent events, made once for everybody who looks."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from hallmark.server.pages.files import HEADERS

__all__ = ["LiveFeed", "RepeatedFailures", "event_stream", "is_ending", "server_sent_event"]


_ASK_SECONDS: Final = 1.0


class LiveFeed:
    """Hand each event to all followers; whoever is slow gets the latest one, and none that it missed.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._followers = 0
        self._latest = b""
        self._published = asyncio.Event()

    @property
    def followers(self) -> int:
        """Return how many follow."""
        return self._followers

    def publish(self, event: bytes) -> None:
        """Hand an event, in its form on the wire, to all followers."""
        self._latest = event
        self._published.set()
        self._published = asyncio.Event()

    async def follow(self, opening: bytes, is_over: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """Yield the opening and then events as they come, until it is over.

        Args:
            opening: What is to be known before the first event.
            is_over: Whether to stop; asked at each event, and every second without any.
        """
        self._followers += 1
        try:
            yield opening
            del opening  # it may be long, and so may the look
            while not is_over():
                try:
                    async with asyncio.timeout(_ASK_SECONDS):
                        await self._published.wait()
                except TimeoutError:
                    continue
                yield self._latest
        finally:
            self._followers -= 1


class RepeatedFailures:
    """Log what fails again and again once, until it has gone well in between.

    A page that cannot be shown must not cost its server, and the next time may be better.

    Args:
        logger: Where to.
        words: What fails.
    """

    def __init__(self, logger: logging.Logger, words: str) -> None:
        self._logger = logger
        self._words = words
        self._is_failing = False

    @contextmanager
    def logged(self) -> Iterator[None]:
        """End the block where it fails, and go on behind it."""
        try:
            yield
        except Exception:
            if not self._is_failing:
                self._logger.exception(self._words)
            self._is_failing = True
        else:
            self._is_failing = False


def server_sent_event(name: str, data: bytes) -> bytes:
    """Return an event, whose data is JSON on one line, as the wire has it."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), data)


def event_stream(events: AsyncIterator[bytes] | Iterable[bytes]) -> StreamingResponse:
    """Return the answer that streams events."""
    # nginx would keep events back to fill its buffer.
    headers = {**HEADERS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


def is_ending(app: FastAPI) -> bool:
    """Return whether the app's uvicorn server ends: it waits for all streams, and tells none of them.

    vLLM puts its server into `app.state`, and so does the receiver.
    """
    return bool(getattr(getattr(app.state, "server", None), "should_exit", False))
