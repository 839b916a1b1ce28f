"""The specification's names, for programs that drive the parts themselves.

A server calls none of the methods that stand here: it projects in fused kernels, and rounds, callbacks and
validation drive themselves.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hallmark.kernels.project_residual import project_residual
from hallmark.poc.core.compact_json import compact_json
from hallmark.poc.core.errors import StateError
from hallmark.poc.outbox import sender
from hallmark.poc.outbox.delivery_queue import Delivery
from hallmark.poc.protocol import projection
from hallmark.poc.protocol.config import PoCState
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.rounds import manager
from hallmark.poc.verdict.judge import ValidatedBatch
from hallmark.poc.webhooks.url import CallbackKind

__all__ = ["CallbackSender", "PoCManager", "RandomProjection"]


class RandomProjection(projection.RandomProjection):
    """The pair of projections, applied one at a time."""

    def pre(self, x: Tensor) -> Tensor:
        """Transform the model's input: [..., dim] to the same shape and dtype, rounded once."""
        projected: Tensor = project_residual(x, self.pre_proj, x.dtype)
        return projected

    def post(self, x: Tensor) -> Tensor:
        """Transform the final hidden state: [..., dim] to float32 of the same shape."""
        projected: Tensor = project_residual(x, self.post_proj, torch.float32)
        return projected


class PoCManager(manager.PoCManager):
    """A manager whose batches can be waited for one by one."""

    async def run_batch(self) -> ProofBatch | None:
        """Wait for the next batch of the walk, which the round's owner computes.

        Returns:
            What is reported of it; None when none of its nonces counts.

        Raises:
            StateError: The state is not GENERATING.
            HallmarkError: The round ended before.
        """
        if self.active is None or self.state is not PoCState.GENERATING:
            raise StateError(f"batches are generated in {PoCState.GENERATING}; the state is {self.state}")
        return await self.active.next_batch()

    async def validate(self, batch: ProofBatch) -> ValidatedBatch:
        """Queue a batch and wait for its verdict, through changes of phase.

        Raises:
            HallmarkError: As in `submit`.
            RoundCancelledError: The round ended before.
        """
        job = await self.submit(batch)
        await job.settled.wait()
        return job.outcome()


class CallbackSender(sender.CallbackSender):
    """A sender that is told when to deliver."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Of the deliveries that `send` waits for, which have been made.
        self._sent: dict[int, bool] = {}

    async def send(self, batch: Mapping[str, Any], kind: CallbackKind = "generated") -> bool:
        """Queue a payload and try at once to deliver all that is due.

        Returns:
            Whether the payload was delivered; if not, it stays queued for `retry_pending`.

        Raises:
            ValueError: The payload has numbers that JSON does not have.
            OutboxError: It cannot be kept.
        """
        added, dropped = await self._store.add(
            self.callback_url,
            kind,
            [compact_json(batch)],
            now=self._clock(),
            max_queued=self.max_queue_size,
            in_flight=[] if self.in_flight is None else [self.in_flight.id],
        )
        self.note_dropped(drop.webhook_id for drop in dropped)
        if not added:
            return False
        self._sent[added[0]] = False
        try:
            await self.retry_pending()
            return self._sent[added[0]]
        finally:
            del self._sent[added[0]]

    async def retry_pending(self) -> None:
        """Attempt what is due, oldest first, until one has to be tried again later.

        Raises:
            OutboxError: The store fails.
        """
        while await self._settle_oldest() == 0:
            pass

    async def _note_delivered(self, delivery: Delivery) -> None:
        if delivery.id in self._sent:
            self._sent[delivery.id] = True
        await super()._note_delivered(delivery)
