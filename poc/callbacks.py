"""Delivery of callbacks to one receiver: in order, retried with exponential backoff, bounded."""

import asyncio
import json
import logging
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypedDict

import httpx
from tenacity import AsyncRetrying, RetryCallState
from tenacity.wait import WaitBaseT, wait_random_exponential

from hallmark.poc.callback_url import CallbackKind, request_target

__all__ = ["CallbackSender", "CallbackStats", "callback_client"]

logger = logging.getLogger(__name__)

_TRANSIENT_CLIENT_ERRORS = frozenset({408, 425, 429})
_LONGEST_RETRY_AFTER = 600.0
_LONGEST_ERROR = 200


class CallbackStats(TypedDict):
    """What `/status` shows of a receiver; ages in seconds."""

    queued: int
    sent: int
    retried: int
    dropped: int
    oldest_age: float | None
    last_error: str | None


@dataclass(slots=True)
class _Delivery:
    kind: CallbackKind
    body: bytes
    webhook_id: str
    created: float
    attempts: int = 0
    not_before: float = -math.inf
    delivered: bool = False


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    permanent: bool = False
    retry_after: float = 0.0


def callback_client() -> httpx.AsyncClient:
    """An HTTP client that goes where the URL says: no redirects, no proxy from the environment."""
    # Without a limit of its own: the sender limits the whole attempt.
    return httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=None)  # noqa: S113


