"""The models that the experiments attack: real architectures, at sizes that two cores run.

Each comes with weights in three states. `fresh` is what transformers initialises (standard deviation 0.02).
`strong` is the same with every matrix scaled to 0.1, so that a layer adds about as much to the residual
stream as it finds there. `trained` is what some minutes on the source text of Python's standard library make
of `fresh`: trained outputs cluster where those of random weights do not, and trained layers matter unequally.
"""

import hashlib
import json
import math
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

CACHE = Path(__file__).resolve().parents[3] / ".cache" / "soundness"
VOCABULARY = 256
"""Tokens are bytes."""

Weights = Literal["fresh", "strong", "trained"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model's shape, and how long it is trained.

    Attributes:
        family: Whose code runs it: `qwen3`, `llama` or `qwen3_moe`.
        hidden_size: Width D.
        layers: Number of decoder layers.
        steps: Steps of training for the weights `trained`; 16 sequences of 128 bytes each.
    """

    family: Literal["qwen3", "llama", "qwen3_moe"] = "qwen3"
    hidden_size: int = 256
    layers: int = 4
    steps: int = 300

    @property
    def name(self) -> str:
        """For tables, e.g. `qwen3 256x4`."""
        return f"{self.family} {self.hidden_size}x{self.layers}"

    def build(self) -> Any:
        """A model in float32 with the weights that transformers initialises from seed 0."""
        heads = max(1, self.hidden_size // 64)
        common: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(1, heads // 2),
            "head_dim": 64,
            "intermediate_size": 3 * self.hidden_size,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "attn_implementation": "sdpa",
        }
        torch.manual_seed(0)
        if self.family == "llama":
            return LlamaForCausalLM(LlamaConfig(**common)).eval()
        if self.family == "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**common)).eval()
        experts = {
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": self.hidden_size,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**common, **experts)).eval()


QWEN3 = Architecture()
LLAMA = Architecture("llama")
MOE = Architecture("qwen3_moe", steps=200)
DEPTHS = tuple(replace(QWEN3, layers=layers, steps=steps) for layers, steps in ((2, 300), (4, 300), (8, 300)))
WIDTHS = tuple(replace(QWEN3, hidden_size=width) for width in (64, 128, 256))
TINY = Architecture(hidden_size=64, layers=2, steps=20)
"""For the shortened experiments that the tests run."""


def load(architecture: Architecture, weights: Weights, steps: int | None = None) -> Any:
    """A model in float32, ready to run; trained ones are kept in `.cache/soundness`.

    Args:
        architecture: Its shape.
        weights: The state of its weights.
        steps: Of training, instead of the architecture's.
    """
    if weights == "trained":
        return _trained(architecture if steps is None else replace(architecture, steps=steps))
    model = architecture.build()
    if weights == "strong":
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(0.1 / parameter.std())
    return model


def _trained(architecture: Architecture) -> Any:
    # What is kept is found again by everything that it was made from.
    made_from = json.dumps([asdict(architecture), torch.__version__, "1"], sort_keys=True)
    directory = CACHE / hashlib.sha256(made_from.encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    # Tests run several experiments at a time, which want the same small model.
    with FileLock(directory.with_suffix(".lock")):
        if not (directory / "config.json").is_file():
            unfinished = directory.with_suffix(".new")
            model = architecture.build()
            losses = train(model, architecture.steps)
            model.save_pretrained(unfinished)
            note = json.dumps({**asdict(architecture), "losses": losses}, indent=2) + "\n"
            (unfinished / "training.json").write_text(note, encoding="utf-8")
            unfinished.rename(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa")
    return model.eval()


def held_out_loss(model: Any, sequences: int = 64) -> float:
    """Mean loss per byte on text that no model is trained on, in nats; 5.55 is knowing nothing."""
    _, held_out = corpus()
    with torch.inference_mode():
        tokens = next(_batches(held_out, sequences, seed=1))
        return float(_loss(model, tokens))


def train(model: Any, steps: int, *, learning_rate: float = 2e-3) -> list[float]:
    """Train a model on the text by AdamW with a cosine schedule; every tenth step's loss, in nats a byte."""
    text, _ = corpus()
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    warm_up = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (
            min(1.0, (step + 1) / warm_up) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        ),
    )
    losses = []
    model.train()
    for step, tokens in zip(range(steps), _batches(text, 16, seed=0), strict=False):
        loss = _loss(model, tokens)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 10 == 0:
            losses.append(round(loss.item(), 4))
    model.eval()
    return losses


def corpus() -> tuple[Tensor, Tensor]:
    """The bytes of Python's standard library, [n], in two parts: to train on, and held out."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in library.glob("*.py") if path.stat().st_size > 2_000)
    text = b"".join(path.read_bytes() for path in files)
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    held_out = len(tokens) // 20
    return tokens[:-held_out], tokens[-held_out:]


def _batches(text: Tensor, sequences: int, seed: int, length: int = 128) -> Iterator[Tensor]:
    """Yield tokens [sequences, length] from random places of the text, without an end."""
    draw = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - length, (sequences,), generator=draw)
        yield torch.stack([text[start : start + length] for start in starts]).long()


def _loss(model: Any, tokens: Tensor) -> Tensor:
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
