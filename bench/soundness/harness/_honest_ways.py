"""Honest ways of running one model, and the numbers that each gives for the same nonces of hallmark/2.

Round, tokens, projections, groups and targets are the product's, and so is the code around the model:
`OfflineModel`, as `hallmark verify` runs it, and the worker inside vLLM, as a server does. A way differs from
another in arithmetic alone.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.protocol.round_tensors import RoundTensors, pad_keys

Numbers = npt.NDArray[np.float64]
Product = Callable[[Tensor, Tensor], Tensor]
"""From rows, [..., K], and weights, [N, K], to [..., N], all in one dtype."""

BATCH_SIZE: Final = 8
READOUTS: Final = ("last", "groups")

_ROWS_OF_A_BLOCK: Final = 24
_MOST_OF_LAST: Final = 32
"""Nonces whose last row is read in vLLM, where each readout is a round and a forward of its own."""


def halves_of_k(rows: Tensor, weights: Tensor) -> Tensor:
    """Multiply by the halves of the inner dimension apart, as two GPUs that divide a layer do.

    Both partial sums are rounded to the dtype before they are added.
    """
    half = weights.shape[1] // 2
    return linear(rows[..., :half], weights[:, :half]) + linear(rows[..., half:], weights[:, half:])


def summed_in_fp32(rows: Tensor, weights: Tensor) -> Tensor:
    """Multiply and add in fp32, and round the sums alone."""
    return linear(rows.float(), weights.float()).to(rows.dtype)


def blocks_of_rows(rows: Tensor, weights: Tensor) -> Tensor:
    """Multiply 24 rows at a time, as kernels do that cut a batch elsewhere."""
    flat = rows.flatten(0, -2)
    starts = range(0, len(flat), _ROWS_OF_A_BLOCK)
    products = torch.cat([linear(flat[at : at + _ROWS_OF_A_BLOCK], weights) for at in starts])
    return products.view(*rows.shape[:-1], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way of running a model with transformers on this CPU.

    Attributes:
        dtype: Of the model.
        attention: transformers' name for the kernel.
        threads: PyTorch's.
        batch_size: Nonces in one forward.
        asked: How many of them are asked for; the others repeat the first, as the product fills a batch.
        product: What multiplies by weights in the place of PyTorch's own.
    """

    dtype: str = "bfloat16"
    attention: str = "eager"
    threads: int = 1
    batch_size: int = BATCH_SIZE
    asked: int = BATCH_SIZE
    product: Product | None = None


@dataclass(frozen=True, slots=True)
class Nonces:
    """Nonces of one kind and length.

    Attributes:
        inputs: `tokens` or `normal`.
        first: The token of row 0, or `none`; it is one of a round with `tokens` alone.
        spec: Of their round, which reads groups.
        count: How many, 0 and up.
    """

    inputs: str
    first: int | str
    spec: RoundSpec
    count: int

    def name(self, readout: str) -> str:
        """Name the numbers that a readout makes of them."""
        return f"{self.inputs}/{self.first}/{self.spec.seq_len}/{readout}"

    def keys(self, at_once: int) -> list[list[NonceKey]]:
        """Return them in parts of at most so many."""
        parts = [range(self.count)[at : at + at_once] for at in range(0, self.count, at_once)]
        return [[("prover", nonce) for nonce in part] for part in parts]

    def spec_for(self, readout: str, batch_size: int) -> RoundSpec:
        """Return the round's specification with another readout: the inputs stay the same bits."""
        spec = replace(self.spec, batch_size=batch_size)
        return spec if readout == "groups" else replace(spec, readout="last", numbers=1)


