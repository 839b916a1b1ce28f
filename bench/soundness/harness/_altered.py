"""Numbers of a prover that alters weights or computation, beside those of the model that is deployed.

All steps are the product's: the round, tokens, projections, groups and signs, targets (`RoundTensors`), the
model's forward (`OfflineModel`), batches (`Recomputation`). An attack changes the loaded transformers model
in place, for as long as its context lasts.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.offline.recompute import Recomputation
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_tensors import RoundTensors

Floats = npt.NDArray[np.float64]
Forward = Callable[..., Any]

BATCH_SIZE: Final = 4
"""Nonces that run together; what a batch holds is no part of a number's definition but for rounding."""


def round_of(model: OfflineModel, seq_len: int, *, block_hash: str = "the block", **config: Any) -> Round:
    """Resolve a round of a model by the protocol's defaults but for what is stated."""
    stated = {"block_hash": block_hash, "block_height": 1, "public_key": "prover", **config}
    return Round.resolve(
        PoCConfig(**{"seq_len": seq_len, "batch_size": BATCH_SIZE, **stated}),
        model.deployed("", BATCH_SIZE * seq_len),
    )


def numbers(model: OfflineModel, round_: Round, nonces: Sequence[int]) -> Floats:
    """Compute the numbers of nonces with a model as it is now, altered or not: [n, k]."""
    return recomputed(Recomputation(model), round_, nonces)


def recomputed(recomputation: Recomputation, round_: Round, nonces: Iterable[int]) -> Floats:
    """Return the numbers of nonces of a round's key, [n, k]; what was computed before is not again."""
    wanted = [*nonces]
    recomputation.want(round_, wanted)
    for _ in recomputation.run():
        pass
    found = recomputation.numbers(round_)
    return np.array([found[nonce] for nonce in wanted], dtype=np.float64)


class Deployed:
    """A model as it is deployed, the nonces of one length that attacks are measured on, and their numbers.

    Args:
        model: Unaltered.
        seq_len: Rows of a nonce.
        nonces: How many, 0 and up.

    Attributes:
        running: The nonces of the batch that the model runs.
    """

    def __init__(self, model: OfflineModel, seq_len: int, nonces: int) -> None:
        self.model = model
        self.round = round_of(model, seq_len)
        self.nonces = range(nonces)
        self.running = self.nonces[:0]

    @cached_property
    def truth(self) -> Floats:
        """The numbers of the unaltered model, [nonces, k]. To be asked for before it is altered."""
        return numbers(self.model, self.round, self.nonces)

    def errors(self, nonces: int | None = None, *, coarse: float = math.inf) -> Floats:
        """Return `c_attacker − c_truth` of the model as it is altered now, in s: [nonces, k].

        Args:
            nonces: How many of them; all for None.
            coarse: Where the RMS of the first batch is beyond it, that batch has to do: so large an error
                need not be known well.
        """
        found = []
        for start in range(0, len(self.nonces[:nonces]), BATCH_SIZE):
            self.running = self.nonces[:nonces][start : start + BATCH_SIZE]
            computed = numbers(self.model, self.round, self.running)
            found.append(computed - self.truth[start : start + len(computed)])
            if np.sqrt(np.mean(found[0] ** 2)) > coarse:
                break
        return np.concatenate(found)


def layers_of(model: OfflineModel) -> Sequence[Any]:
    """Return the decoder layers."""
    found: Sequence[Any] = model.model.base_model.layers
    return found


def matrices_of(model: OfflineModel) -> dict[str, nn.Linear]:
    """Return the linear maps of all decoder layers.

    Which are nearly all of a forward's work, by `LAYER.NAME`.
    """
    return {
        f"{place}.{name}": module
        for place, layer in enumerate(layers_of(model))
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }


@contextmanager
def with_weights(changed: Mapping[nn.Linear, Tensor]) -> Iterator[None]:
    """Put other weights in the place of linear maps' own."""
    own = {module: module.weight.data for module in changed}
    try:
        for module, weight in changed.items():
            module.weight.data = weight
        yield
    finally:
        for module, weight in own.items():
            module.weight.data = weight


@contextmanager
def with_forward(module: nn.Module, make: Callable[[Forward], Forward]) -> Iterator[None]:
    """Put another forward in the place of a module's own.

    Args:
        module: Any part of the model.
        make: From its own forward to the other one.
    """
    own = module.forward
    module.forward = make(own)
    try:
        yield
    finally:
        del module.forward


@contextmanager
def together(*contexts: Any) -> Iterator[None]:
    """Enter several contexts in order."""
    with ExitStack() as stack:
        for each in contexts:
            stack.enter_context(each)
        yield


def calibration_inputs(model: OfflineModel, sequences: int, seq_len: int = 64) -> Tensor:
    """Return inputs of the round's own kind, of earlier blocks: fp32 [sequences, seq_len, D].

    The embedding table is public and projections are drawn by public rules, so an attacker has as many as it
    wants. Each batch is of a block of its own, as P_pre of the block to come is not known.
    """
    found = []
    for start in range(0, sequences, BATCH_SIZE):
        spec = round_of(model, seq_len, block_hash=f"earlier {start}").spec()
        tensors = RoundTensors(spec, model.torch_dtype, model.device)
        keys: list[NonceKey] = [("attacker", start + i) for i in range(min(BATCH_SIZE, sequences - start))]
        drawn = tensors.tokens(keys) if tensors.reads_tokens else None
        embedded = tensors.normal(keys) if drawn is None else model.embed(drawn)
        found.append(tensors.project(embedded).clone())
    return torch.cat(found)
