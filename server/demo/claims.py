"""What is claimed in the demo: one honest batch, and five ways to cheat."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from hallmark.poc.protocol.law import distance_std, number_of, r_target_for
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.vectors import encode
from hallmark.poc.verdict.judge import Verdict
from hallmark.server.demo.model import HIDDEN_SIZE

__all__ = ["NONCES_OF_A_FORGERY", "Claim", "forgeries"]

NONCES_OF_A_FORGERY: Final = 64
"""More than enough for a verdict, by the protocol's table."""


@dataclass(frozen=True)
class Claim:
    """A batch and the verdict it deserves.

    Attributes:
        title: What the prover did, for people.
        proof: What it sends.
        deserved: The right verdict.
    """

    title: str
    proof: ProofBatch
    deserved: Verdict


def forgeries(
    honest: ProofBatch, other_block: ProofBatch, other_model: ProofBatch, *, valid_rate: float
) -> Iterator[Claim]:
    """Yield batches that must not pass, each of a few dozen nonces.

    Args:
        honest: Of the round's block, computed with the round's model.
        other_block: Computed with that model for another block.
        other_model: Computed for the round's block with another model.
        valid_rate: The round's.
    """
    honest, other_block, other_model = (_first(proof) for proof in (honest, other_block, other_model))
    yield _fraud("made-up distances below the threshold", _made_up(honest, valid_rate))
    yield _fraud("distances lowered by one s", _lowered(honest))
    yield _fraud("another node's proofs, own key", replace(honest, public_key="thief"))
    relabelled = replace(other_block, block_hash=honest.block_hash, block_height=honest.block_height)
    yield _fraud("proofs of an earlier block, relabelled", relabelled)
    yield _fraud("a model with one layer exchanged", other_model)


def _fraud(title: str, proof: ProofBatch) -> Claim:
    return Claim(title, proof, Verdict.FRAUD)


def _first(proof: ProofBatch) -> ProofBatch:
    return replace(
        proof,
        nonces=proof.nonces[:NONCES_OF_A_FORGERY],
        dist=proof.dist[:NONCES_OF_A_FORGERY],
        vectors=None if proof.vectors is None else proof.vectors[:NONCES_OF_A_FORGERY],
    )


def _lowered(honest: ProofBatch) -> ProofBatch:
    """Every distance lower by one s, and its number with it; the other numbers are what they are."""
    dist = tuple(distance - distance_std(HIDDEN_SIZE) for distance in honest.dist)
    numbers = honest.numbers()
    if numbers is None:
        raise ValueError("an honest proof has its numbers")
    numbers[:, 0] = [number_of(distance, HIDDEN_SIZE) for distance in dist]
    return replace(honest, dist=dist, vectors=encode(numbers.tolist()))


def _made_up(honest: ProofBatch, valid_rate: float) -> ProofBatch:
    """Numbers as they would be distributed if they were true, for nonces that nobody computed."""
    draw = random.Random(0)  # noqa: S311  # the forger needs no secrecy
    # 1 − u is above 0, where the law's inverse is defined.
    rates = [valid_rate * (1 - draw.random()) for _ in range(NONCES_OF_A_FORGERY)]
    first = max(honest.nonces) + 1_000_000
    dist = tuple(r_target_for(rate, HIDDEN_SIZE) for rate in rates)
    others = honest.encoding["k_dim"] - 1 if honest.encoding is not None else 0
    numbers = [
        [number_of(distance, HIDDEN_SIZE), *(draw.gauss() for _ in range(others))] for distance in dist
    ]
    return replace(
        honest,
        public_key="forger",
        nonces=tuple(range(first, first + len(rates))),
        dist=dist,
        vectors=encode(numbers),
    )
