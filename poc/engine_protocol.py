"""What the manager needs of an engine, whatever runs the model."""

from collections.abc import Sequence
from typing import Protocol

from hallmark.poc.config import DeployedModel
from hallmark.poc.proof import Numerics
from hallmark.poc.round import RoundSpec

__all__ = ["PoCEngine"]


class PoCEngine(Protocol):
    """An engine that computes distances, one call at a time.

    Its one caller serialises the calls, and never cancels the task that awaits one: the engine's ranks
    would be left in the middle of it.
    """

    @property
    def model(self) -> DeployedModel:
        """What the engine serves."""
        ...

    @property
    def numerics(self) -> Numerics:
        """The fingerprint of the engine's arithmetic."""
        ...

    async def open_round(self, spec: RoundSpec) -> int:
        """Draw the round's constants on every rank; an open round is replaced.

        Returns:
            The bytes that they hold on a rank.

        Raises:
            EngineError: A rank failed.
        """
        ...

    async def compute(self, keys: Sequence[tuple[str, int]]) -> list[float]:
        """Compute the distances of one batch of the open round.

        Args:
            keys: 1 to `batch_size` pairs of a public key and a nonce; the engine pads a short batch.

        Returns:
            A distance for each key, in order; NaN where the nonce failed.

        Raises:
            EngineError: No round is open, or the batch failed as a whole.
        """
        ...

    async def close_round(self) -> None:
        """Free the round's constants; without an open round, do nothing.

        Raises:
            EngineError: A rank failed.
        """
        ...
