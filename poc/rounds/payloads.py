"""What goes over the wire about distances: callback bodies and verdicts."""

import math

import numpy as np

from hallmark.poc.protocol.bodies import GeneratedTemplate, RecomputedVectors, ValidatedBody, VerdictBody
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round import Round, is_below_target
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.poc.protocol.vectors import encode, encoding_of
from hallmark.poc.verdict.judge import ValidatedBatch

__all__ = ["generated_template", "recomputed_vectors", "validated_payload", "verdict_fields"]


def generated_template(round_: Round, numerics: Numerics) -> GeneratedTemplate:
    """Return the body of `/generated` without what was found: whose nonces, and the bound they are under."""
    config = round_.config
    return {
        "public_key": config.public_key,
        "block_hash": config.block_hash,
        "block_height": config.block_height,
        "node_id": config.node_id or 0,
        "protocol": PROTOCOL,
        "round": round_.digest,
        "round_settings": round_.settings,
        "numerics": dict(numerics),
        "r_target": round_.r_target,
        "encoding": encoding_of(round_.numbers),
    }


def validated_payload(validated: ValidatedBatch, request_id: str) -> ValidatedBody:
    """Return the body of `/validated`: the batch as it came, repeated nonces included, and what became of it.

    Its arrays run in step with the nonces as they were received: clients compare them entry by entry.
    `dist` and `vectors` are those of the recomputation, null where it failed or the nonce was not sampled.
    """
    proof = validated.proof
    recomputed = recomputed_vectors(validated)
    answer = verdict_fields(validated)
    return {
        "request_id": request_id,
        "public_key": proof.public_key,
        "block_hash": proof.block_hash,
        "block_height": proof.block_height,
        "node_id": proof.node_id,
        **answer,
        "dist": answer["computed_distances"],
        "received_dist": list(proof.dist),
        "received_distances": list(proof.dist),
        "vectors": recomputed["vectors"],
        "received_vectors": None if proof.vectors is None else list(proof.vectors),
        "encoding": recomputed["encoding"],
    }


def recomputed_vectors(validated: ValidatedBatch) -> RecomputedVectors:
    """Return the recomputed numbers of a batch, in step with its nonces as they were received.

    A vector is null where the recomputation failed or the nonce was not sampled.
    """
    is_known = np.isfinite(validated.computed_numbers[:, 0])
    known = iter(encode(validated.computed_numbers[is_known]))
    of_nonces = [*(next(known) if each else None for each in is_known.tolist()), None]
    return {
        "vectors": [of_nonces[place] for place in _places(validated)],
        "encoding": encoding_of(validated.computed_numbers.shape[1]),
    }


def verdict_fields(validated: ValidatedBatch) -> VerdictBody:
    """Return a verdict as `/validate` answers it.

    `computed_distances` runs in step with the nonces as they were received, repetitions included; null where
    the recomputation failed or the nonce was not sampled. Without a verdict `fraud_detected` is false, and
    `verdict` says so.
    """
    of_nonces = [distance if math.isfinite(distance) else None for distance in validated.computed_dist]
    of_nonces.append(None)
    computed = [of_nonces[place] for place in _places(validated)]
    return {
        "nonces": list(validated.proof.nonces),
        "computed_distances": computed,
        "valid": [
            distance is not None and is_below_target(distance, validated.r_target) for distance in computed
        ],
        "verdict": validated.verdict.value,
        "fraud_detected": validated.fraud_detected,
        "probability_honest": validated.probability_honest,
        "tests": dict(validated.tests),
        "rejected_by": list(validated.rejected_by),
        "spoke": list(validated.rejected_by),  # its older name
        "error_rms": validated.error_rms,
        "error_mean": validated.error_mean,
        "n_invalid": validated.n_invalid,
        "n_judged": validated.n_judged,
        "n_duplicates": validated.n_duplicates,
        "n_covered": validated.n_covered,
        "invalid_nonces": list(validated.invalid_nonces),
        "failed_nonces": list(validated.failed_nonces),
        "r_target": validated.r_target,
        "fraud_threshold": validated.fraud_threshold,
        "tolerance": validated.tolerance,
        "honest_sigma": validated.honest_sigma,
        "numbers": validated.numbers,
        "numerics_differ": list(validated.numerics_differ),
    }


def _places(validated: ValidatedBatch) -> list[int]:
    """Return where each claim's nonce stands among those recomputed.

    The place after them all where it does not.
    """
    place_of = {nonce: place for place, nonce in enumerate(validated.nonces)}
    return [place_of.get(nonce, len(place_of)) for nonce in validated.proof.nonces]
