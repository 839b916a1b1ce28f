"""The one owner of what is still to be delivered, and of the journal of the round it comes from."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import httpx

from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.core.errors import FieldError, OutboxError
from hallmark.poc.outbox.delivery_queue import Dropped
from hallmark.poc.outbox.round_journal import InterruptedRound
from hallmark.poc.outbox.sender import (
    DROP_REASONS,
    Backoff,
    CallbackCounters,
    CallbackSender,
    backoff,
)
from hallmark.poc.outbox.store import OutboxStore, in_background
from hallmark.poc.protocol.config import PoCConfig, PoCState
from hallmark.poc.protocol.generated import ComputedSpan
from hallmark.poc.protocol.status import CallbackStats, OutboxStats
from hallmark.poc.settings.settings import Settings
from hallmark.poc.webhooks.signature import parse_secret
from hallmark.poc.webhooks.transport import callback_client
from hallmark.poc.webhooks.url import CallbackKind, check_callback_url

__all__ = ["Outbox"]

logger = logging.getLogger(__name__)

_MAX_IDLE = 16
_RETRY_PAUSE = 5.0
# Seconds between two looks for what a tool beside the server has made due.
_WATCH_PERIOD = 1.0


class Outbox:
    """Callbacks to any number of receivers, and the round they come from; one that is down delays no other.

    It outlives rounds: what a stopped round has found is delivered while the next one runs. With a store on
    disk it outlives the server too: what a call says is done stays so.

    Args:
        settings: The `outbox_*`, `callback_*` and `webhook_*` settings.
        store: Where everything is kept; None keeps it in memory. Closed with the outbox.
        connect: Makes a receiver's HTTP client.
        wait: The wait between attempts; None takes the settings' backoff.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        store: OutboxStore | None = None,
        *,
        connect: Callable[[], httpx.AsyncClient] = callback_client,
        wait: Backoff | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store or OutboxStore.bounded_by(settings, None)
        self._connect = connect
        self._wait = wait or backoff(settings.callback_backoff_base, settings.callback_backoff_cap)
        self._clock = clock
        self._secrets = [parse_secret(secret.get_secret_value()) for secret in settings.webhook_secrets]
        self._limit = asyncio.Semaphore(settings.callback_max_concurrency)
        self._failing_limit = asyncio.Semaphore(settings.callback_max_concurrency)
        self._senders: dict[str, CallbackSender] = {}
        self._forgotten = CallbackCounters()
        self._merges: dict[int, tuple[asyncio.TimerHandle, str]] = {}
        self._announcing: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._disconnecting: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._last_stats: OutboxStats | None = None

    async def recover(self) -> InterruptedRound | None:
        """Begin to deliver what the last server left.

        Returns:
            The round that it was interrupted in.

        Raises:
            OutboxError: The store cannot be read or written.
        """
        interrupted, dropped = await self._store.run(self._store.journal.recover, self._clock())
        self._note_dropped(dropped)
        for url, totals in self._store.queue.receivers().items():
            if totals.queued and await self._recover_receiver(url, totals.queued):
                logger.info("%d callbacks to %s are left from the last server", totals.queued, url)
        if self._store.is_durable:
            self._watching = asyncio.create_task(self._watch(), name="hallmark outbox")
        return interrupted

    async def _watch(self) -> None:
        """Deliver what `hallmark outbox retry` has put back into the queue of a receiver that had none."""
        while True:
            await asyncio.sleep(_WATCH_PERIOD)
            try:
                for url, totals in self._store.queue.receivers().items():
                    sender = self._senders.get(url)
                    if totals.queued and (sender is None or not sender.is_working):
                        await self._recover_receiver(url, totals.queued)
            except OutboxError as exc:
                # Once a second would be too often; those who have something to write say it aloud.
                logger.debug("The outbox was not looked through: %s", exc)

    async def _recover_receiver(self, url: str, queued: int) -> bool:
        """Deliver what is queued for a receiver, where it is allowed; returns whether it is."""
        try:
            check_callback_url(url, self._settings.callback_allowed_hosts)
        except FieldError as exc:
            logger.error("%d callbacks of the last server are dropped: %s", queued, exc)
            await self._store.run(self._store.queue.bury_receiver, url, "forbidden")
            self._forgotten.dropped["forbidden"] += queued
            return False
        self._sender(url).wake()
        return True

    async def post(self, url: str, kind: CallbackKind, batch: Mapping[str, Any]) -> None:
        """Take a payload for a receiver; once this returns it is delivered in the background.

        Raises:
            ValueError: It has numbers that JSON does not have.
            OutboxError: It cannot be kept.
        """
        _, dropped = await self._store.run(
            self._store.queue.add,
            url,
            kind,
            [compact_json(batch)],
            now=self._clock(),
            max_queued=self._settings.callback_max_queue,
            in_flight=self._in_flight(),
        )
        self._note_dropped(dropped)
        self._sender(url).wake()

    async def begin_round(
        self, config: PoCConfig, digest: str, template: Mapping[str, Any], phase: PoCState
    ) -> int:
        """Note a round that begins, in the place of any before it.

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
        identifier, dropped = await self._store.run(
            self._store.journal.begin, config, digest, template, phase, self._clock()
        )
        self._note_dropped(dropped)
        return identifier

    async def resume_round(self, identifier: int, template: Mapping[str, Any]) -> None:
        """Note that an interrupted round goes on.

        Raises:
            OutboxError: It cannot be kept.
        """
        await self._store.run(self._store.journal.resume, identifier, template, self._clock())

    def enter_phase(self, identifier: int, phase: PoCState) -> None:
        """Note a round's change of phase, in the background."""
        in_background(
            self._store.run(self._store.journal.enter, identifier, phase, self._clock()),
            f"The change to {phase} is not in the journal",
        )

    async def record(self, identifier: int, url: str | None, walked: Sequence[ComputedSpan]) -> None:
        """Keep what a round has computed; what it found is merged and delivered in the background.

        Args:
            identifier: The round's number.
            url: Its callback URL.
            walked: Stretches of its walk, each right after the last.

        Raises:
            OutboxError: It cannot be kept.
        """
        await self._store.run(self._store.journal.record, identifier, walked, self._clock())
        has_found = any(batch.nonces or batch.failed_nonces for batch in walked)
        if url is not None and has_found:
            self._merge_in(self._settings.callback_interval, identifier, url)

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
        merged = self._store.run(
            self._store.journal.merge, identifier, self._clock(), in_flight=self._in_flight()
        )
        task = asyncio.ensure_future(self._announce(identifier, merged, url))
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)

    async def _announce(self, identifier: int, merged: Awaitable[list[Dropped]], url: str) -> None:
        try:
            self._note_dropped(await merged)
        except OutboxError as exc:
            logger.error("What was found is not merged yet: %s", exc)
            # The round may be over, and then nothing else would ask for it again.
            self._merge_in(_RETRY_PAUSE, identifier, url)
        else:
            self._sender(url).wake()

    def end_round(self, identifier: int, url: str | None, reason: str | None) -> None:
        """Note that a round stands still and deliver what it found, in the background.

        Args:
            identifier: The round's number.
            url: Its callback URL.
            reason: What it failed with, to be gone on with after a restart; None: it is over.
        """
        ended = self._store.run(self._store.journal.end, identifier, reason, self._clock())
        task = asyncio.ensure_future(self._see_ended(ended, identifier, reason))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        self.merge(identifier, url)

    async def _see_ended(self, ended: Awaitable[None], identifier: int, reason: str | None) -> None:
        """Try again until it is noted: a round that was stopped must not be gone on with after a restart."""
        while True:
            try:
                # Whoever cancels this must not take back what has been asked for.
                return await asyncio.shield(ended)
            except OutboxError as exc:
                logger.error("The end of the round is not in the journal yet: %s", exc)
            await asyncio.sleep(_RETRY_PAUSE)
            ended = self._store.run(self._store.journal.end, identifier, reason, self._clock())

    def forget_rounds(self) -> None:
        """Note that no round is to be gone on with, in the background."""
        forgotten = self._store.run(self._store.journal.forget, self._clock())
        in_background(self._note_forgotten(forgotten), "The journal still has a round")

    async def _note_forgotten(self, forgotten: Awaitable[list[Dropped]]) -> None:
        self._note_dropped(await forgotten)

    def stats(self) -> OutboxStats:
        """The sums over all receivers, and under `receivers` the stats of each recent one by its URL."""
        if self._last_stats is not None:
            return self._last_stats
        totals = self._store.queue.receivers()
        receivers: dict[str, CallbackStats] = {
            url: sender.stats_with(totals.get(url)) for url, sender in self._senders.items()
        }
        each = [*receivers.values()]
        ages = [stats["oldest_age"] for stats in each if stats["oldest_age"] is not None]
        attempts = [stats["next_attempt"] for stats in each if stats["next_attempt"] is not None]
        errors = [stats["last_error"] for stats in each if stats["last_error"] is not None]
        reasons = Counter(self._forgotten.dropped)
        for stats in each:
            reasons.update(stats["dropped_by_reason"])
        return {
            "outbox": str(self._store.database),
            "queued": sum(receiver.queued for receiver in totals.values()),
            "in_flight": sum(stats["in_flight"] for stats in each),
            "delivered": self._forgotten.delivered + sum(stats["delivered"] for stats in each),
            "retried": self._forgotten.retried + sum(stats["retried"] for stats in each),
            "dropped": reasons.total(),
            "dropped_by_reason": {reason: reasons[reason] for reason in DROP_REASONS},
            "dead_letters": (dead := sum(receiver.dead_letters for receiver in totals.values())),
            "kept": dead,  # its older name
            "bytes": sum(receiver.bytes for receiver in totals.values()),
            "oldest_age": max(ages, default=None),
            "next_attempt": min(attempts, default=None),
            "last_error": errors[-1] if errors else None,
            "receivers": receivers,
        }

    async def close(self, deadline: float) -> None:
        """Deliver what can be delivered within a time, and keep the rest where the store can.

        Args:
            deadline: How long, in seconds.
        """
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        for identifier, (_, url) in [*self._merges.items()]:
            self.merge(identifier, url)
        await asyncio.gather(*self._announcing)
        for task in self._ending:
            task.cancel()
        for timer, _ in self._merges.values():
            timer.cancel()
        for url, totals in self._store.queue.receivers().items():
            if totals.queued:
                await self._recover_receiver(url, totals.queued)
        await asyncio.gather(*(sender.close(deadline) for sender in self._senders.values()))
        await asyncio.gather(*self._disconnecting)
        self._note_the_rest()
        self._last_stats = self.stats()
        await self._store.close()

    def _note_the_rest(self) -> None:
        if self._store.is_durable:
            left = sum(totals.queued for totals in self._store.queue.receivers().values())
            if left:
                logger.warning("%d callbacks are kept for the next start", left)
            return
        lost = [d for d in self._store.queue.listed() if d.dead_reason is None]
        self._note_dropped((Dropped(d.url, d.webhook_id) for d in lost), "memory")

    def _in_flight(self) -> list[int]:
        return [sender.in_flight.id for sender in self._senders.values() if sender.in_flight is not None]

    def _note_dropped(self, dropped: Iterable[Dropped], reason: str = "full") -> None:
        for url, webhook_id in dropped:
            self._sender(url).note_dropped([webhook_id], reason)

    def _sender(self, url: str) -> CallbackSender:
        if url not in self._senders:
            self._forget_idle()
            self._senders[url] = CallbackSender(
                url,
                self._settings.callback_max_retries,
                self._settings.callback_max_queue,
                store=self._store,
                client=self._connect(),
                wait=self._wait,
                timeout=self._settings.callback_timeout,
                max_age=self._settings.callback_max_age,
                secrets=self._secrets,
                limit=self._limit,
                failing_limit=self._failing_limit,
                clock=self._clock,
            )
        return self._senders[url]

    def _forget_idle(self) -> None:
        """Keep the number of receivers bounded; their totals stay in the sums."""
        idle = [url for url, sender in self._senders.items() if not sender.is_working]
        for url in idle[: max(0, len(idle) - _MAX_IDLE + 1)]:
            sender = self._senders.pop(url)
            self._forgotten.delivered += sender.counters.delivered
            self._forgotten.retried += sender.counters.retried
            self._forgotten.dropped.update(sender.counters.dropped)
            task = asyncio.create_task(sender.disconnect(), name="hallmark callbacks' end")
            self._disconnecting.add(task)
            task.add_done_callback(self._disconnecting.discard)
