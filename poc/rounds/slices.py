"""How long slices of batches hold the engine, and how much of its time they take."""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from hallmark.poc.protocol.status import SliceStats, StallStats
from hallmark.poc.rounds.engine_protocol import Slice

__all__ = ["SliceTimes"]

_KEPT = 1_000
_DECAY = 0.1


class SliceTimes:
    """The slices of a round, measured one by one.

    Args:
        clock: Seconds on a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slices = self._slices_concurrent_with_inference = 0
        self._layer_seconds: float | None = None
        self._stalls: deque[float] = deque(maxlen=_KEPT)
        # Of a slice concurrent with inference: its seconds, and those from its beginning to the next one's.
        self._periods: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._latest: tuple[float, float] | None = None

    def stats(self, max_stall_ms: float) -> SliceStats:
        """Return totals, the latest stalls, and what a layer costs."""
        layer_ms = None if self._layer_seconds is None else self._layer_seconds * 1e3
        stalls = sorted(self._stalls)
        return SliceStats(
            slices=self._slices,
            slices_concurrent_with_inference=self._slices_concurrent_with_inference,
            slices_beside_inference=self._slices_concurrent_with_inference,
            layer_ms=layer_ms,
            max_stall_is_met=None if layer_ms is None else layer_ms <= max_stall_ms,
            stall_ms=StallStats(
                p50=_percentile_ms(stalls, 0.5),
                p99=_percentile_ms(stalls, 0.99),
                max=_percentile_ms(stalls, 1.0),
            ),
            share_used=_share(self._periods),
        )

    def layers_within(self, seconds: float) -> int:
        """Return how many layers take about so long, at least 1; 1 as long as nothing is known."""
        if self._layer_seconds is None:
            return 1
        return max(1, int(min(seconds / max(self._layer_seconds, 1e-9), 1e6)))

    def record(self, done: Slice, *, concurrent_with_inference: bool) -> None:
        """Note a slice that has just ended."""
        self._slices += 1
        cost = done.seconds / max(1, done.layers)
        # A dearer layer counts at once and a cheaper one little by little: a stall is to be no surprise.
        if self._layer_seconds is None or cost > self._layer_seconds:
            self._layer_seconds = cost
        else:
            self._layer_seconds += _DECAY * (cost - self._layer_seconds)
        begun = self._clock() - done.seconds
        if self._latest is not None:
            was_begun, seconds = self._latest
            self._periods.append((seconds, max(seconds, begun - was_begun)))
        self._latest = None
        if concurrent_with_inference:
            self._slices_concurrent_with_inference += 1
            self._stalls.append(done.seconds)
            self._latest = begun, done.seconds

    def rest(self) -> None:
        """Note that there is nothing to compute for now: the next slice tells nothing of a share."""
        self._latest = None


def _share(periods: Collection[tuple[float, float]]) -> float | None:
    total = sum(period for _, period in periods)
    return sum(busy for busy, _ in periods) / total if total else None


def _percentile_ms(ordered: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile of ordered seconds, in milliseconds."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1e3
