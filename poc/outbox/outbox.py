"""The one owner of what is still to be delivered, and of the journal of the round it comes from."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import httpx

from hallmark.poc.core.clock import SettableClock
from hallmark.poc.core.errors import OutboxError
from hallmark.poc.core.repeated_errors import RepeatedErrors
from hallmark.poc.core.request_id import REQUEST_ID
from hallmark.poc.outbox.delivery_queue import Dropped
from hallmark.poc.outbox.round_journal import InterruptedRound
from hallmark.poc.outbox.sender import Backoff
from hallmark.poc.outbox.sender_registry import SenderRegistry
from hallmark.poc.outbox.store import OutboxStore, in_background
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.generated import ComputedSpan
from hallmark.poc.protocol.status import CallbackReach, OutboxStats
from hallmark.poc.settings.settings import Settings
from hallmark.poc.webhooks.transport import callback_client
from hallmark.poc.webhooks.url import CallbackKind

__all__ = ["Outbox"]

logger = logging.getLogger(__name__)

_RETRY_PAUSE = 5.0
_NOT_MERGED: Final = "What was found is not merged yet"
_NOT_ENDED: Final = "The end of the round is not in the journal yet"


class Outbox:
    """Callbacks to any number of receivers, and the round they come from; one that is down delays no other.

    It outlives rounds: what a stopped round has found is delivered while the next one runs. With a store on
    disk it outlives the server too: what a call says is done stays so.

    Args:
        settings: The `outbox_*`, `callback_*` and `webhook_*` settings.
        store: Where everything is kept; None keeps it in memory. Closed with the outbox.
        connect: Makes a receiver's HTTP client.
        wait: The wait between attempts; None takes the settings' backoff.
        clock: Seconds since the epoch; it may be set at any moment, back and forward.
        steady: Seconds of a clock that nobody sets.
    """

    def __init__(
        self,
        settings: Settings,
        store: OutboxStore | None = None,
        *,
        connect: Callable[[], httpx.AsyncClient] = callback_client,
        wait: Backoff | None = None,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._callback_interval = settings.callback_interval
        self._store = store or OutboxStore.bounded_by(settings, None)
        self._clock = SettableClock(clock, steady, on_step=self._shift_times)
        self._errors = RepeatedErrors(logger, steady)
        self._senders = SenderRegistry(
            settings, self._store, connect=connect, wait=wait, clock=self._clock, errors=self._errors
        )
        self._merges: dict[int, tuple[asyncio.TimerHandle, str]] = {}
        self._announcing: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()

    def _shift_times(self, step: float) -> None:
        """Let what is kept follow a clock that was set: whoever asked for the time reads it moved already."""
        logger.warning("The clock was set by %+.0f s; ages and waits of callbacks stay what they were", step)
        in_background(self._store.shift_times(step), "The times in the outbox are not moved with the clock")

    async def recover(self) -> InterruptedRound | None:
        """Begin to deliver what the last server left.

        Returns:
            The round that it was interrupted in.

        Raises:
            OutboxError: The store cannot be read or written.
        """
        interrupted, dropped = await self._store.recover(self._clock())
        self._senders.note_dropped(dropped)
        await self._senders.recover()
        return interrupted

    async def post(self, url: str, kind: CallbackKind, body: bytes) -> None:
        """Take a body of JSON for a receiver; once this returns it is delivered in the background.

        The receiver is told the present `REQUEST_ID`.

        Raises:
            OutboxError: It cannot be kept.
        """
        await self._senders.post(url, kind, body)

    async def begin_round(
        self, config: PoCConfig, digest: str, template: Mapping[str, Any], phase: PoCState
    ) -> int:
        """Note a round that begins, and the HTTP request that it comes of; any before it is over.

        Args:
            config: The request.
            digest: Of the settings that the request and the model gave.
            template: What every callback of it says beside what was found.
            phase: The phase it begins with.

        Returns:
            Its number.

        Raises:
            OutboxError: It cannot be kept.
        """
        identifier, dropped = await self._store.begin_round(
            config, digest, template, phase, REQUEST_ID.get(), self._clock()
        )
        self._senders.note_dropped(dropped)
        return identifier

    async def resume_round(self, identifier: int, template: Mapping[str, Any]) -> None:
        """Note that an interrupted round goes on.

        Raises:
            OutboxError: It cannot be kept.
        """
        await self._store.resume_round(identifier, template, self._clock())

    def enter_phase(self, identifier: int, phase: PoCState) -> None:
        """Note a round's change of phase, in the background."""
        in_background(
            self._store.enter_phase(identifier, phase, self._clock()),
            f"The change to {phase} is not in the journal",
        )

    async def record(self, identifier: int, url: str | None, walked: Sequence[ComputedSpan]) -> None:
        """Keep what a round has computed; what it found is merged and delivered in the background.

        Args:
            identifier: The round's number.
            url: Its callback URL.
            walked: Spans of its walk, each right after the last.

        Raises:
            OutboxError: It cannot be kept.
        """
        await self._store.record(identifier, walked, self._clock())
        has_found = any(batch.nonces or batch.failed_nonces for batch in walked)
        if url is not None and has_found:
            self._merge_in(self._callback_interval, identifier, url)

    def _merge_in(self, seconds: float, identifier: int, url: str) -> None:
        if identifier not in self._merges:
            timer = asyncio.get_running_loop().call_later(seconds, self.merge, identifier, url)
            self._merges[identifier] = timer, url

    def merge(self, identifier: int, url: str | None) -> None:
        """Deliver now what a round has found and not reported yet, in the background."""
        timer, _ = self._merges.pop(identifier, (None, None))
        if timer is not None:
            timer.cancel()
        if url is None:
            return
        merged = self._store.merge(identifier, self._clock(), self._senders.in_flight())
        task = asyncio.ensure_future(self._announce(identifier, merged, url))
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)

    async def _announce(self, identifier: int, merged: Awaitable[list[Dropped]], url: str) -> None:
        try:
            self._senders.note_dropped(await merged)
        except OutboxError as exc:
            self._errors.note(_NOT_MERGED, exc)
            # The round may be over, and then nothing else would ask for it again.
            self._merge_in(_RETRY_PAUSE, identifier, url)
        else:
            self._errors.is_over(_NOT_MERGED)
            self._senders.wake(url)

    def end_round(self, identifier: int, url: str | None, reason: str | None) -> None:
        """Note that a round stands still and deliver what it found, in the background.

        Args:
            identifier: The round's number.
            url: Its callback URL.
            reason: What it failed with, to be gone on with after a restart; None: it is over.
        """
        self._insist(lambda: self._store.end_round(identifier, reason, self._clock()))
        self.merge(identifier, url)

    def forget_rounds(self) -> None:
        """Note that no round is to be gone on with, in the background."""
        self._insist(lambda: self._store.forget_rounds(self._clock()))

    def _insist(self, ask: Callable[[], asyncio.Future[None] | asyncio.Future[list[Dropped]]]) -> None:
        """Ask the store to note a round's end now, and again until it is noted.

        A round that was stopped must not be gone on with after a restart.
        """
        task = asyncio.ensure_future(self._see_ended(ask(), ask))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _see_ended(self, asked: Awaitable[Any], ask: Callable[[], Awaitable[Any]]) -> None:
        while True:
            try:
                # Whoever cancels this must not take back what has been asked for.
                self._senders.note_dropped(await asyncio.shield(asked) or [])
            except OutboxError as exc:
                self._errors.note(_NOT_ENDED, exc)
            else:
                self._errors.is_over(_NOT_ENDED)
                return
            await asyncio.sleep(_RETRY_PAUSE)
            asked = ask()

    async def flush(self, url: str | None, seconds: float) -> None:
        """Wait until rounds that have ended are noted as such, and what can be delivered now has been.

        Args:
            url: The receiver; None waits for the journal alone.
            seconds: The longest to wait, by the event loop's clock.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while under_way := [*self._announcing, *self._ending]:
                    await asyncio.wait(under_way)
                if url is not None:
                    await self._senders.at_rest(url)

    def ask(self, url: str) -> asyncio.Task[CallbackReach]:
        """Ask a receiver in the background whether it answers; nothing is sent to it, and nothing is kept."""
        return self._senders.ask(url)

    def stats(self) -> OutboxStats:
        """Return sums over all receivers, and under `receivers` the stats of each recent one by URL."""
        return self._senders.stats()

    async def close(self, deadline: float) -> None:
        """Deliver what can be delivered within a time, and keep the rest where the store can.

        Args:
            deadline: How long, in seconds.
        """
        await self._senders.stop_watching()
        for identifier, (_, url) in [*self._merges.items()]:
            self.merge(identifier, url)
        await asyncio.gather(*self._announcing)
        for task in self._ending:
            task.cancel()
        for timer, _ in self._merges.values():
            timer.cancel()
        await self._senders.close(deadline)
        await self._store.close()
