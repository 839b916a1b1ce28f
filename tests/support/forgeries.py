"""Batches that must not pass, made from honest ones of the small model."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from offline_proofs import part

from hallmark.poc.protocol.law import distance_std, number_of, r_target_for
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.vectors import encode
from hallmark.server.models.small import HIDDEN_SIZE

NONCES: Final = 64


def forgeries(
    honest: ProofBatch, other_block: ProofBatch, other_model: ProofBatch, *, valid_rate: float
) -> Iterator[ProofBatch]:
    """Batches that must not pass, each of a few dozen nonces.

    Args:
        honest: Of the round's block, computed with the round's model.
        other_block: Computed with that model for another block.
        other_model: Computed for the round's block with another model.
        valid_rate: The round's.
    """
    honest, other_block, other_model = (
        part(proof, slice(NONCES)) for proof in (honest, other_block, other_model)
    )
    yield made_up(honest, valid_rate)
    yield lowered(honest)
    yield replace(honest, public_key="thief")
    yield replace(other_block, block_hash=honest.block_hash, block_height=honest.block_height)
    yield other_model


def lowered(honest: ProofBatch) -> ProofBatch:
    """Every distance lower by one s, and its number with it; the other numbers are what they are."""
    dist = tuple(distance - distance_std(HIDDEN_SIZE) for distance in honest.dist)
    numbers = honest.numbers()
    assert numbers is not None
    numbers[:, 0] = [number_of(distance, HIDDEN_SIZE) for distance in dist]
    return replace(honest, dist=dist, vectors=encode(numbers.tolist()))


def made_up(honest: ProofBatch, valid_rate: float) -> ProofBatch:
    """Numbers as they would be distributed if they were true, for nonces that nobody computed."""
    draw = random.Random(0)  # noqa: S311  # the forger needs no secrecy
    # 1 − u is above 0, where the law's inverse is defined.
    rates = [valid_rate * (1 - draw.random()) for _ in range(NONCES)]
    start = max(honest.nonces) + 1_000_000
    dist = tuple(r_target_for(rate, HIDDEN_SIZE) for rate in rates)
    others = honest.encoding["k_dim"] - 1 if honest.encoding is not None else 0
    numbers = [
        [number_of(distance, HIDDEN_SIZE), *(draw.gauss() for _ in range(others))] for distance in dist
    ]
    return replace(
        honest,
        public_key="forger",
        nonces=tuple(range(start, start + len(rates))),
        dist=dist,
        vectors=encode(numbers),
    )
