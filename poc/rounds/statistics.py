"""What a round has counted so far."""

import time
from collections import deque
from collections.abc import Callable

from hallmark.poc.protocol.generated import ComputedSpan
from hallmark.poc.rounds.number_histogram import NumberHistogram

__all__ = ["MAX_SHOWN", "RoundStatistics"]

MAX_SHOWN = 1_000
"""How many of the latest valid nonces are kept to be shown; the totals are exact."""


class RoundStatistics:
    """Exact totals of a round's generation, its latest valid nonces, and the time it took.

    Attributes:
        total_checked: Nonces computed, the failed ones included.
        total_valid: Nonces that count.
        total_failed: Nonces that could not be computed.
        first_numbers: Those by which nonces count or do not, of all that this server computed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.total_checked = 0
        self.total_valid = 0
        self.total_failed = 0
        self.first_numbers = NumberHistogram()
        self._resumed_at = 0
        self._latest: deque[tuple[int, float]] = deque(maxlen=MAX_SHOWN)
        self._clock = clock
        self._started = clock()
        self._ended: float | None = None
        self._generating_since: float | None = None
        self._generating_seconds = 0.0

    def resume(self, checked: int, valid: int, failed: int) -> None:
        """Go on counting where another server was."""
        self.total_checked, self.total_valid, self.total_failed = checked, valid, failed
        self._resumed_at = checked

    def record(self, batch: ComputedSpan) -> None:
        """Count a computed batch."""
        self.total_checked += batch.n_checked
        self.total_valid += len(batch.nonces)
        self.total_failed += len(batch.failed_nonces)
        self._latest.extend(zip(batch.nonces, batch.dist, strict=True))

    def set_generating(self, generating: bool) -> None:
        """Start or stop the clock that the rate is measured with."""
        now = self._clock()
        if self._generating_since is not None:
            self._generating_seconds += now - self._generating_since
        self._generating_since = now if generating else None

    def end(self) -> None:
        """Stop both clocks."""
        self.set_generating(False)
        self._ended = self._clock()

    @property
    def valid_nonces(self) -> list[int]:
        """The latest valid nonces, in the order of the walk."""
        return [nonce for nonce, _ in self._latest]

    @property
    def valid_distances(self) -> list[float]:
        """Their distances."""
        return [distance for _, distance in self._latest]

    @property
    def elapsed_seconds(self) -> float:
        """Time from the round's start to its end, or to now."""
        return (self._clock() if self._ended is None else self._ended) - self._started

    @property
    def rate_per_second(self) -> float:
        """Nonces checked in a second of generating."""
        seconds = self._generating_seconds
        if self._generating_since is not None:
            seconds += self._clock() - self._generating_since
        return (self.total_checked - self._resumed_at) / seconds if seconds > 0 else 0.0
