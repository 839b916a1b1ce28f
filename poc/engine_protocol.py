"""What the manager needs of an engine, whatever runs the model."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from hallmark.poc.config import DeployedModel
from hallmark.poc.nonces import NonceKey
from hallmark.poc.proof import Numerics
from hallmark.poc.round import RoundSpec

__all__ = ["ComputedBatch", "PoCEngine"]


class ComputedBatch(NamedTuple):
    """A batch that an engine has computed.

    Attributes:
        distances: One for each key, in order; NaN where the nonce failed.
        host_seconds: How long the engine's process was busy launching it, waiting for results not included.
            On a CPU that is the computing itself.
    """

    distances: list[float]
    host_seconds: float


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

    @property
    def is_idle(self) -> bool:
        """Whether no inference request is unfinished, so that a long call keeps nobody waiting."""
        ...

    async def compute(self, batches: Sequence[Sequence[NonceKey]]) -> list[ComputedBatch]:
        """Compute batches of the open round, back to back.

        Args:
            batches: In each 1 to `batch_size` pairs of a public key and a nonce; the engine pads a short one.

        Returns:
            What was computed of each batch, in order.

        Raises:
            EngineError: No round is open, or a batch failed as a whole.
        """
        ...

    async def close_round(self) -> None:
        """Free the round's constants; without an open round, do nothing.

        Raises:
            EngineError: A rank failed.
        """
        ...
