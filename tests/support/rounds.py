"""Rounds and models as the protocol's tests use them."""

from typing import Any

from hallmark.poc.protocol.config import DeployedModel, PoCConfig
from hallmark.poc.protocol.round import Round

BLOCK = "0x8d3f2a"
KEY = "02a1b2c3"

MODEL = DeployedModel(
    hidden_size=256,
    dtype="bfloat16",
    embedding_rms=0.1,
    served_names=("org/model", "alias"),
    max_batched_tokens=8192,
    max_sequences=64,
    max_model_len=4096,
)


def make_config(**changes: Any) -> PoCConfig:
    """A plain request, with the given fields changed."""
    return PoCConfig(**{"block_hash": BLOCK, "block_height": 7, "public_key": KEY, **changes})


def make_round(deployed: DeployedModel = MODEL, /, **changes: Any) -> Round:
    """A plain round, with the given fields of its request changed."""
    return Round.resolve(make_config(**changes), deployed)
