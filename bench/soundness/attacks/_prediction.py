"""Final hidden states predicted without running the whole model, and what is read of them.

A predictor returns rows in the place of the model's. They go through the product's own groups, signs, sums,
projection and targets, so that a prediction of the truth itself has a cosine of 1.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Self

import numpy as np
import torch
from _altered import BATCH_SIZE, Floats
from torch import Tensor, nn

from hallmark.kernels.norm_sums import norm_sums
from hallmark.poc.offline.model import OfflineModel, final_hidden
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.projection import RandomProjection
from hallmark.poc.protocol.round_spec import FIRST_ROW, NO_FIRST, RoundSpec
from hallmark.poc.protocol.round_tensors import RoundTensors

_HELD_OUT: Final = 5
"""One row in so many is held out to choose how much a ridge regression shrinks."""
_SHRINKAGES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, slots=True)
class Sequences:
    """What ran, and what came of it.

    Attributes:
        tokens: int64 [n, rows]; None for normal inputs.
        inputs: X', [n, rows, D].
        outputs: What parts of the model returned, [n, rows, ...].
        final: What the final norm returned, [n, rows, D].
    """

    tokens: Tensor | None
    inputs: Tensor
    outputs: Mapping[nn.Module, Tensor]
    final: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Put sequences of several blocks together."""
        tokens = [part.tokens for part in parts if part.tokens is not None]
        return cls(
            torch.cat(tokens) if tokens else None,
            torch.cat([part.inputs for part in parts]),
            {each: torch.cat([part.outputs[each] for part in parts]) for each in parts[0].outputs},
            torch.cat([part.final for part in parts]),
        )


def run_sequences(
    model: OfflineModel, spec: RoundSpec, drawn: Tensor, modules: Sequence[nn.Module] = ()
) -> Sequences:
    """Run sequences of a prover's own choice as a round of that block would.

    Args:
        model: The model.
        spec: The round, whose block gives P.
        drawn: Tokens, int64 [n, rows], or normal inputs, [n, rows, D].
        modules: Parts of the model whose outputs are kept; of a tuple its first.
    """
    tensors = RoundTensors(spec, model.torch_dtype, model.device)
    is_tokens = drawn.dtype == torch.int64
    inputs, final = [], []
    kept: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}
    with ExitStack() as stack:
        for module, states in kept.items():
            stack.enter_context(module.register_forward_hook(partial(_keep, states)))
        for batch in torch.split(drawn, BATCH_SIZE):
            projected = tensors.project(model.embed(batch) if is_tokens else batch)
            inputs.append(projected.clone())  # some forwards multiply their input in place
            final.append(final_hidden(model.model, inputs=projected))
    return Sequences(
        drawn if is_tokens else None,
        torch.cat(inputs),
        {module: torch.cat(states) for module, states in kept.items()},
        torch.cat(final),
    )


def _keep(states: list[Tensor], module: nn.Module, taken: Any, returned: Any) -> None:
    states.append((returned[0] if isinstance(returned, tuple) else returned).clone())


class Readout:
    """What a round reads of the final hidden states of some nonces.

    Args:
        spec: The round.
        nonces: Of the prover.
    """

    def __init__(self, spec: RoundSpec, nonces: Sequence[int]) -> None:
        self.spec = replace(spec, batch_size=len(nonces))
        self.keys: list[NonceKey] = [("prover", nonce) for nonce in nonces]
        self._tensors = RoundTensors(self.spec, torch.float32, "cpu")
        self._order = self._tensors.order(self.keys)
        self._post = (
            RandomProjection(spec.block_hash, spec.hidden_size, spec.projection_scale).post_proj.float()
            if spec.projection
            else None
        )

    @property
    def drawn(self) -> Tensor:
        """The nonces' tokens, int64 [n, rows], or their normal inputs, [n, rows, D]."""
        tensors = self._tensors
        return tensors.tokens(self.keys) if tensors.reads_tokens else tensors.normal(self.keys)

    def numbers(self, final: Tensor) -> Floats:
        """Return the numbers of final hidden states [n, rows, D]: [n, k]."""
        found = self._tensors.numbers(final.flatten(0, 1), self.keys, self._order)
        return np.asarray(found.numpy(), dtype=np.float64)

    @torch.inference_mode()
    def cosines(self, predicted: Tensor, final: Tensor) -> Floats:
        """Cosines of predicted H'_j with true ones, of final hidden states [n, rows, D]: [n, k]."""
        one, other = self._read(predicted), self._read(final)
        return np.asarray(torch.cosine_similarity(one, other, dim=-1).numpy(), dtype=np.float64)

    def _read(self, final: Tensor) -> Tensor:
        sums = norm_sums(final.flatten(0, 1), None, self._order, self.spec.numbers).float()
        return sums if self._post is None else sums + sums @ self._post


