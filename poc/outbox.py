"""The one owner of callbacks that are still to be delivered, whichever round they come from."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
from tenacity.wait import WaitBaseT, wait_random_exponential

from hallmark.poc.callback_url import CallbackKind
from hallmark.poc.callbacks import CallbackSender, CallbackStats, callback_client
from hallmark.poc.settings import Settings

__all__ = ["Outbox"]

_MOST_IDLE = 16


class Outbox:
    """Callbacks to any number of receivers, in memory; one that is down does not delay another.

    It outlives rounds: what a stopped round has found is delivered while the next one runs.

    Args:
        settings: The `callback_*` settings.
        client: The HTTP client; None makes one. Closed with the outbox.
        wait: The wait between attempts; None takes the settings' backoff.
    """

    def __init__(
        self, settings: Settings, *, client: httpx.AsyncClient | None = None, wait: WaitBaseT | None = None
    ) -> None:
        self._settings = settings
        self._client = client or callback_client()
        self._wait = wait or wait_random_exponential(
            multiplier=settings.callback_retry_base,
            min=settings.callback_retry_base,
            max=settings.callback_retry_cap,
        )
        self._senders: dict[str, CallbackSender] = {}
        self._forgotten = {"sent": 0, "retried": 0, "dropped": 0}

    def post(self, url: str, kind: CallbackKind, payload: Mapping[str, Any]) -> None:
        """Take a payload for a receiver and deliver it in the background."""
        if url not in self._senders:
            self._forget_idle()
            self._senders[url] = CallbackSender(
                url,
                self._settings.callback_max_retries,
                self._settings.callback_max_queue,
                client=self._client,
                wait=self._wait,
                timeout=self._settings.callback_timeout,
            )
        self._senders[url].post(payload, kind)

    def stats(self) -> dict[str, Any]:
        """The sums over all receivers, and under `receivers` the stats of each recent one by its URL."""
        receivers: dict[str, CallbackStats] = {url: sender.stats for url, sender in self._senders.items()}
        ages = [stats["oldest_age"] for stats in receivers.values() if stats["oldest_age"] is not None]
        errors = [stats["last_error"] for stats in receivers.values() if stats["last_error"] is not None]
        return {
            "queued": sum(stats["queued"] for stats in receivers.values()),
            "sent": self._forgotten["sent"] + sum(stats["sent"] for stats in receivers.values()),
            "retried": self._forgotten["retried"] + sum(stats["retried"] for stats in receivers.values()),
            "dropped": self._forgotten["dropped"] + sum(stats["dropped"] for stats in receivers.values()),
            "oldest_age": max(ages, default=None),
            "last_error": errors[-1] if errors else None,
            "receivers": receivers,
        }

    async def close(self, deadline: float) -> None:
        """Attempt once more what is queued, for at most `deadline` seconds; what is left is dropped."""
        await asyncio.gather(*(sender.close(deadline) for sender in self._senders.values()))
        await self._client.aclose()

    def _forget_idle(self) -> None:
        """Keep the number of receivers bounded; their totals stay in the sums."""
        idle = [url for url, sender in self._senders.items() if not sender.queued]
        for url in idle[: max(0, len(idle) - _MOST_IDLE + 1)]:
            stats = self._senders.pop(url).stats
            self._forgotten["sent"] += stats["sent"]
            self._forgotten["retried"] += stats["retried"]
            self._forgotten["dropped"] += stats["dropped"]
