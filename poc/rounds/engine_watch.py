"""Whether the engine gets on with a round, and how long its batches take."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TypeVar

from hallmark.poc.rounds.batch_times import BatchTimes
from hallmark.poc.rounds.engine_protocol import ComputedBatch

__all__ = ["EngineWatch"]

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class EngineWatch:
    """Waits for the engine's calls of a round, and says so where they do not get on.

    Args:
        block_hash: The round's block, for the log.
        stuck_after: Seconds without progress after which a call that runs is logged, and then at waits that
            double.
        clock: Seconds on a clock that never goes back.

    Attributes:
        times: How long the round's batches take.
    """

    def __init__(
        self, block_hash: str, stuck_after: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.times = BatchTimes()
        self._block_hash = block_hash
        self._stuck_after = stuck_after
        self._clock = clock
        self._last_progress = clock()

    @property
    def seconds_since_progress(self) -> float:
        """How long ago progress was last noted."""
        return self._clock() - self._last_progress

    def note_progress(self) -> None:
        """Note that the engine has answered, or that it has only now got something to do."""
        self._last_progress = self._clock()

    async def wait_for(self, work: Coroutine[None, None, _Result]) -> _Result:
        """Wait for a call of the engine; what it raises is raised."""
        task = asyncio.ensure_future(work)
        try:
            pause = self._stuck_after
            while not task.done():
                await asyncio.wait({task}, timeout=pause)
                if task.done() or self.seconds_since_progress < self._stuck_after:
                    pause = self._stuck_after
                    continue
                logger.error(
                    "The round for block %r is stuck: the engine has not answered for %.0f s",
                    self._block_hash,
                    self.seconds_since_progress,
                )
                pause *= 2
        finally:
            task.cancel()  # where the task that waits is cancelled: the engine is gone
        return task.result()

    async def wait_for_batches(
        self, work: Coroutine[None, None, list[ComputedBatch] | None]
    ) -> list[ComputedBatch] | None:
        """Wait for batches as `wait_for` does, and note how long they took; None where they were given up."""
        begun = self._clock()
        computed = await self.wait_for(work)
        if computed is not None:
            self.times.record(computed, self._clock() - begun)
        return computed
