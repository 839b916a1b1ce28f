"""Delivery of callbacks to one receiver: in order, retried with exponential backoff, bounded."""

import asyncio
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Final

import httpx

from hallmark.poc.core.errors import OutboxError
from hallmark.poc.core.repeated_errors import RepeatedErrors
from hallmark.poc.core.request_id import REQUEST_ID
from hallmark.poc.outbox.delivery_queue import Delivery, ReceiverTotals
from hallmark.poc.outbox.store import OutboxStore
from hallmark.poc.protocol.status import CallbackStats
from hallmark.poc.webhooks.attempt import Failure, attempt
from hallmark.poc.webhooks.transport import callback_client

__all__ = ["DROP_REASONS", "Backoff", "CallbackCounters", "CallbackSender", "backoff"]

logger = logging.getLogger(__name__)

# No wait is longer: for a sender by itself, one that seems to be comes of a clock that was set back.
_MAX_WAIT = 86_400.0
# A tool beside the server may have changed what is due.
_MAX_SLEEP = 1.0
_STORE_PAUSE = 5.0

DROP_REASONS: Final = {
    "rejected": "the receiver refuses it",
    "retries": "it has been retried often enough",
    "full": "the queue is full",
    "expired": "it is too old",
    "forbidden": "its URL is not allowed any more",
    "memory": "the server is stopping, and its outbox is in memory",
}
"""Why deliveries are dropped, in a word and for people."""


@dataclass(slots=True)
class CallbackCounters:
    """What has become of a receiver's callbacks since the start.

    Attributes:
        delivered: Answered with 2xx.
        retried: Attempts after the first.
        dropped: Given up, by reason: the words of `DROP_REASONS`.
    """

    delivered: int = 0
    retried: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


Backoff = Callable[[int], float]
"""Seconds to wait after so many failed attempts."""


def backoff(base: float, cap: float) -> Backoff:
    """Make waits drawn evenly between `base` and a bound that doubles with each attempt, up to `cap`.

    Args:
        base: Seconds.
        cap: Seconds, no fewer.
    """
    # Of its own: whoever seeds the module's generator seeds no receiver's jitter, nor finds it moved.
    generator = random.Random()  # noqa: S311  # no secret

    def wait(attempts: int) -> float:
        # Far below the number of attempts at which the power overflows, the cap has been reached.
        return generator.uniform(base, min(cap, base * 2.0 ** min(attempts, 64)))

    return wait


