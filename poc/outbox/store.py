"""An outbox's database, and the one thread that writes it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.core.sqlite import MEMORY
from hallmark.poc.outbox.database import OutboxDatabase, default_path
from hallmark.poc.outbox.delivery_queue import Delivery, DeliveryQueue, Dropped, ReceiverTotals
from hallmark.poc.outbox.round_journal import InterruptedRound, JournalLimits, RoundJournal
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.generated import ComputedSpan
from hallmark.poc.settings.settings import Settings
from hallmark.poc.webhooks.url import CallbackKind

__all__ = ["OutboxStore", "in_background", "outbox_path"]

logger = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class OutboxStore:
    """Callbacks and rounds, and the order in which they are written.

    What is on a disk is written by a thread, since a commit may wait for it and the event loop must not; in
    memory there is nothing to wait for. A call that returns a future is under way by then, whether or not
    anybody waits for its result, and runs after all that was asked for before. `receivers` and `listed` have
    a connection of their own, which waits for no writer, and are answered on the caller's thread, the event
    loop's.

    Args:
        path: The file; None keeps everything in memory.
        max_bytes: Bytes of callbacks, for all receivers.
        max_age: Callbacks that were given up are kept for so long, in seconds.
        max_payload_bytes: Longest body of a merged batch.
        max_queued: Callbacks that a receiver may have waiting, merged ones.

    Raises:
        OutboxError: As for `OutboxDatabase`; by every future, where the database cannot be read or written.
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
        self._database = OutboxDatabase(path)
        self._queue = DeliveryQueue(self._database, max_bytes, max_age)
        limits = JournalLimits(max_payload_bytes, max_queued)
        self._journal = RoundJournal(self._database, self._queue, limits)
        self._thread = None if path is None else ThreadPoolExecutor(1, "hallmark outbox")

    def __str__(self) -> str:
        return str(self._database)

    @classmethod
    def from_settings(cls, settings: Settings, port: int | None, socket: str | None = None) -> Self:
        """Return the store of a server.

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
        """Return a store with the bounds of a server's settings, in a file or, with None, in memory.

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

    def add(
        self,
        url: str,
        kind: CallbackKind,
        bodies: Collection[bytes],
        *,
        now: float,
        max_queued: int,
        in_flight: Collection[int] = (),
        request_id: str | None = None,
    ) -> asyncio.Future[tuple[list[int], list[Dropped]]]:
        """Queue callbacks, as `DeliveryQueue.add` does."""
        return self._run(
            self._queue.add,
            url,
            kind,
            bodies,
            now=now,
            max_queued=max_queued,
            in_flight=in_flight,
            request_id=request_id,
        )

    def oldest(self, url: str) -> asyncio.Future[tuple[Delivery, bytes] | None]:
        """Find a receiver's oldest queued callback and its body; None where it has none."""
        return self._run(self._queue.oldest, url)

    def remove(self, identifier: int) -> asyncio.Future[None]:
        """Forget a callback that was delivered or is too old."""
        return self._run(self._queue.delivered, identifier)

    def note_failure(self, identifier: int, error: str, not_before: float) -> asyncio.Future[None]:
        """Note a failed attempt, and when the next one is due, in seconds since the epoch."""
        return self._run(self._queue.failed, identifier, error, not_before)

    def leave_alone(self, url: str, seconds: float, now: float) -> asyncio.Future[None]:
        """Note that a receiver asked not to be called for so many seconds."""
        return self._run(self._queue.leave_alone, url, seconds, now)

    def bound_times(self, now: float, max_wait: float) -> asyncio.Future[None]:
        """Let nothing be from the future or wait for more than so many seconds, at a start."""
        return self._run(self._queue.bound_times, now, max_wait)

    def shift_times(self, seconds: float) -> asyncio.Future[None]:
        """Move all times by as much as the clock was set."""
        return self._run(self._queue.shift_times, seconds)

    def bury(self, identifier: int, reason: str, error: str) -> asyncio.Future[None]:
        """Make a callback a dead letter, after an attempt that ended with an error."""
        return self._run(self._queue.bury, identifier, reason, error)

    def bury_receiver(self, url: str, reason: str) -> asyncio.Future[None]:
        """Make everything that a receiver has queued dead letters."""
        return self._run(self._queue.bury_receiver, url, reason)

    def recover(self, now: float) -> asyncio.Future[tuple[InterruptedRound | None, list[Dropped]]]:
        """Take up the rounds that the last server left, as `RoundJournal.recover` does."""
        return self._run(self._journal.recover, now)

    def begin_round(
        self,
        config: PoCConfig,
        digest: str,
        template: Mapping[str, Any],
        phase: PoCState,
        request_id: str | None,
        now: float,
    ) -> asyncio.Future[tuple[int, list[Dropped]]]:
        """Note a round that begins, as `RoundJournal.begin` does."""
        return self._run(self._journal.begin, config, digest, template, phase, now, request_id=request_id)

    def resume_round(self, identifier: int, template: Mapping[str, Any], now: float) -> asyncio.Future[None]:
        """Note that an interrupted round goes on."""
        return self._run(self._journal.resume, identifier, template, now)

    def enter_phase(self, identifier: int, phase: PoCState, now: float) -> asyncio.Future[None]:
        """Note a round's change of phase."""
        return self._run(self._journal.enter, identifier, phase, now)

    def record(self, identifier: int, walked: Sequence[ComputedSpan], now: float) -> asyncio.Future[None]:
        """Note computed spans of a round's walk, each right after the last."""
        return self._run(self._journal.record, identifier, walked, now)

    def merge(self, identifier: int, now: float, in_flight: Collection[int]) -> asyncio.Future[list[Dropped]]:
        """Queue what a round has found since the last time; the result is what had to make room."""
        return self._run(self._journal.merge, identifier, now, in_flight)

    def end_round(self, identifier: int, reason: str | None, now: float) -> asyncio.Future[None]:
        """Note that a round stands still; without a reason it is over."""
        return self._run(self._journal.end, identifier, reason, now)

    def forget_rounds(self, now: float) -> asyncio.Future[list[Dropped]]:
        """Close every round, once what it found is queued; the result is what had to make room."""
        return self._run(self._journal.forget, now)

    def receivers(self) -> Mapping[str, ReceiverTotals]:
        """Read at once what each receiver has in the queue.

        Raises:
            OutboxError: The database cannot be read.
        """
        return self._queue.receivers()

    def free_bytes(self) -> int | None:
        """Return what is free on the file system that it lies on, as `Database.free_bytes` does."""
        return self._database.free_bytes()

    def listed(self) -> list[Delivery]:
        """Read at once all callbacks, without their bodies.

        Raises:
            OutboxError: The database cannot be read.
        """
        return self._queue.listed()

    async def close(self) -> None:
        """Close the database once all that was asked for is done."""
        await self._run(self._database.close)
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _run(
        self, function: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
    ) -> asyncio.Future[_Result]:
        loop = asyncio.get_running_loop()
        if self._thread is not None:
            return loop.run_in_executor(self._thread, lambda: function(*args, **kwargs))
        done: asyncio.Future[_Result] = loop.create_future()
        try:
            done.set_result(function(*args, **kwargs))
        except OutboxError as exc:
            done.set_exception(exc)
        return done


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
        work: What a method of `OutboxStore` has returned.
        what: What has not been done then, for people.
    """

    def check(done: asyncio.Future[object]) -> None:
        if not done.cancelled() and done.exception() is not None:
            logger.error("%s: %s", what, done.exception())

    asyncio.ensure_future(work).add_done_callback(check)
