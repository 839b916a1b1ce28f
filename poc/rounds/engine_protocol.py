"""What the manager needs of an engine, whatever runs the model."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round_spec import RoundSpec

__all__ = ["ComputedBatch", "PoCEngine", "Slice"]


class ComputedBatch(NamedTuple):
    """A batch that an engine has computed.

    Attributes:
        numbers: For each key, in order, its k numbers; NaN in all of them where the nonce failed.
        host_seconds: How long the engine's process was busy launching it, waiting not included. On a CPU that
            is the computing itself.
    """

    numbers: list[list[float]]
    host_seconds: float


class Slice(NamedTuple):
    """What one call has done of the batches that an engine is at.

    Attributes:
        seconds: How long it held the engine.
        layers: How many of the model's layers it got through, in one batch or several.
        batches: What was computed, in order; None where the batches are suspended.
    """

    seconds: float
    layers: int
    batches: list[ComputedBatch] | None


class PoCEngine(Protocol):
    """An engine that computes numbers, one call at a time; between calls it serves inference.

    Its one caller serialises the calls, and never cancels the task that awaits one: the engine's ranks
    would be left in the middle of it. It is at the batches of one `start` at most.
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

    async def start(self, batches: Sequence[Sequence[NonceKey]], layers: int | None) -> Slice:
        """Begin batches of the open round, to be computed back to back, and go on for so many layers.

        Args:
            batches: In each 1 to `batch_size` pairs of a public key and a nonce; the engine pads a short one.
            layers: How many; None: to the end.

        Raises:
            EngineError: No round is open, others are suspended, or a batch failed as a whole.
        """
        ...

    async def advance(self, layers: int | None) -> Slice:
        """Go on with the suspended batches for so many layers, or to the end; the numbers are the same.

        Raises:
            EngineError: None are suspended, or a batch failed as a whole.
        """
        ...

    async def close_round(self) -> None:
        """Free the round's constants, and suspended batches with it; without an open round, do nothing.

        Raises:
            EngineError: A rank failed.
        """
        ...