class CallbackSender:
    """Owns what one receiver has still to get, and delivers it in order.

    An answer of 2xx is a delivery. Everything else is a failure and is tried again, after an exponentially
    growing wait with jitter, or after the answer's `Retry-After` where that is longer; except that a 4xx
    other than 408, 425 and 429 is final. What fails finally, has been retried `max_retries` times, or is the
    oldest when the queue is full, is dropped: counted and logged, never in silence. The first failure of a
    receiver is logged as a warning, and that it takes callbacks again as information.

    A delivery keeps its body and its `webhook-id`, the idempotency key of Standard Webhooks.

    Args:
        callback_url: The base URL, checked by `check_callback_url`.
        max_retries: Attempts after the first.
        max_queue_size: Deliveries that may wait.
        client: The HTTP client; not closed here.
        wait: tenacity's strategy for the wait before attempt n + 1.
        timeout: Seconds that one attempt may take, from connecting to the answer's headers.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        callback_url: str,
        max_retries: int = 3,
        max_queue_size: int = 100,
        *,
        client: httpx.AsyncClient | None = None,
        wait: WaitBaseT | None = None,
        timeout: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.callback_url = callback_url
        self.max_retries = max_retries
        self.max_queue_size = max_queue_size
        self._client = client or callback_client()
        self._wait = wait or wait_random_exponential(min=1, max=60)
        self._timeout = timeout
        self._clock = clock
        self._queue: deque[_Delivery] = deque()
        self._in_flight: _Delivery | None = None
        self._sent = self._retried = self._dropped = 0
        self._last_error: str | None = None
        self._is_failing = False
        self._one_at_a_time = asyncio.Lock()
        self._delivering: asyncio.Task[None] | None = None

    @property
    def queued(self) -> int:
        """Number of deliveries that are waiting or in flight."""
        return len(self._queue) + (self._in_flight is not None)

    @property
    def stats(self) -> CallbackStats:
        """The counters; all but `queued` and `oldest_age` are totals since the start."""
        oldest = self._in_flight or next(iter(self._queue), None)
        return CallbackStats(
            queued=self.queued,
            sent=self._sent,
            retried=self._retried,
            dropped=self._dropped,
            oldest_age=None if oldest is None else self._clock() - oldest.created,
            last_error=self._last_error,
        )

    async def send(self, batch: Mapping[str, Any], kind: CallbackKind = "generated") -> bool:
        """Queue a payload and try at once to deliver all that is due.

        Returns:
            Whether the payload was delivered; if not, it stays queued for `retry_pending`.
        """
        delivery = self._enqueue(batch, kind)
        await self.retry_pending()
        return delivery.delivered

    def post(self, batch: Mapping[str, Any], kind: CallbackKind) -> None:
        """Queue a payload and let it be delivered in the background, retries included."""
        self._enqueue(batch, kind)
        if self._delivering is None or self._delivering.done():
            self._delivering = asyncio.create_task(self._deliver_all(), name="hallmark callbacks")

    async def retry_pending(self) -> None:
        """Attempt what is due, oldest first, until one has to be tried again later."""
        async with self._one_at_a_time:
            while self._queue and self._queue[0].not_before <= self._clock():
                if not await self._settle_oldest():
                    return

    async def close(self, deadline: float) -> None:
        """Attempt what is queued, due or not, until one fails, for `deadline` seconds; drop the rest."""
        try:
            async with asyncio.timeout(deadline), self._one_at_a_time:
                while self._queue and await self._settle_oldest():
                    pass
        except TimeoutError:
            logger.warning("Callbacks to %s were not delivered in %g s", self.callback_url, deadline)
        if self._delivering is not None:
            self._delivering.cancel()
            await asyncio.wait({self._delivering})
        while self._queue:
            self._drop(self._queue.popleft(), "the server is stopping")

    async def _deliver_all(self) -> None:
        while self._queue:
            await self.retry_pending()
            if self._queue:
                await asyncio.sleep(max(0.0, self._queue[0].not_before - self._clock()))

    def _enqueue(self, batch: Mapping[str, Any], kind: CallbackKind) -> _Delivery:
        body = json.dumps(batch, allow_nan=False, separators=(",", ":")).encode("ascii")
        delivery = _Delivery(kind, body, f"msg_{uuid.uuid4().hex}", self._clock())
        self._queue.append(delivery)
        self._drop_overflow()
        return delivery

    def _drop_overflow(self) -> None:
        while len(self._queue) > self.max_queue_size:
            self._drop(self._queue.popleft(), f"the queue is full ({self.max_queue_size})")

    def _drop(self, delivery: _Delivery, reason: str) -> None:
        self._dropped += 1
        logger.error(
            "Callback %s/%s (%s, %d attempts) dropped: %s",
            self.callback_url,
            delivery.kind,
            delivery.webhook_id,
            delivery.attempts,
            reason,
        )

    async def _settle_oldest(self) -> bool:
        """One attempt at the head of the queue; whether it is out of the queue now, delivered or dropped."""
        delivery = self._in_flight = self._queue.popleft()
        delivery.attempts += 1
        if delivery.attempts > 1:
            self._retried += 1
        try:
            failure = await self._post(delivery)
        except BaseException:
            self._queue.appendleft(delivery)
            raise
        finally:
            self._in_flight = None
        if failure is None:
            delivery.delivered = True
            self._sent += 1
            if self._is_failing:
                self._is_failing = False
                logger.info("The receiver %s takes callbacks again", self.callback_url)
            return True
        self._last_error = failure.reason
        if failure.permanent or delivery.attempts > self.max_retries:
            self._drop(delivery, failure.reason)
            return True
        pause = max(self._backoff(delivery.attempts), failure.retry_after)
        delivery.not_before = self._clock() + pause
        # One line says that the receiver is down; each attempt until it is up again is in the debug log.
        logger.log(
            logging.DEBUG if self._is_failing else logging.WARNING,
            "Callback %s/%s (%s) failed: %s; retry %d of %d in %.1f s",
            self.callback_url,
            delivery.kind,
            delivery.webhook_id,
            failure.reason,
            delivery.attempts,
            self.max_retries,
            pause,
        )
        self._is_failing = True
        self._queue.appendleft(delivery)
        self._drop_overflow()
        return False

    def _backoff(self, attempts: int) -> float:
        state = RetryCallState(AsyncRetrying(), None, (), {})
        state.attempt_number = attempts
        return float(self._wait(state))

    async def _post(self, delivery: _Delivery) -> _Failure | None:
        """One HTTP request; None where it was answered with 2xx."""
        headers = {
            "Content-Type": "application/json",
            "webhook-id": delivery.webhook_id,
            "webhook-timestamp": str(int(time.time())),
        }
        target = {"target": request_target(self.callback_url, delivery.kind)}
        try:
            async with (
                asyncio.timeout(self._timeout),
                # Only the status matters: the answer's body is not read, however long it is.
                self._client.stream(
                    "POST", self.callback_url, content=delivery.body, headers=headers, extensions=target
                ) as response,
            ):
                status, retry_after = response.status_code, response.headers.get("Retry-After")
        except TimeoutError:
            return _Failure(f"no answer within {self._timeout:g} s")
        except httpx.HTTPError as exc:
            return _Failure(f"{type(exc).__name__}: {exc}"[:_LONGEST_ERROR])
        except Exception as exc:
            # Not foreseen, and yet no reason to keep what is queued behind it from being delivered.
            logger.exception("Callback %s/%s failed unexpectedly", self.callback_url, delivery.kind)
            return _Failure(f"{type(exc).__name__}: {exc}"[:_LONGEST_ERROR])
        if 200 <= status < 300:
            return None
        permanent = 400 <= status < 500 and status not in _TRANSIENT_CLIENT_ERRORS
        return _Failure(f"HTTP {status}", permanent, _seconds(retry_after))


def _seconds(retry_after: str | None) -> float:
    """A `Retry-After` header, a number of seconds or a date, as seconds from now; 0 where it is neither."""
    if retry_after is None:
        return 0.0
    try:
        if retry_after.isdigit():
            seconds = float(retry_after)
        else:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)
