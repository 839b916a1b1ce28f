"""An outbox's database, and the one thread that writes it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.outbox.database import MEMORY, OutboxDatabase, default_path
from hallmark.poc.outbox.delivery_queue import DeliveryQueue
from hallmark.poc.outbox.round_journal import JournalLimits, RoundJournal
from hallmark.poc.settings.settings import Settings

__all__ = ["OutboxStore", "in_background", "outbox_path"]

logger = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class OutboxStore:
    """Callbacks and rounds, and the order in which they are written.

    What is on a disk is written by a thread, since a commit may wait for it and the event loop must not; in
    memory there is nothing to wait for. Calls are made in the order they were asked for.

    Args:
        path: The file; None keeps everything in memory.
        max_bytes: Bytes of callbacks, for all receivers.
        max_age: Callbacks that were given up are kept for so long, in seconds.
        max_payload_bytes: Longest body of a merged batch.
        max_queued: Callbacks that a receiver may have waiting, merged ones.

    Attributes:
        database: The database.
        queue: Its callbacks.
        journal: Its rounds.

    Raises:
        OutboxError: As for `OutboxDatabase`.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        max_bytes: int = 2**30,
        max_age: float = 86_400.0,
        max_payload_bytes: int = 2**20,
        max_queued: int = 100_000,
    ) -> None:
        self.database = OutboxDatabase(path)
        self.queue = DeliveryQueue(self.database, max_bytes, max_age)
        self.journal = RoundJournal(self.database, self.queue, JournalLimits(max_payload_bytes, max_queued))
        self._thread = None if path is None else ThreadPoolExecutor(1, "hallmark outbox")

    @classmethod
    def from_settings(cls, settings: Settings, port: int | None, socket: str | None = None) -> Self:
        """The store of a server.

        Args:
            settings: Its `outbox_*` and `callback_*` settings.
            port: The port it listens on, which names its file where the settings do not.
            socket: The Unix socket it listens on instead.

        Raises:
            OutboxError: As for `OutboxDatabase`.
        """
        return cls.bounded_by(settings, outbox_path(settings, port, socket))

    @classmethod
    def bounded_by(cls, settings: Settings, path: Path | None) -> Self:
        """A store with the bounds of a server's settings, in a file or, with None, in memory.

        Raises:
            OutboxError: As for `OutboxDatabase`.
        """
        return cls(
            path,
            max_bytes=settings.outbox_max_bytes,
            max_age=settings.callback_max_age,
            max_payload_bytes=settings.callback_max_payload_bytes,
            max_queued=settings.callback_max_queue,
        )

    @property
    def is_durable(self) -> bool:
        """Whether what is in it outlives the process."""
        return self._thread is not None

    def run(
        self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> asyncio.Future[_Result]:
        """Call a method of the queue or of the journal, after all that was asked for before.

        The call is under way when this returns, whether or not anybody waits for its result.
        """
        loop = asyncio.get_running_loop()
        if self._thread is not None:
            return loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))
        done: asyncio.Future[_Result] = loop.create_future()
        try:
            done.set_result(function(*args, **kwargs))
        except OutboxError as exc:
            done.set_exception(exc)
        return done

    async def close(self) -> None:
        """Close the database once all that was asked for is done."""
        await self.run(self.database.close)
        if self._thread is not None:
            self._thread.shutdown(wait=False)


def outbox_path(settings: Settings, port: int | None, socket: str | None = None) -> Path | None:
    """Return the file of a server's outbox; None where the settings keep it in memory.

    Args:
        settings: The server's settings.
        port: The port it listens on, which names its file where the settings do not.
        socket: The Unix socket it listens on instead.
    """
    if settings.outbox_path == MEMORY:
        return None
    if settings.outbox_path is not None:
        return Path(settings.outbox_path)
    return default_path(port, socket)


def in_background(work: Awaitable[object], what: str) -> None:
    """Let a call of the store go on by itself; where it fails, the log says so.

    Args:
        work: What `OutboxStore.run` has returned.
        what: What has not been done then, for people.
    """

    def check(done: asyncio.Future[object]) -> None:
        if not done.cancelled() and done.exception() is not None:
            logger.error("%s: %s", what, done.exception())

    asyncio.ensure_future(work).add_done_callback(check)
