"""Judged batches of a prover with noise of its own, and the bodies in which servers send them."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from builders import make_claim, make_round, numbers_of

from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.round import Round
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
    proof = make_claim(round_, claimed, received.tolist(), vectors=vectors)
    lost = set(failed)
    computed = {
        nonce: [math.nan] * round_.numbers if nonce in lost else numbers.tolist()
        for nonce, numbers in own.items()
    }
    return judge(proof, computed, round_, sampled=None if sampled is None else [*sampled])


def judge_distances(
    proof: ProofBatch, computed: Mapping[int, float], round_: Round, sampled: Collection[int] | None = None
) -> ValidatedBatch:
    """Judge by distances alone, in a round with one number a nonce."""
    return judge(proof, numbers_of(computed, round_.hidden_size), round_, sampled=sampled)


def validated_body(judged: ValidatedBatch) -> dict[str, Any]:
    """The body of the callback, as a server sends it."""
    return {**validated_payload(judged, "a request")}


def make_verdict(
    nonces: Iterable[int] = range(16), noise: float = 1.0, *, seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """The body of a `/validated` callback about a prover with so much noise, in units of the round's sigma.

    Args:
        nonces: What is claimed.
        noise: RMS of the errors.
        seed: Of the numbers.
        **changes: Of the round's request, which states a sigma and is strict.
    """
    round_ = make_round(**{"honest_sigma": 0.1, "numbers": 2, "fraud_threshold": 1e-7, **changes})
    return validated_body(judged_batch(round_, nonces, noise, seed=seed))
