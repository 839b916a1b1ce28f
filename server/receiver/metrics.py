"""What a receiver has taken and refused since it started, for Prometheus."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, get_args

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from hallmark.server.receiver.database import Kind

__all__ = ["CONTENT_TYPE", "ReceiverMetrics"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

# The statuses that deliveries are refused with.
_REFUSALS: Final = (400, 401, 409, 413, 503)


class ReceiverMetrics(Collector):
    """Count what one application takes, in a registry of its own; used by one thread at a time.

    Args:
        free_bytes: Tells what is free where its batches are kept.
    """

    def __init__(self, free_bytes: Callable[[], int | None]) -> None:
        self._free_bytes = free_bytes
        self._batches = _by_kind()
        self._nonces = _by_kind()
        self._duplicates = _by_kind()
        # From the start: Prometheus sees an increase only of what it has seen before.
        self._refused = Counter(dict.fromkeys(map(str, _REFUSALS), 0))
        self._fraud = 0
        self._last_taken: float | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def take(self, kind: Kind, nonces: int, now: float, *, is_fraud: bool) -> None:
        """Count a batch that was not there before.

        Args:
            kind: Which callback brought it.
            nonces: How many it has.
            now: In seconds since the epoch.
            is_fraud: Whether it is a verdict that convicts.
        """
        self._batches[kind] += 1
        self._nonces[kind] += nonces
        self._fraud += is_fraud
        self._last_taken = now

    def repeat(self, kind: Kind) -> None:
        """Count a delivery of a batch that is there already."""
        self._duplicates[kind] += 1

    def refuse(self, status: int) -> None:
        """Count a delivery that was answered with this status."""
        self._refused[str(status)] += 1

    def text(self) -> bytes:
        """Return all families in Prometheus's text format, `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Return all families; what has no value yet has no sample."""
        return [
            _counter("batches", "Batches taken, each counted once.", "kind", self._batches),
            _counter("nonces", "Nonces of the batches taken.", "kind", self._nonces),
            _counter(
                "duplicates", "Deliveries of batches that were there already.", "kind", self._duplicates
            ),
            _counter("refused", "Deliveries refused, by HTTP status.", "status", self._refused),
            CounterMetricFamily("hallmark_receiver_fraud_verdicts", "Verdicts of fraud taken.", self._fraud),
            GaugeMetricFamily(
                "hallmark_receiver_last_batch_timestamp_seconds",
                "When the last batch since the start was taken, since the epoch.",
                self._last_taken,
            ),
            GaugeMetricFamily(
                "hallmark_receiver_free_bytes",
                "Free on the file system of the database.",
                self._free_bytes(),
            ),
            GaugeMetricFamily(
                "hallmark_receiver_clock_seconds",
                "What this machine's clock says, since the epoch; Prometheus compares it with its own.",
                time.time(),
            ),
        ]


def _by_kind() -> Counter[str]:
    return Counter(dict.fromkeys(get_args(Kind), 0))


def _counter(name: str, documentation: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"hallmark_receiver_{name}", documentation, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
