"""The senders of an outbox, one for each receiver that has something to get."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable

import httpx

from hallmark.poc.core.errors import FieldError, OutboxError
from hallmark.poc.core.repeated_errors import RepeatedErrors
from hallmark.poc.core.request_id import REQUEST_ID
from hallmark.poc.outbox.delivery_queue import Dropped
from hallmark.poc.outbox.sender import (
    DROP_REASONS,
    Backoff,
    CallbackCounters,
    CallbackSender,
    backoff,
)
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.protocol.status import CallbackReach, CallbackStats, OutboxStats
from hallmark.poc.settings.settings import Settings
from hallmark.poc.webhooks.reach import why_unreachable
from hallmark.poc.webhooks.signature import parse_secret
from hallmark.poc.webhooks.url import CallbackKind, check_callback_host

__all__ = ["SenderRegistry"]

logger = logging.getLogger(__name__)

_MAX_IDLE = 16
# Seconds between two looks for what a tool beside the server has made due.
_WATCH_PERIOD = 1.0


class SenderRegistry:
    """Callbacks to any number of receivers; one that is down delays no other.

    Args:
        settings: The `callback_*` and `webhook_*` settings.
        store: Where callbacks are kept. Not closed here.
        connect: Makes a receiver's HTTP client.
        wait: The wait between attempts; None takes the settings' backoff.
        clock: Seconds since the epoch.
        errors: Logs what does not work for a while.
    """

    def __init__(
        self,
        settings: Settings,
        store: OutboxStore,
        *,
        connect: Callable[[], httpx.AsyncClient],
        wait: Backoff | None,
        clock: Callable[[], float],
        errors: RepeatedErrors,
    ) -> None:
        self._settings = settings
        self._store = store
        self._connect = connect
        self._wait = wait or backoff(settings.callback_backoff_base, settings.callback_backoff_cap)
        self._clock = clock
        self._errors = errors
        self._secrets = [parse_secret(secret.get_secret_value()) for secret in settings.webhook_secrets]
        self._limit = asyncio.Semaphore(settings.callback_max_concurrency)
        self._failing_limit = asyncio.Semaphore(settings.callback_max_concurrency)
        self._senders: dict[str, CallbackSender] = {}
        self._forgotten = CallbackCounters()
        self._disconnecting: set[asyncio.Task[None]] = set()
        self._asking: set[asyncio.Task[CallbackReach]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._last_stats: OutboxStats | None = None

    async def recover(self) -> None:
        """Begin to deliver what the last server left.

        Raises:
            OutboxError: The store cannot be read or written.
        """
        await self._store.bound_times(self._clock(), self._settings.callback_backoff_cap)
        for url, totals in self._store.receivers().items():
            if totals.queued and await self._recover_receiver(url, totals.queued):
                logger.info("%d callbacks to %s are left from the last server", totals.queued, url)
        if self._store.is_durable:
            self._watching = asyncio.create_task(self._watch(), name="hallmark outbox")

    async def _watch(self) -> None:
        """Deliver what `hallmark outbox retry` has put back into the queue of a receiver that had none."""
        while True:
            await asyncio.sleep(_WATCH_PERIOD)
            try:
                for url, totals in self._store.receivers().items():
                    sender = self._senders.get(url)
                    if totals.queued and (sender is None or not sender.is_working):
                        await self._recover_receiver(url, totals.queued)
            except OutboxError as exc:
                # Once a second would be too often; those who have something to write say it aloud.
                logger.debug("The outbox was not looked through: %s", exc)

    async def _recover_receiver(self, url: str, queued: int) -> bool:
        """Deliver what is queued for a receiver, where it is allowed; returns whether it is."""
        try:
            check_callback_host(url, self._settings.callback_allowed_hosts)
        except FieldError as exc:
            logger.error("%d callbacks of the last server are dropped: %s", queued, exc)
            await self._store.bury_receiver(url, "forbidden")
            self._forgotten.dropped["forbidden"] += queued
            return False
        self.wake(url)
        return True

    async def post(self, url: str, kind: CallbackKind, body: bytes) -> None:
        """Take a body of JSON for a receiver; once this returns it is delivered in the background.

        Raises:
            OutboxError: It cannot be kept.
        """
        _, dropped = await self._store.add(
            url,
            kind,
            [body],
            now=self._clock(),
            max_queued=self._settings.callback_max_queue,
            in_flight=self.in_flight(),
            request_id=REQUEST_ID.get(),
        )
        self.note_dropped(dropped)
        self.wake(url)

    def stats(self) -> OutboxStats:
        """Return sums over all receivers, and under `receivers` the stats of each recent one by URL."""
        if self._last_stats is not None:
            return self._last_stats
        totals = self._store.receivers()
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
        in_all = sum(receiver.bytes for receiver in totals.values())
        longest = max((receiver.queued for receiver in totals.values()), default=0)
        return {
            "outbox": str(self._store),
            "used_ratio": max(
                in_all / self._settings.outbox_max_bytes, longest / self._settings.callback_max_queue
            ),
            "free_bytes": self._store.free_bytes(),
            "queued": sum(receiver.queued for receiver in totals.values()),
            "in_flight": sum(stats["in_flight"] for stats in each),
            "delivered": self._forgotten.delivered + sum(stats["delivered"] for stats in each),
            "retried": self._forgotten.retried + sum(stats["retried"] for stats in each),
            "dropped": reasons.total(),
            "dropped_by_reason": {reason: reasons[reason] for reason in DROP_REASONS},
            "dead_letters": (dead := sum(receiver.dead_letters for receiver in totals.values())),
            "kept": dead,  # its older name
            "bytes": in_all,
            "oldest_age": max(ages, default=None),
            "next_attempt": min(attempts, default=None),
            "last_error": errors[-1] if errors else None,
            "receivers": receivers,
        }

    def wake(self, url: str) -> None:
        """Deliver in the background what a receiver has queued."""
        self._sender(url).wake()

    async def at_rest(self, url: str) -> None:
        """Wait until a receiver has nothing left that can be delivered now."""
        if url in self._senders:
            await self._senders[url].at_rest.wait()

    def ask(self, url: str) -> asyncio.Task[CallbackReach]:
        """Ask a receiver in the background whether it answers; nothing is sent to it."""
        task = asyncio.create_task(self._reach(url), name="hallmark receiver")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    async def _reach(self, url: str) -> CallbackReach:
        async with self._connect() as client:
            error = await why_unreachable(client, url)
        return {"reachable": error is None, "error": error}

    def in_flight(self) -> list[int]:
        """Name the callbacks that are being attempted, which make no room for others."""
        return [sender.in_flight.id for sender in self._senders.values() if sender.in_flight is not None]

    def note_dropped(self, dropped: Iterable[Dropped], reason: str = "full") -> None:
        """Count and log callbacks that are gone from the queue, for a reason of `DROP_REASONS`."""
        for url, webhook_id in dropped:
            self._sender(url).note_dropped([webhook_id], reason)

    async def stop_watching(self) -> None:
        """Look no more for what a tool has made due."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})

    async def close(self, deadline: float) -> None:
        """Deliver what can be delivered within a time; the rest stays in the store, and the stats stand.

        Args:
            deadline: How long, in seconds.
        """
        for task in self._asking:
            task.cancel()
        for url, totals in self._store.receivers().items():
            if totals.queued:
                await self._recover_receiver(url, totals.queued)
        await asyncio.gather(*(sender.close(deadline) for sender in self._senders.values()))
        await asyncio.gather(*self._disconnecting)
        await asyncio.gather(*self._asking, return_exceptions=True)
        self._note_the_rest()
        self._last_stats = self.stats()

    def _note_the_rest(self) -> None:
        if self._store.is_durable:
            left = sum(totals.queued for totals in self._store.receivers().values())
            if left:
                logger.warning("%d callbacks are kept for the next start", left)
            return
        lost = [d for d in self._store.listed() if d.dead_reason is None]
        self.note_dropped((Dropped(d.url, d.webhook_id) for d in lost), "memory")

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
                errors=self._errors,
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
