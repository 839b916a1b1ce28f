"""Judged batches of a prover with noise of its own, and the bodies in which servers send them."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from hallmark.poc.protocol.law import distance_of
from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
from hallmark.poc.protocol.vectors import encode, encoding_of
from hallmark.poc.rounds.payloads import validated_payload
from hallmark.poc.verdict.judge import ValidatedBatch, judge


def judged_batch(
    round_: Round,
    nonces: Iterable[int],
    noise: float = 0.0,
    *,
    seed: int = 0,
    vectors: bool = True,
    failed: Iterable[int] = (),
    sampled: Iterable[int] | None = None,
) -> ValidatedBatch:
    """Judge a batch of which every number is off by Gaussian noise, in units of the round's sigma.

    Args:
        round_: The round.
        nonces: What is claimed, in this order; what is claimed twice is off otherwise.
        noise: RMS of the errors.
        seed: Of the numbers; those of a nonce depend on nothing else.
        vectors: Whether all numbers are claimed, or distances alone.
        failed: Whose recomputation fails.
        sampled: What is recomputed; None: everything.
    """
    claimed = [*nonces]
    rng = np.random.default_rng(seed)
    own = {
        nonce: np.random.default_rng([seed, nonce]).normal(0.0, 1.0, round_.numbers)
        for nonce in sorted(set(claimed))
    }
    size = noise * (round_.honest_sigma or 0.1)
    received = np.array([own[nonce] for nonce in claimed])
    received += rng.normal(0.0, 1.0, received.shape) * size
    proof = ProofBatch(
        public_key=round_.config.public_key,
        block_hash=round_.config.block_hash,
        block_height=round_.config.block_height,
        nonces=tuple(claimed),
        dist=tuple(distance_of(number, round_.hidden_size) for number in received[:, 0].tolist()),
        vectors=encode(received) if vectors else None,
        encoding=encoding_of(round_.numbers) if vectors else None,
    )
    lost = set(failed)
    computed = {
        nonce: [math.nan] * round_.numbers if nonce in lost else numbers.tolist()
        for nonce, numbers in own.items()
    }
    return judge(proof, computed, round_, sampled=None if sampled is None else [*sampled])


def validated_body(judged: ValidatedBatch) -> dict[str, Any]:
    """The body of the callback, as a server sends it."""
    return {**validated_payload(judged, "a request")}
