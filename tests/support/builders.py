"""Requests, rounds, batches and bodies of tests: valid as they are, and each keyword changes one thing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from hallmark.poc.protocol.config import DeployedModel, PoCConfig
from hallmark.poc.protocol.law import distance_of, number_of
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.vectors import encode, encoding_of

__all__ = [
    "BATCH",
    "BLOCK",
    "KEY",
    "MODEL",
    "about",
    "last_row_round",
    "make_batch",
    "make_body",
    "make_claim",
    "make_config",
    "make_round",
    "nth_body",
    "numbers_of",
    "small_config",
    "small_request",
    "with_numbers",
]

BLOCK: Final = "0x8d3f2a"
KEY: Final = "02a1b2c3"

MODEL: Final = DeployedModel(
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


def small_request(**changes: Any) -> dict[str, Any]:
    """A body of `/init`, of a round small enough to compute hundreds of nonces in a second."""
    return {
        "block_hash": BLOCK,
        "block_height": 7,
        "public_key": KEY,
        "node_id": 0,
        "node_count": 1,
        "batch_size": 8,
        "seq_len": 8,
        **changes,
    }


def small_config(**changes: Any) -> PoCConfig:
    """The same as a `PoCConfig`."""
    return PoCConfig(**small_request(**changes))


def make_config(**changes: Any) -> PoCConfig:
    """A request that states no more than it must."""
    return PoCConfig(**{"block_hash": BLOCK, "block_height": 7, "public_key": KEY, **changes})


def make_round(deployed: DeployedModel = MODEL, /, **changes: Any) -> Round:
    """The round of `make_config`."""
    return Round.resolve(make_config(**changes), deployed)


def last_row_round(deployed: DeployedModel = MODEL, /, **changes: Any) -> Round:
    """A round that reads the last row: one number a nonce."""
    return make_round(deployed, **{"inputs": "tokens", "readout": "last", **changes})


def with_numbers(round_: Round, numbers: int) -> Round:
    """The same round with so many numbers a nonce."""
    return replace(round_, definition=replace(round_.definition, numbers=numbers))


def numbers_of(distances: Mapping[int, float], hidden_size: int) -> dict[int, tuple[float]]:
    """The single number of each nonce, of its distance."""
    return {nonce: (number_of(distance, hidden_size),) for nonce, distance in distances.items()}


def make_batch(
    nonces: Iterable[int] = (0, 1, 2), dist: Iterable[float] | None = None, **changes: Any
) -> ProofBatch:
    """What a prover says of nonces in the round of `make_config`; distances of 1.4, where none are given."""
    claimed = tuple(nonces)
    return ProofBatch(
        **{
            "public_key": KEY,
            "block_hash": BLOCK,
            "block_height": 7,
            "node_id": 0,
            "nonces": claimed,
            "dist": (1.4,) * len(claimed) if dist is None else tuple(dist),
            **changes,
        }
    )


def about(config: PoCConfig) -> dict[str, Any]:
    """What a batch says of the round that it is about."""
    return {
        "public_key": config.public_key,
        "block_hash": config.block_hash,
        "block_height": config.block_height,
    }


def make_claim(
    round_: Round,
    nonces: Iterable[int],
    numbers: Sequence[Sequence[float]],
    *,
    vectors: bool = True,
    **changes: Any,
) -> ProofBatch:
    """What a prover says who has the numbers of nonces: their distances, and the numbers or not."""
    whole = {"vectors": encode(numbers), "encoding": encoding_of(round_.numbers)} if vectors else {}
    dist = (distance_of(number, round_.hidden_size) for number, *_ in numbers)
    return make_batch(nonces, dist, **{**about(round_.config), **whole, **changes})


def make_body(
    nonces: Sequence[int] = (0, 1, 2), dist: Sequence[float] | None = None, **changes: Any
) -> dict[str, Any]:
    """The body of a `/generated` callback, or of a batch to validate, as small as it may be."""
    return {
        "public_key": "a key",
        "block_hash": "a block",
        "block_height": 7,
        "node_id": 0,
        "nonces": [*nonces],
        "dist": [1.4] * len(nonces) if dist is None else [*dist],
        **changes,
    }


BATCH: Final = make_body(dist=(1.41, 1.39, 1.4))
"""One such body, for whoever changes little in it."""


def nth_body(number: int, **changes: Any) -> dict[str, Any]:
    """One of many such bodies, of three nonces that no other has."""
    return {**BATCH, "nonces": [3 * number, 3 * number + 1, 3 * number + 2], **changes}
