"""Proof of compute in vLLM's own `/metrics`, for Prometheus."""

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.status import RoundStatus, StallStats
from hallmark.poc.rounds.manager import PoCManager
from hallmark.server.http.status import snapshot

__all__ = ["PoCCollector", "families", "register"]

# Prometheus has given a scrape up by then, unless told otherwise.
_MAX_READ: Final = 10.0


class PoCCollector(Collector):
    """A manager's state and status as metric families, read when asked for; nothing is counted here.

    Made on the thread of the manager's event loop, and read on any.

    Args:
        manager: The manager.
    """

    def __init__(self, manager: PoCManager) -> None:
        self._manager = manager
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def collect(self) -> Iterable[Metric]:
        """Return all families; what has no value yet has no sample.

        Raises:
            TimeoutError: The event loop has not answered in 10 seconds.
        """
        if threading.get_ident() == self._thread:
            return self._families()
        # vLLM answers /metrics in a thread of its own, while the manager belongs to the event loop: read from
        # another thread, what it counts in could change in the middle of it.
        return asyncio.run_coroutine_threadsafe(self._read(), self._loop).result(_MAX_READ)

    async def _read(self) -> list[Metric]:
        return self._families()

    def _families(self) -> list[Metric]:
        return families(snapshot(self._manager), gate_closed=self._manager.gate_closed)


def register(manager: PoCManager, registry: CollectorRegistry) -> PoCCollector:
    """Let a registry show a manager; call it on the manager's event loop.

    Returns:
        What `registry.unregister` takes.

    Raises:
        ValueError: The registry shows a manager already.
    """
    collector = PoCCollector(manager)
    registry.register(collector)
    return collector