def nonces_of(model: OfflineModel, inputs: str, first: int | str, rows: int, count: int) -> Nonces:
    """Resolve the round of some nonces, by the protocol's defaults for everything else.

    The scale of normal inputs is the power of two nearest to the RMS of the model's embeddings, so that they
    are as large as those of tokens.
    """
    stated: dict[str, Any] = {"inputs": inputs, "first": first}
    if inputs == "normal":
        table = model.embed(torch.arange(model.deployed("", 1).vocabulary, device=model.device))
        rms = float(table.double().square().mean().sqrt())
        # Groups of normal inputs are noisy: who asks for them has to say that it knows how noisy.
        stated = {"inputs": inputs, "honest_sigma": 0.3, "input_scale": 2.0 ** round(math.log2(rms))}
    config = PoCConfig(
        block_hash="honest noise",
        block_height=1,
        public_key="prover",
        seq_len=rows,
        batch_size=BATCH_SIZE,
        readout="rows",
        **stated,
    )
    round_ = Round.resolve(config, model.deployed("", BATCH_SIZE * rows))
    return Nonces(inputs, first, round_.spec(), count)


def in_transformers(folder: Path, way: Way, asked: Sequence[Nonces]) -> dict[str, Numbers]:
    """Compute numbers in a way: [nonces, k] by `Nonces.name`; NaN in the whole row where a nonce failed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(way.threads)
    try:
        model = OfflineModel.load(folder, device="cpu", dtype=way.dtype)
        model.model.set_attn_implementation(way.attention)
        if way.product is not None:
            _multiply_by(way.product, model.model)
        return {
            nonces.name(readout): found
            for nonces in asked
            for readout, found in _numbers(model, way, nonces).items()
        }
    finally:
        torch.set_num_threads(threads)


def _numbers(model: OfflineModel, way: Way, nonces: Nonces) -> dict[str, Numbers]:
    """Compute the numbers of each readout from one forward."""
    rounds = {
        readout: RoundTensors(nonces.spec_for(readout, way.batch_size), model.torch_dtype, "cpu")
        for readout in READOUTS
    }
    found: dict[str, list[Tensor]] = {readout: [] for readout in READOUTS}
    for keys in nonces.keys(way.asked):
        padded = pad_keys(keys, way.batch_size)
        hidden = model.states(rounds["groups"], padded).flatten(0, 1)
        for readout, tensors in rounds.items():
            numbers = tensors.numbers(hidden, padded, tensors.order(padded))
            found[readout].append(numbers[: len(keys)])
    return {readout: torch.cat(parts).numpy() for readout, parts in found.items()}


def _multiply_by(product: Product, model: nn.Module) -> None:
    """Have a product in the place of all linear layers' own.

    Raises:
        ValueError: One of them adds a bias.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if getattr(module, "bias", None) is not None:
                raise ValueError(f"{name} has a bias, which is not added here")
            module.forward = partial(_product_with, product, module)  # type: ignore[method-assign]


def _product_with(product: Product, module: nn.Linear, rows: Tensor) -> Tensor:
    return product(rows, module.weight)


def in_vllm(folder: Path, asked: Sequence[Nonces]) -> dict[str, Numbers]:
    """Compute numbers by the product's worker in vLLM, on one thread; as `in_transformers` does.

    To be run in a process of its own, which vLLM sets up for itself.
    """
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_LOGGING_LEVEL="WARNING",
        OMP_NUM_THREADS="1",
    )
    torch.set_num_threads(1)
    from _vllm import engine_on

    longest = max(nonces.spec.seq_len for nonces in asked)
    found = {}
    with engine_on(folder, batch_size=BATCH_SIZE, seq_len=longest, dtype="bfloat16") as engine:
        torch.set_num_threads(1)
        for nonces in asked:
            last = replace(nonces, count=min(nonces.count, _MOST_OF_LAST))
            for readout, read in (("last", last), ("groups", nonces)):
                engine.poc("poc_open_round", nonces.spec_for(readout, BATCH_SIZE).to_wire())
                # One at a time: on a busy machine all of them are longer than a worker may be stuck.
                done = [engine.poc("poc_start", [keys], None) for keys in read.keys(BATCH_SIZE)]
                numbers = [each for one in done for each in one["batches"][0]["numbers"]]
                found[nonces.name(readout)] = np.array(numbers, dtype=np.float64)
                engine.poc("poc_close_round")
    return found