class CallbackSender:
    """Delivers what one receiver has still to get, in order.

    An answer of 2xx is a delivery. Everything else is a failure and is tried again, after an exponentially
    growing wait with jitter, or after the answer's `Retry-After` where that is longer; except that a 4xx
    other than 408, 425 and 429 is final. `Retry-After` holds for whatever comes next, and over a restart.
    What fails finally, has been retried `max_retries` times, is older than `max_age`, or is the oldest when
    the queue is full, is dropped: counted and logged, never in silence.
    The first failure of a receiver is logged as a warning, and that it takes callbacks again as information.

    A delivery keeps its body and its `webhook-id`, the idempotency key of Standard Webhooks.

    Args:
        callback_url: The base URL, checked by `check_callback_url`.
        max_retries: Attempts after the first; None: any number.
        max_queue_size: Deliveries that may wait.
        store: Where they are kept; None keeps them in memory. Not closed here.
        client: The HTTP client; None makes one. Closed by `close`.
        wait: Seconds to wait after n failed attempts; None: between 1 and 60, growing.
        timeout: Seconds that one attempt may take, from connecting to the answer's headers.
        max_age: Seconds after which a delivery is dropped.
        secrets: The keys to sign with; two while one replaces the other, none to send unsigned.
        limit: Shared with others, how many of them may call their receivers at the same time.
        failing_limit: The same for those whose last attempt failed, so that they take nobody's place.
        clock: Seconds since the epoch.
        errors: Logs that the store fails; shared with others.

    Attributes:
        counters: What has become of deliveries.
        in_flight: The one that is being attempted, until its outcome is counted.
        at_rest: Set while nothing has been asked for that can be delivered now: none is left, or the next
            attempt has to wait.
    """

    def __init__(
        self,
        callback_url: str,
        max_retries: int | None = 3,
        max_queue_size: int = 100,
        *,
        store: OutboxStore | None = None,
        client: httpx.AsyncClient | None = None,
        wait: Backoff | None = None,
        timeout: float = 10.0,
        max_age: float = math.inf,
        secrets: Sequence[bytes] = (),
        limit: asyncio.Semaphore | None = None,
        failing_limit: asyncio.Semaphore | None = None,
        clock: Callable[[], float] = time.time,
        errors: RepeatedErrors | None = None,
    ) -> None:
        self.callback_url = callback_url
        self.max_retries = max_retries
        self.max_queue_size = max_queue_size
        self.counters = CallbackCounters()
        self.in_flight: Delivery | None = None
        self._store = store or OutboxStore()
        self._owns_store = store is None
        self._client = client or callback_client()
        self._wait = wait or backoff(1, 60)
        self._timeout = timeout
        self._max_age = max_age
        self._secrets = secrets
        self._limit = limit or asyncio.Semaphore(1)
        self._failing_limit = failing_limit or self._limit
        self._clock = clock
        self._errors = errors or RepeatedErrors(logger)
        self._standing_still = f"Callbacks to {callback_url} stand still"
        self._last_error: str | None = None
        self._not_before: float | None = None
        self._is_failing = False
        self._one_at_a_time = asyncio.Lock()
        self._woken = asyncio.Event()
        self.at_rest = asyncio.Event()
        self.at_rest.set()
        self._delivering: asyncio.Task[None] | None = None

    @property
    def is_working(self) -> bool:
        """Whether something is being delivered in the background."""
        return self._delivering is not None and not self._delivering.done()

    @property
    def stats(self) -> CallbackStats:
        """What is queued, and the counters since the start."""
        return self.stats_with(self._store.receivers().get(self.callback_url))

    def stats_with(self, totals: ReceiverTotals | None) -> CallbackStats:
        """Return the same for totals of the queue that are known."""
        totals = totals or ReceiverTotals(0, 0, 0, None)
        now = self._clock()
        return CallbackStats(
            queued=totals.queued,
            in_flight=int(self.in_flight is not None),
            delivered=self.counters.delivered,
            retried=self.counters.retried,
            dropped=self.counters.dropped.total(),
            dropped_by_reason={reason: self.counters.dropped[reason] for reason in DROP_REASONS},
            dead_letters=totals.dead_letters,
            kept=totals.dead_letters,
            bytes=totals.bytes,
            oldest_age=None if totals.oldest is None else max(0.0, now - totals.oldest),
            next_attempt=None if self._not_before is None else max(0.0, self._not_before - now),
            last_error=self._last_error,
        )

    def wake(self) -> None:
        """Deliver in the background what is queued, retries included."""
        self._woken.set()
        self.at_rest.clear()
        if not self.is_working:
            # In a context of its own: whoever wakes it is not who asked for what is delivered.
            self._delivering = asyncio.create_task(
                self._deliver_all(), name="hallmark callbacks", context=Context()
            )

    def note_dropped(self, webhook_ids: Iterable[str], reason: str = "full") -> None:
        """Count and log deliveries that are gone from the queue."""
        for webhook_id in webhook_ids:
            self.counters.dropped[reason] += 1
            logger.error("Callback %s (%s) dropped: %s", self.callback_url, webhook_id, DROP_REASONS[reason])

    async def close(self, deadline: float) -> None:
        """Attempt what is queued until one fails, for `deadline` seconds; the rest stays queued.

        A wait of ours is cut short, one that the receiver has asked for is not.

        Args:
            deadline: How long, in seconds.
        """
        try:
            async with asyncio.timeout(deadline):
                while await self._settle_oldest(is_last=True) == 0:
                    pass
        except TimeoutError:
            if self.stats["queued"]:
                logger.warning("Callbacks to %s were not delivered in %g s", self.callback_url, deadline)
        except OutboxError as exc:
            logger.error("%s: %s", self._standing_still, exc)
        if self._delivering is not None:
            self._delivering.cancel()
            await asyncio.wait({self._delivering})
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close the client of a sender that has nothing to deliver, and a store that is its own."""
        await self._client.aclose()
        if self._owns_store:
            await self._store.close()

    async def _deliver_all(self) -> None:
        while True:
            self._woken.clear()
            try:
                pause = await self._settle_oldest()
            except OutboxError as exc:
                self._errors.note(self._standing_still, exc)
                pause = _STORE_PAUSE
            else:
                self._errors.is_over(self._standing_still)
            if (pause is None or pause) and not self._woken.is_set():
                self.at_rest.set()
            if pause is None:
                if not self._woken.is_set():
                    return
            elif pause:
                # Not `wait_for`, which loses a cancellation that comes together with what it waits for.
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, _MAX_SLEEP)):
                        await self._woken.wait()

    async def _settle_oldest(self, *, is_last: bool = False) -> float | None:
        """Make one attempt at the head of the queue, where it is due.

        Args:
            is_last: Whether it is due in any case, unless the receiver has asked to be left alone.

        Returns:
            In how many seconds the head is due; 0 where it is out of the queue, None where there is none.
        """
        async with self._one_at_a_time:
            # Asked before the store is: where the clock was set, what is read is moved with it.
            now = self._clock()
            found = await self._store.oldest(self.callback_url)
            if found is None:
                self._not_before = None
                return None
            delivery, body = found
            REQUEST_ID.set(delivery.request_id)
            if now - delivery.created_at > self._max_age:
                await self._store.remove(delivery.id)
                self.note_dropped([delivery.webhook_id], "expired")
                return 0
            self._not_before = delivery.due_at
            pause = (delivery.left_alone_until if is_last else delivery.due_at) - now
            if 0 < pause <= _MAX_WAIT:
                return pause
            try:
                async with self._failing_limit if self._is_failing else self._limit:
                    self.in_flight = delivery
                    failure = await attempt(
                        self._client,
                        self.callback_url,
                        delivery.kind,
                        body,
                        webhook_id=delivery.webhook_id,
                        request_id=delivery.request_id,
                        timestamp=int(self._clock()),
                        secrets=self._secrets,
                        timeout=self._timeout,
                    )
                self.counters.retried += delivery.attempts > 0
                if failure is None:
                    await self._note_delivered(delivery)
                    return 0
                return await self._note_failure(delivery, failure)
            finally:
                # Not before it is counted: what has left the file is in flight or in the counters.
                self.in_flight = None

    async def _note_delivered(self, delivery: Delivery) -> None:
        if self._is_failing:
            self._is_failing = False
            logger.info("The receiver %s takes callbacks again", self.callback_url)
        while True:
            try:
                await self._store.remove(delivery.id)
            except OutboxError as exc:
                # It must not be sent again for want of room to say that it need not be.
                self._errors.note(self._standing_still, exc)
                await asyncio.sleep(_STORE_PAUSE)
            else:
                self.counters.delivered += 1
                return

    async def _note_failure(self, delivery: Delivery, failure: Failure) -> float:
        self._last_error = failure.reason
        attempts = delivery.attempts + 1
        is_exhausted = self.max_retries is not None and attempts > self.max_retries
        if failure.retry_after:
            await self._store.leave_alone(self.callback_url, failure.retry_after, self._clock())
        if failure.is_permanent or is_exhausted:
            reason = "rejected" if failure.is_permanent else "retries"
            await self._store.bury(delivery.id, reason, failure.reason)
            self.counters.dropped[reason] += 1
            logger.error(
                "Callback %s/%s (%s, %d attempts) dropped: %s",
                self.callback_url,
                delivery.kind,
                _named(delivery),
                attempts,
                failure.reason,
            )
            return 0
        now, wait = self._clock(), self._wait(attempts)
        pause = max(wait, failure.retry_after)
        self._not_before = now + pause
        await self._store.note_failure(delivery.id, failure.reason, now + wait)
        # One line says that the receiver is down; each attempt until it is up again is in the debug log.
        logger.log(
            logging.DEBUG if self._is_failing else logging.WARNING,
            "Callback %s/%s (%s) failed: %s; retry %d%s in %.1f s",
            self.callback_url,
            delivery.kind,
            _named(delivery),
            failure.reason,
            attempts,
            "" if self.max_retries is None else f" of {self.max_retries}",
            pause,
        )
        self._is_failing = True
        # Never 0, which would say that it is out of the queue.
        return pause or math.ulp(0.0)


def _named(delivery: Delivery) -> str:
    """Name a callback in the log: by its own id, and by the request that it comes of."""
    of_request = "" if delivery.request_id is None else f" of request {delivery.request_id}"
    return f"{delivery.webhook_id}{of_request}"