def families(status: RoundStatus, *, gate_closed: bool) -> list[Metric]:
    """Return all families.

    Args:
        status: What the node says of itself.
        gate_closed: Whether inference is refused.
    """
    validation, callbacks = status["validation"], status["callbacks"]
    return [
        _state(PoCState(status["state"])),
        _gauge("round_failed", "Whether the latest round ended by a failure.", status["has_failed"]),
        _gauge("gate_closed", "Whether inference is refused.", gate_closed),
        _gauge(
            "inference_connections",
            "Connections on which inference is served at present.",
            status["inference"]["connections"],
        ),
        _gauge(
            "inference_quiet_connections",
            "Those of them on which nothing has moved for 10 s.",
            status["inference"]["quiet_connections"],
        ),
        _gauge(
            "longest_loop_hold_seconds",
            "The longest in the round that the event loop was held while inference was served.",
            _seconds(status["inference"]["longest_loop_hold_ms"]),
        ),
        _gauge("stuck", "Whether the engine has not answered for `stuck_after`.", status["is_stuck"]),
        _gauge(
            "time_since_progress_seconds",
            "How long the engine has not answered although there is work.",
            status["seconds_since_progress"],
        ),
        # The next six begin anew with each round and are counters all the same: in between they only rise,
        # and `rate` and `increase`, which one wants of them and which are for counters, take the fall for a
        # restart. Where a round overtakes the last one's total between two scrapes, no fall is seen.
        _counter("round_checked_nonces", "Nonces the round has generated.", status["total_checked"]),
        _counter("round_valid_nonces", "Generated nonces that count.", status["total_valid"]),
        _counter("round_failed_nonces", "Nonces that could not be computed.", status["total_failed"]),
        _counter("round_batches", "Batches computed, validation's too.", status["batches"]["computed"]),
        _counter("round_slices", "Slices of batches computed, validation's too.", validation["slices"]),
        _counter(
            "round_slices_concurrent_with_inference",
            "Slices computed while inference was at work, which may have waited for them.",
            validation["slices_concurrent_with_inference"],
        ),
        _counter(
            "round_slices_beside_inference",
            "The older name of round_slices_concurrent_with_inference_total.",
            validation["slices_beside_inference"],
        ),
        _stalls(validation["stall_ms"]),
        _gauge(
            "max_stall_seconds",
            "The setting `max_stall_ms`, which `hallmark_stall_seconds` is to keep within.",
            _seconds(validation["max_stall_ms"]),
        ),
        _gauge("layer_seconds", "What one layer of a batch takes.", _seconds(validation["layer_ms"])),
        _gauge(
            "max_stall_met",
            "Whether a slice of one layer, the shortest there is, keeps within `max_stall_ms`.",
            validation["max_stall_is_met"],
        ),
        _gauge(
            "share_allowed_ratio",
            "Share of engine time that proof of compute may take beside inference: `validation_share`.",
            validation["share"],
        ),
        _gauge("share_used_ratio", "Share that it has taken lately.", validation["share_used"]),
        _gauge("validation_queued_jobs", "Batches that wait for a verdict.", validation["queued_jobs"]),
        _gauge("validation_queued_nonces", "Their nonces still to compute.", validation["queued_nonces"]),
        _gauge(
            "validation_nonces_per_second",
            "How fast nonces are validated, lately.",
            validation["nonces_per_second"],
        ),
        _counter("validation_completed_jobs", "Batches with a verdict.", validation["completed_jobs"]),
        _counter("validation_cancelled_jobs", "Batches given up without one.", validation["cancelled_jobs"]),
        _counter("validation_checked_nonces", "Nonces recomputed.", validation["checked_nonces"]),
        _counter(
            "validation_failed_nonces",
            "Nonces that validation could not compute, in batches with a verdict.",
            validation["failed_nonces"],
        ),
        _counter("validation_fraud_verdicts", "Batches judged to be fraud.", validation["fraud_verdicts"]),
        # Without the receivers: their URLs are without bound, and nobody else's business.
        _gauge("callbacks_queued", "Callbacks still to be delivered, to all receivers.", callbacks["queued"]),
        _gauge("callbacks_in_flight", "Callbacks being delivered.", callbacks["in_flight"]),
        _gauge(
            "callbacks_dead_letters", "Dead letters, which can still be retried.", callbacks["dead_letters"]
        ),
        _gauge("callbacks_kept", "The older name of callbacks_dead_letters.", callbacks["kept"]),
        _gauge("callbacks_bytes", "Bytes of callbacks in the outbox.", callbacks["bytes"]),
        _gauge(
            "outbox_used_ratio",
            "How full the outbox is, of `outbox_max_bytes` or of `callback_max_queue`, whichever is nearer; "
            "at 1 the oldest callbacks are dropped.",
            callbacks["used_ratio"],
        ),
        _gauge("outbox_free_bytes", "Free on the file system of the outbox.", callbacks["free_bytes"]),
        _gauge("callbacks_oldest_age_seconds", "Age of the oldest callback queued.", callbacks["oldest_age"]),
        _gauge("callbacks_next_attempt_seconds", "Until the next attempt is due.", callbacks["next_attempt"]),
        _counter("callbacks_delivered", "Callbacks delivered.", callbacks["delivered"]),
        _counter("callbacks_retried", "Attempts after a callback's first.", callbacks["retried"]),
        _dropped(callbacks["dropped_by_reason"]),
        _gauge(
            "interrupted_round",
            "Whether a round that the last server's end interrupted waits for a decision.",
            status["interrupted_round"] is not None and not status["interrupted_round"]["is_resumed"],
        ),
        _gauge(
            "clock_seconds",
            "What this machine's clock says, since the epoch; Prometheus compares it with its own.",
            time.time(),
        ),
    ]


def _gauge(name: str, documentation: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"hallmark_{name}", documentation, value)


def _counter(name: str, documentation: str, value: int) -> Metric:
    return CounterMetricFamily(f"hallmark_{name}_total", documentation, value)


def _state(state: PoCState) -> Metric:
    family = GaugeMetricFamily(
        "hallmark_state", "1 for the state of the node, 0 for the others.", labels=["state"]
    )
    for each in PoCState:
        family.add_metric([each.value], each is state)
    return family


def _dropped(reasons: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(
        "hallmark_callbacks_dropped", "Callbacks no longer attempted, by reason.", labels=["reason"]
    )
    for reason, count in reasons.items():
        family.add_metric([reason], count)
    return family


def _stalls(stalls: StallStats) -> Metric:
    # A summary, since no other type may have the label `quantile`. Of the whole round only their number is
    # known, which is a counter above.
    family = SummaryMetricFamily(
        "hallmark_stall_seconds",
        "How long slices have held the engine beside inference, of the latest 1,000; the quantile 1 is the "
        "longest.",
    )
    for quantile, milliseconds in (("0.5", stalls["p50"]), ("0.99", stalls["p99"]), ("1", stalls["max"])):
        if milliseconds is not None:
            family.add_sample(family.name, {"quantile": quantile}, milliseconds / 1e3)
    return family


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3
