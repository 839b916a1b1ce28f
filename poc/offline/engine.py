"""What recomputes numbers without a server, whatever runs the model and on however many machines."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple, Protocol

from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round_spec import RoundSpec

__all__ = ["Batch", "Computed", "EngineLoader", "OfflineEngine", "deployed"]


class Batch(NamedTuple):
    """What an engine computes in one forward.

    Attributes:
        spec: The round's.
        keys: From 1 to the round's `batch_size` nonces, each with its public key; the engine pads them.
    """

    spec: RoundSpec
    keys: tuple[NonceKey, ...]


class Computed(NamedTuple):
    """A batch and what came of it.

    Attributes:
        batch: The batch.
        numbers: For each key, in order, its k numbers; NaN in all of them where the nonce failed.
    """

    batch: Batch
    numbers: list[list[float]]


class OfflineEngine(Protocol):
    """Computes batches; nobody else uses its model."""

    @property
    def facts(self) -> DeployedModel:
        """What a round has to know of the model; served under no name, with batches of any size."""
        ...

    @property
    def numerics(self) -> Numerics:
        """The fingerprint of its arithmetic."""
        ...

    def compute(self, batches: Iterable[Batch]) -> Iterator[Computed]:
        """Compute batches, each once, in whatever order they are done.

        Raises:
            EngineError: A batch failed as a whole.
            StateError: The model returns something else than hidden states of its width.
        """
        ...

    def close(self) -> None:
        """Free what it holds, in this process and in others."""
        ...


class EngineLoader(Protocol):
    """Knows how to load an engine, in this process or, pickled, in another one."""

    @property
    def devices(self) -> int:
        """How many GPUs, or CPUs where there are none, it runs on; 0: it takes its own of a cluster."""
        ...

    def fingerprint(self) -> str:
        """Return a hex digest of the model's files and of all else that its numbers may depend on."""
        ...

    def load(self) -> OfflineEngine:
        """Load the engine.

        Raises:
            FieldError: The folder does not hold such a model, or an option contradicts it.
            StateError: The model computes something else from embeddings than from tokens.
            UnsupportedError: What it runs on is not installed, or cannot run this.
            EngineError: It failed to start.
        """
        ...


def deployed(facts: DeployedModel, served_name: str, batch_tokens: int) -> DeployedModel:
    """Return the facts that a round is resolved against, as a server would state them.

    Args:
        facts: Of the engine.
        served_name: What the round calls the model; empty where it names none.
        batch_tokens: Rows of a whole batch of the round, which is never lowered here.
    """
    return replace(
        facts,
        served_names=(served_name,) if served_name else (),
        max_batched_tokens=batch_tokens,
        max_sequences=batch_tokens,
    )
