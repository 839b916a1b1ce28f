"""A round's forward on the experiments' models: inputs, final hidden states and distances of nonces."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hallmark.poc.offline.model import last_hidden
from hallmark.poc.protocol.law import distance_std
from hallmark.poc.protocol.model_facts import root_mean_square
from hallmark.poc.protocol.round import nearest_power_of_two
from hallmark.poc.protocol.round_spec import RoundSpec, round_digest, round_settings
from hallmark.poc.protocol.round_tensors import RoundTensors

Distances = npt.NDArray[np.float64]
Substitute = Callable[[Tensor], Tensor]
"""From projected inputs [batch, seq_len, D] to what stands for the final hidden states [batch, D]."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a forward gave, nonce by nonce.

    Attributes:
        hidden_states: [n, D], the last row of what the final norm returned, in float32.
        distances: [n], float64.
    """

    hidden_states: Tensor
    distances: Distances


def round_of(
    model: Any,
    *,
    block_hash: str = "soundness",
    seq_len: int = 64,
    batch_size: int = 32,
    input_scale: float | None = None,
    projection: bool = True,
) -> RoundSpec:
    """A round for a model, with the protocol's defaults.

    Args:
        model: Of transformers.
        block_hash: The block.
        seq_len: Rows of a nonce's input.
        batch_size: Nonces in one forward.
        input_scale: A power of two; None: the one nearest to the RMS of the model's embedding table.
        projection: Whether the projections are on.
    """
    if input_scale is None:
        input_scale = nearest_power_of_two(embedding_rms(model)) if projection else 1.0
    hidden_size = int(model.config.hidden_size)
    return RoundSpec(
        digest=round_digest(
            round_settings(
                hidden_size=hidden_size,
                seq_len=seq_len,
                input_scale=input_scale,
                projection=projection,
                projection_scale=0.01,
                model="",
            )
        ),
        block_hash=block_hash,
        hidden_size=hidden_size,
        seq_len=seq_len,
        batch_size=batch_size,
        input_scale=input_scale,
        projection=projection,
        projection_scale=0.01,
    )


def embedding_rms(model: Any) -> float:
    """Root mean square of the elements of a model's embedding table."""
    return root_mean_square(model.get_input_embeddings().weight.detach())


class Prover:
    """The forwards of one round on one model.

    Args:
        model: Of transformers.
        spec: The round.
        public_key: Whose nonces are computed.
    """

    def __init__(self, model: Any, spec: RoundSpec, public_key: str = "prover") -> None:
        self.model = model
        self.spec = spec
        self.public_key = public_key
        self._tensors = RoundTensors(spec, model.dtype, "cpu")

    def batches(self, nonces: Sequence[int]) -> Iterator[tuple[list[tuple[str, int]], Tensor]]:
        """Yield the keys of each whole batch and its projected inputs, [batch_size, seq_len, D].

        The number of nonces must be a multiple of the round's batch size.
        """
        size = self.spec.batch_size
        for start in range(0, len(nonces), size):
            keys = [(self.public_key, nonce) for nonce in nonces[start : start + size]]
            yield keys, self._tensors.inputs(keys)

    def run(self, nonces: Sequence[int], substitute: Substitute | None = None) -> Computed:
        """Hidden states and distances of nonces, by the model or by what takes its place."""
        hidden_states, distances = [], []
        for keys, inputs in self.batches(nonces):
            with torch.inference_mode():
                states = last_hidden(self.model, inputs) if substitute is None else substitute(inputs)
            hidden_states.append(states.float())
            distances.append(self._tensors.distances(states, keys))
        return Computed(torch.cat(hidden_states), torch.cat(distances).numpy())

    def distances(self, hidden_states: Tensor, nonces: Sequence[int]) -> Distances:
        """The distances that hidden states [n, D] have for nonces; n is a multiple of the batch size."""
        size = self.spec.batch_size
        found = []
        for start in range(0, len(nonces), size):
            keys = [(self.public_key, nonce) for nonce in nonces[start : start + size]]
            states = hidden_states[start : start + size].to(self.model.dtype)
            found.append(self._tensors.distances(states, keys))
        return torch.cat(found).numpy()


def in_units_of_s(received: Distances, computed: Distances, hidden_size: int) -> Distances:
    """Received − computed in units of the law's standard deviation s = 1/√(2D)."""
    return (received - computed) / distance_std(hidden_size)
