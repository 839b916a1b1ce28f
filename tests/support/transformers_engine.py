"""A PoC engine around a transformers model: the oracle of the tests, and what stands in for vLLM in them.

It shares the definition around the model with vLLM's engine (`RoundTensors`) and nothing of the model.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from builders import make_claim
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from hallmark.poc.core.errors import EngineError
from hallmark.poc.offline.model import OfflineModel
from hallmark.poc.protocol.config import PoCConfig
from hallmark.poc.protocol.law import distance_of
from hallmark.poc.protocol.nonces import NonceKey
from hallmark.poc.protocol.proof import Numerics, ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.round_spec import RoundSpec
from hallmark.poc.protocol.round_tensors import RoundTensors
from hallmark.poc.rounds.engine_protocol import ComputedBatch, Slice
from hallmark.server.models.small import fast_dtype


def tiny_model(
    *, hidden_size: int = 64, layers: int = 2, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights of standard deviation 0.1, so that its layers matter at this width."""
    config = Qwen3Config(
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden_size // 4,
        intermediate_size=2 * hidden_size,
        vocab_size=4096,
        max_position_embeddings=1024,
        initializer_range=0.1,
        attn_implementation="eager",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).to(dtype).eval()


class TransformersEngine:
    """`PoCEngine` over a transformers model on the CPU.

    Args:
        model: The model, or the directory of one.
        dtype: What the model of a directory is loaded in; where none is given, the dtype that is fast here.
        served_names: What the model is served as.
        max_batched_tokens: Most tokens of a batch.
        max_sequences: Most nonces of a batch.
    """

    def __init__(
        self,
        model: PreTrainedModel | Path,
        *,
        dtype: str | None = None,
        served_names: Sequence[str] = ("tiny",),
        max_batched_tokens: int = 8192,
        max_sequences: int = 128,
    ) -> None:
        if isinstance(model, Path):
            model = AutoModelForCausalLM.from_pretrained(
                model, dtype=getattr(torch, dtype or fast_dtype()), attn_implementation="eager"
            ).eval()
        self._model = model
        self._dtype: torch.dtype = model.dtype
        self._tensors: RoundTensors | None = None
        self._n_layers: int = model.config.num_hidden_layers
        self._suspended: Sequence[Sequence[NonceKey]] | None = None
        self._layers_left = 0
        self._offline = OfflineModel(model, "cpu")
        self.model = replace(
            self._offline.deployed("", max_batched_tokens),
            served_names=tuple(served_names),
            max_sequences=max_sequences,
        )
        self.numerics: Numerics = {
            "engine": f"transformers {transformers.__version__}",
            "torch": torch.__version__,
            "dtype": self.model.dtype,
            "mode": "eager",
            "device": "cpu",
        }

    async def open_round(self, spec: RoundSpec) -> int:
        self._tensors = await asyncio.to_thread(RoundTensors, spec, self._dtype, "cpu")
        return self._tensors.projection_bytes

    @property
    def is_idle(self) -> bool:
        return True

    async def start(self, batches: Sequence[Sequence[NonceKey]], layers: int | None) -> Slice:
        if self._suspended is not None:
            raise EngineError("batches are suspended")
        self._suspended, self._layers_left = batches, self._n_layers * len(batches)
        return await self._go_on(layers)

    async def advance(self, layers: int | None) -> Slice:
        return await self._go_on(layers)

    async def _go_on(self, layers: int | None) -> Slice:
        """Layers are counted, and all of them computed with the last one."""
        if self._suspended is None:
            raise EngineError("no batches are suspended")
        begun = time.perf_counter()
        passed = self._layers_left if layers is None else min(layers, self._layers_left)
        self._layers_left -= passed
        if self._layers_left:
            return Slice(time.perf_counter() - begun, passed, None)
        batches, self._suspended = self._suspended, None
        computed = await asyncio.to_thread(lambda: [self._timed(keys) for keys in batches])
        return Slice(time.perf_counter() - begun, passed, computed)

    def _timed(self, keys: Sequence[NonceKey]) -> ComputedBatch:
        begun = time.perf_counter()
        return ComputedBatch(self.numbers(keys), time.perf_counter() - begun)

    def numbers(self, keys: Sequence[NonceKey]) -> list[list[float]]:
        """The numbers of one batch of the open round, computed in the calling thread."""
        if self._tensors is None:
            raise EngineError("no round is open")
        return self._offline.numbers(self._tensors, keys)

    def distances(self, keys: Sequence[NonceKey]) -> list[float]:
        """Their distances."""
        return [distance_of(numbers[0], self.model.hidden_size) for numbers in self.numbers(keys)]

    async def close_round(self) -> None:
        self._suspended = None
        self._tensors = None


def claimed_with(
    model: Path, dtype: str | None, request: Mapping[str, Any], nonces: Sequence[int]
) -> ProofBatch:
    """What a prover claims of some nonces who computes with transformers."""
    engine = TransformersEngine(model, dtype=dtype, served_names=("demo",))
    round_ = Round.resolve(PoCConfig(**request), engine.model)
    asyncio.run(engine.open_round(round_.spec()))
    numbers = engine.numbers([(request["public_key"], nonce) for nonce in nonces])
    return make_claim(round_, list(nonces), numbers, node_id=request["node_id"])


def numbers_with(model: Path, dtype: str, request: Mapping[str, Any]) -> tuple[Round, list[list[float]]]:
    """The round that transformers makes of a request, and the numbers of its first batch."""
    offline = OfflineModel.load(model, device="cpu", dtype=dtype)
    config = PoCConfig(**request)
    round_ = Round.resolve(config, offline.deployed("model", config.batch_size * config.seq_len))
    tensors = RoundTensors(round_.spec(), offline.torch_dtype, offline.device)
    return round_, offline.numbers(
        tensors, [(config.public_key, nonce) for nonce in range(config.batch_size)]
    )
