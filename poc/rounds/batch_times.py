"""How long the engine takes for a batch, and how many fit in one call of it."""

from collections.abc import Sequence

from hallmark.poc.protocol.status import BatchStats
from hallmark.poc.rounds.engine_protocol import ComputedBatch

__all__ = ["CALL_SECONDS", "MAX_BATCHES", "BatchTimes"]

CALL_SECONDS = 0.5
"""About how long one call of an idle engine may take, so that stopping a round is prompt."""

MAX_BATCHES = 64
"""Most batches in one call."""


_BATCHES_FOR_A_STAGE = 2


class BatchTimes:
    """The engine's calls of a round, measured one by one."""

    def __init__(self) -> None:
        self._computed = self._in_last_call = 0
        self._seconds_each: float | None = None
        self._host_seconds_each: float | None = None

    @property
    def stats(self) -> BatchStats:
        """Totals, and the last call."""
        return BatchStats(
            computed=self._computed,
            in_last_call=self._in_last_call,
            seconds_each=self._seconds_each,
            host_seconds_each=self._host_seconds_each,
        )

    def record(self, batches: Sequence[ComputedBatch], seconds: float) -> None:
        """Note what one call has computed, and the time from asking to the answer."""
        self._computed += len(batches)
        self._in_last_call = len(batches)
        self._seconds_each = seconds / len(batches)
        self._host_seconds_each = sum(batch.host_seconds for batch in batches) / len(batches)

    def batches_per_call(self, stages: int = 1, longest: float = CALL_SECONDS) -> int:
        """Return how many batches fill `CALL_SECONDS`, going by the last call.

        1 as long as nothing is known. Several stages are given more, or each would wait for the others for
        most of a call: of n batches through s stages a stage is at work for n of n + s - 1 turns.

        Args:
            stages: Through how many stages of a pipeline a batch goes.
            longest: Seconds that a call of theirs may take.
        """
        if self._seconds_each is None:
            return 1
        each = max(self._seconds_each, 1e-9)
        fitting = int(CALL_SECONDS / each)
        if stages > 1:
            fitting = max(fitting, min(_BATCHES_FOR_A_STAGE * stages, int(longest / each)))
        return max(1, min(MAX_BATCHES, fitting))
