"""What a receiver has taken and refused since it started, for Prometheus."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, get_args

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from hallmark.server.receiver.store import Kind

__all__ = ["CONTENT_TYPE", "ReceiverMetrics"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class ReceiverMetrics(Collector):
    """Count what one application takes, in a registry of its own; used by one thread at a time."""

    def __init__(self) -> None:
        self._batches = _by_kind()
        self._nonces = _by_kind()
        self._duplicates = _by_kind()
        self._refused: Counter[str] = Counter()
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
            _counter("batches", "Batches taken, each once.", "kind", self._batches),
            _counter("nonces", "Nonces of the batches taken.", "kind", self._nonces),
            _counter("duplicates", "Deliveries of batches that were there.", "kind", self._duplicates),
            _counter("refused", "Deliveries refused, by HTTP status.", "status", self._refused),
            CounterMetricFamily("hallmark_receiver_fraud_verdicts", "Verdicts of fraud taken.", self._fraud),
            GaugeMetricFamily(
                "hallmark_receiver_last_batch_timestamp_seconds",
                "When the last batch since the start was taken, since the epoch.",
                self._last_taken,
            ),
        ]


def _by_kind() -> Counter[str]:
    return Counter(dict.fromkeys(get_args(Kind), 0))


def _counter(name: str, documentation: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"hallmark_receiver_{name}", documentation, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
