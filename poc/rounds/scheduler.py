"""When the engine computes for a round, and when it is left to inference."""

import asyncio
import time
from collections.abc import Callable, Sequence

from hallmark.poc.core.errors import EngineError
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.status import SliceStats
from hallmark.poc.rounds.engine_protocol import ComputedBatch, PoCEngine
from hallmark.poc.rounds.inference_activity import InferenceActivity
from hallmark.poc.rounds.slices import SliceTimes
from hallmark.poc.settings.settings import Settings

__all__ = ["Scheduler"]


class Scheduler:
    """Computes batches in slices, between the engine's steps of inference.

    Beside inference a slice is at most `max_stall_ms` long, as far as whole layers allow, and after one of
    T seconds the engine is left to inference for T·(1 − share)/share. While no inference is at work slices
    follow each other and grow to `idle_slice_ms`, so that a request that comes waits no longer. While new
    requests are refused the share is 1: what is running gets its steps between short slices, and without any
    a batch runs to its end.

    Args:
        engine: The engine; this is its only caller while it computes.
        activity: What inference is at work.
        settings: The server's settings.
        refuses_inference: Whether new requests are refused at present.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        engine: PoCEngine,
        activity: InferenceActivity,
        settings: Settings,
        refuses_inference: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._activity = activity
        self._settings = settings
        self._refuses_inference = refuses_inference
        self._times = SliceTimes(clock)
        self._last_seconds = 0.0

    @property
    def stats(self) -> SliceStats:
        """What the slices have cost."""
        return self._times.stats(self._settings.max_stall_ms)

    @property
    def has_the_engine_to_itself(self) -> bool:
        """Whether a long call keeps nobody waiting: no inference is at work, and none can come."""
        return self._refuses_inference() and not self._activity.is_active

    async def compute(
        self,
        choose: Callable[[], Sequence[Sequence[NonceKey]]],
        *,
        ended: asyncio.Event,
        on_slice: Callable[[], None],
    ) -> list[ComputedBatch] | None:
        """Compute batches.

        Args:
            choose: The batches, as for `PoCEngine.start`; called when the engine is about to start them:
                how many keep nobody waiting may change while the engine is left to inference.
            ended: Where it is set between slices, the batches are given up.
            on_slice: Called after each slice.

        Returns:
            What was computed; None where it was given up, to be freed by closing the round.

        Raises:
            EngineError: As for `PoCEngine.start`, or the engine answered something that is not one distance
                for each nonce.
        """
        batches: Sequence[Sequence[NonceKey]] = ()
        while True:
            await self._leave_to_inference(ended)
            if ended.is_set():
                return None
            if batches:
                done = await self._engine.advance(self._layers())
            else:
                batches = choose()
                done = await self._engine.start(batches, self._layers())
            self._last_seconds = done.seconds
            self._times.record(done, concurrent_with_inference=self._activity.is_active)
            on_slice()
            if done.batches is not None:
                _check(done.batches, batches)
                return done.batches

    def rest(self) -> None:
        """Note that there is nothing to compute for now."""
        self._last_seconds = 0.0
        self._times.rest()

    def _layers(self) -> int | None:
        if self.has_the_engine_to_itself:
            return None
        longest = self._settings.max_stall_ms if self._activity.is_active else self._settings.idle_slice_ms
        return self._times.layers_within(longest / 1e3)

    async def _leave_to_inference(self, ended: asyncio.Event) -> None:
        """Wait as long as inference is owed after the last slice, or until it is at its end."""
        if self._refuses_inference() or not self._activity.is_active:
            return
        share = self._settings.validation_share
        waits = {asyncio.create_task(ended.wait())}
        if self._activity.connections:
            waits.add(asyncio.create_task(self._activity.all_served.wait()))
        try:
            await asyncio.wait(
                waits, timeout=self._last_seconds * (1 - share) / share, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for wait in waits:
                wait.cancel()


def _check(computed: Sequence[ComputedBatch], batches: Sequence[Sequence[NonceKey]]) -> None:
    asked, answered = [len(keys) for keys in batches], [len(batch.numbers) for batch in computed]
    if answered != asked:
        raise EngineError(f"the engine answered the numbers of {answered} nonces for {asked}")