class Ridge:
    """A linear map fitted by ridge regression, which shrinks as a held-out part of the rows likes best.

    Args:
        features: [rows, F].
        targets: [rows, D].
    """

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        x, y = features.double(), targets.double()
        cut = len(x) - len(x) // _HELD_OUT
        center, mean = x[:cut].mean(0), y[:cut].mean(0)
        spread = x[:cut].std(0).clamp_min(1e-9)
        z = (x - center) / spread
        values, vectors = torch.linalg.eigh(z[:cut].T @ z[:cut] / cut)
        products = vectors.T @ (z[:cut].T @ (y[:cut] - mean) / cut)
        maps = [vectors @ (products / (values.clamp_min(0) + each)[:, None]) for each in _SHRINKAGES]
        errors = [float((z[cut:] @ each + mean - y[cut:]).square().mean()) for each in maps]
        best = maps[int(np.argmin(errors))] / spread[:, None]
        self._map = best.float()
        self._constant = (mean - center @ best).float()

    def __call__(self, features: Tensor) -> Tensor:
        """Predict: [..., F] to [..., D]."""
        found: Tensor = features @ self._map + self._constant
        return found


class TokenMeans:
    """The mean of what a token's rows have been seen with; of an unseen token, the mean of all.

    Args:
        tokens: int64 [rows].
        states: [rows, D].
    """

    def __init__(self, tokens: Tensor, states: Tensor) -> None:
        self._seen, places = torch.unique(tokens, return_inverse=True)
        sums = torch.zeros(len(self._seen), states.shape[1]).index_add_(0, places, states)
        self._means = sums / torch.bincount(places)[:, None]
        self._overall = states.mean(0)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Look tokens up: int64 [...] to [..., D]."""
        places = torch.searchsorted(self._seen, tokens).clamp_max(len(self._seen) - 1)
        is_seen = (self._seen[places] == tokens)[..., None]
        return torch.where(is_seen, self._means[places], self._overall)


def read_rows(states: Tensor) -> Tensor:
    """Flatten the rows that groups may read: [n, rows, ...] to [n · (rows − 8), ...]."""
    return states[:, FIRST_ROW:].flatten(0, 1)


def with_rows_before(states: Tensor, count: int) -> Tensor:
    """Put beside each row the rows before it, zeros where there are none: [n, rows, D · (1 + count)]."""
    shifted = (
        torch.cat([torch.zeros_like(states[:, :step]), states[:, :-step]], dim=1)
        for step in range(1, count + 1)
    )
    return torch.cat([states, *shifted], dim=-1)


def unit_rows(states: Tensor) -> Tensor:
    """Scale rows to a mean square of 1."""
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-9)


def in_other_contexts(spec: RoundSpec, spans: Tensor, draw: np.random.Generator) -> Tensor:
    """Make sequences with given spans of tokens in a random order at rows 8 and up, all else random.

    Args:
        spec: The round, for its length, vocabulary and token of row 0.
        spans: int64 [count, width]; the last sequence is filled with random tokens.
        draw: Where randomness comes from.

    Returns:
        int64 [n, seq_len].
    """
    count, width = spans.shape
    each = (spec.seq_len - FIRST_ROW) // width
    n = -(-count // each)
    tokens = torch.from_numpy(draw.integers(spec.vocabulary, size=(n, spec.seq_len)))
    order = torch.from_numpy(draw.permutation(count))
    room = tokens[:, FIRST_ROW : FIRST_ROW + each * width].reshape(n * each, width)
    room[:count] = spans[order]
    tokens[:, FIRST_ROW : FIRST_ROW + each * width] = room.reshape(n, -1)
    if spec.first != NO_FIRST:
        tokens[:, 0] = spec.first
    return tokens
