"""What goes over the wire about distances: callback bodies and verdicts."""

import math

from hallmark.poc.protocol.bodies import Conclusion, GeneratedTemplate, ValidatedBody, VerdictBody
from hallmark.poc.protocol.proof import Numerics
from hallmark.poc.protocol.round import Round, is_below_target
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.poc.protocol.vectors import encode, encoding_of
from hallmark.poc.verdict.judge import ValidatedBatch

__all__ = ["generated_template", "validated_payload", "verdict_fields"]


def generated_template(round_: Round, numerics: Numerics) -> GeneratedTemplate:
    """The body of `/generated` without what was found: whose nonces, and the bound they are under."""
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
    """The body of `/validated`.

    Its arrays hold the nonces that were recomputed, of a sampled batch those of the sample. Nonces that could
    not be recomputed are not in them, where receivers expect numbers, but in `failed_nonces`. The vectors are
    those of the recomputation, and `received_vectors` null where the batch brought none.
    """
    judged = [place for place, distance in enumerate(validated.computed_dist) if math.isfinite(distance)]
    received = [validated.received_dist[place] for place in judged]
    computed = [validated.computed_dist[place] for place in judged]
    proof = validated.proof
    return {
        "request_id": request_id,
        "public_key": proof.public_key,
        "block_hash": proof.block_hash,
        "block_height": proof.block_height,
        "node_id": proof.node_id,
        "nonces": [validated.nonces[place] for place in judged],
        "dist": computed,
        "received_dist": received,
        "computed_distances": computed,
        "received_distances": received,
        "vectors": [*encode([validated.computed_numbers[place] for place in judged])],
        "received_vectors": (
            None
            if proof.vectors is None
            else [*encode([validated.received_numbers[place] for place in judged])]
        ),
        "encoding": encoding_of(len(validated.computed_numbers[0]) if validated.computed_numbers else 1),
        "valid": [is_below_target(distance, validated.r_target) for distance in computed],
        **_conclusion(validated),
    }


def verdict_fields(validated: ValidatedBatch) -> VerdictBody:
    """A verdict as `/validate` answers it.

    `computed_distances` runs in step with the nonces as they were received, repetitions included; null where
    the recomputation failed or the nonce was not sampled. Without a verdict `fraud_detected` is false, and
    `verdict` says so.
    """
    computed = dict(zip(validated.nonces, validated.computed_dist, strict=True))
    distances = [computed.get(nonce, math.nan) for nonce in validated.proof.nonces]
    return {
        "nonces": list(validated.proof.nonces),
        "computed_distances": [distance if math.isfinite(distance) else None for distance in distances],
        "valid": [is_below_target(distance, validated.r_target) for distance in distances],
        **_conclusion(validated),
    }


def _conclusion(validated: ValidatedBatch) -> Conclusion:
    return {
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
