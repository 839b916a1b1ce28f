"""Model shapes that the benches run with random weights: Qwen3's published ones, and the small model's."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from transformers import Qwen3Config

from hallmark.server.models import small
from hallmark.server.models.small import build_small_model


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The numbers of a Qwen3 model, by the names of its configuration file."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int

    @classmethod
    def of(cls, config: Any) -> Self:
        """Return the shape of a transformers model, whose layers are as Qwen3's, by its configuration."""
        return cls(**{field.name: int(getattr(config, field.name)) for field in fields(cls)})

    def cut(self, layers: int | None) -> Self:
        """Return the same shape with fewer layers; all of them for None."""
        return self if layers is None else replace(self, num_hidden_layers=layers)

    def config(self) -> Qwen3Config:
        """Return what transformers builds a model from.

        The vocabulary is small, but enough for rounds of tokens.
        """
        return Qwen3Config(**asdict(self), vocab_size=small.VOCABULARY_SIZE, max_position_embeddings=4096)

    @property
    def queries_width(self) -> int:
        """Values of a row's queries in one layer."""
        return self.num_attention_heads * self.head_dim

    @property
    def keys_width(self) -> int:
        """Values of a row's keys in one layer; those of its values are as many."""
        return self.num_key_value_heads * self.head_dim

    def layer_flops(self, seq_len: int) -> dict[str, float]:
        """Floating-point operations of one layer on a sequence, by the name of the linear map.

        `scores` are the products of queries with keys and of weights with values, for half of all pairs of
        rows. Norms, rotations and activations count nothing.
        """
        widths = {
            "q_proj": self.queries_width,
            "k_proj": self.keys_width,
            "v_proj": self.keys_width,
            "o_proj": self.queries_width,
            **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.intermediate_size),
        }
        flops = {name: 2.0 * seq_len * self.hidden_size * width for name, width in widths.items()}
        return {**flops, "scores": 2.0 * seq_len**2 * self.queries_width}

    def forward_flops(self, sequences: int, seq_len: int) -> float:
        """Floating-point operations of a prefill of sequences of that many rows."""
        return sequences * self.num_hidden_layers * sum(self.layer_flops(seq_len).values())


# The config.json files of Qwen/Qwen3-0.6B, Qwen/Qwen3-8B and Qwen/Qwen3-32B on Hugging Face.
SHAPES = {
    "demo": ModelShape(
        small.HIDDEN_SIZE,
        small.LAYERS,
        small.HEADS,
        small.KEY_VALUE_HEADS,
        small.HEAD_SIZE,
        small.INTERMEDIATE_SIZE,
    ),
    "0.6B": ModelShape(1024, 28, 16, 8, 128, 3072),
    "8B": ModelShape(4096, 36, 32, 8, 128, 12_288),
    "32B": ModelShape(5120, 64, 64, 8, 128, 25_600),
}


def write_model(shape: ModelShape, directory: Path) -> None:
    """Write a folder that vLLM serves with `--load-format dummy`: weights are drawn when it starts."""
    build_small_model(directory)
    path = directory / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **asdict(shape)}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
