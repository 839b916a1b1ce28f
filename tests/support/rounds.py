"""Rounds and models as the protocol's tests use them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hallmark.poc.protocol.config import DeployedModel, PoCConfig
from hallmark.poc.protocol.law import number_of
from hallmark.poc.protocol.round import Round

BLOCK = "0x8d3f2a"
KEY = "02a1b2c3"

MODEL = DeployedModel(
    hidden_size=256,
    dtype="bfloat16",
    vocabulary=4096,
    table_rows=4096,
    first=None,
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


def last_row_round(deployed: DeployedModel = MODEL, /, **changes: Any) -> Round:
    """A plain round that reads the last row: one number a nonce."""
    return make_round(deployed, **{"inputs": "tokens", "readout": "last", **changes})


def with_numbers(round_: Round, numbers: int) -> Round:
    """The same round with so many numbers a nonce."""
    return replace(round_, definition=replace(round_.definition, numbers=numbers))


def numbers_of(distances: Mapping[int, float], hidden_size: int) -> dict[int, tuple[float]]:
    """The single number of each nonce, of its distance."""
    return {nonce: (number_of(distance, hidden_size),) for nonce, distance in distances.items()}
