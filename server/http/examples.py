"""The examples of the API's documentation: a round of a small model, seen from its routes."""

import math
from typing import Any, Final

from hallmark.poc.outbox.sender import DROP_REASONS
from hallmark.poc.protocol.streams import PROTOCOL
from hallmark.poc.protocol.vectors import encode, encoding_of

__all__ = ["PROOF", "QUEUED", "ROUND", "STATUS", "VERDICT", "VERSIONS"]

ROUND: Final[dict[str, Any]] = {
    "block_hash": "00000000000000000001f7c1a8d2b1f4",
    "block_height": 912345,
    "public_key": "02a1633cafcc01ebfb6d78e39f687a1f09",
    "node_id": 0,
    "node_count": 4,
    "callback_url": "http://receiver.example:9000/v1/poc-batches",
}

_DISTANCES: Final = [1.402, 1.437, 1.391]
_WIDTH: Final = 256
_NUMBERS: Final = 16

PROOF: Final[dict[str, Any]] = {
    "public_key": ROUND["public_key"],
    "block_hash": ROUND["block_hash"],
    "block_height": ROUND["block_height"],
    "node_id": 0,
    "nonces": [0, 4, 8],
    "dist": _DISTANCES,
    "vectors": list(
        encode(
            [
                [
                    math.sqrt(_WIDTH) * (1.0 - distance**2 / 2.0),
                    *(math.sin(place) for place in range(1, _NUMBERS)),
                ]
                for distance in _DISTANCES
            ]
        )
    ),
    "encoding": encoding_of(_NUMBERS),
}

QUEUED: Final[dict[str, Any]] = {
    "status": "queued",
    "request_id": "4f0c1a52-2f0b-4f5e-9d0a-7f3c8f0f7b11",
    "queued_count": 3,
    "ignored_fields": [],
}

VERDICT: Final[dict[str, Any]] = {
    "status": "OK",
    "request_id": QUEUED["request_id"],
    "ignored_fields": [],
    "nonces": [0, 4, 8],
    "computed_distances": _DISTANCES,
    "valid": [True, True, True],
    "verdict": "honest",
    "fraud_detected": False,
    "probability_honest": 1.0,
    "tests": {"nonces": 1.0, "rms": 0.98, "beyond": 1.0, "signed_mean": 0.61},
    "rejected_by": [],
    "spoke": [],
    "error_rms": 0.021,
    "error_mean": 0.016,
    "n_invalid": 0,
    "n_judged": 3,
    "n_duplicates": 0,
    "n_covered": None,
    "invalid_nonces": [],
    "failed_nonces": [],
    "r_target": 2.0,
    "fraud_threshold": 0.01,
    "tolerance": 0.0155,
    "honest_sigma": 0.1,
    "numbers": _NUMBERS,
    "numerics_differ": [],
}

STATUS: Final[dict[str, Any]] = {
    "status": "GENERATING",
    "state": "GENERATING",
    "is_model_initialized": True,
    "reason": None,
    "has_failed": False,
    "total_checked": 3,
    "total_valid": 3,
    "total_failed": 0,
    "elapsed_seconds": 0.5,
    "rate_per_second": 6.0,
    "seconds_since_progress": 0.1,
    "is_stuck": False,
    "valid_nonces": [0, 4, 8],
    "valid_distances": _DISTANCES,
    "r_target": 2.0,
    "valid_rate": 1.0,
    "config": {
        **ROUND,
        "batch_size": 32,
        "requested_batch_size": 32,
        "seq_len": 256,
        "hidden_size": _WIDTH,
        "inputs": "tokens",
        "vocabulary": 4096,
        "first": "none",
        "input_scale": 1.0,
        "projection_scale": 0.015625,
        "readout": "rows",
        "numbers": _NUMBERS,
        "honest_sigma": 0.1,
    },
    "stats": {"total_processed": 3, "nonces_per_second": 6.0},
    "projection": {"enabled": True, "bytes": 262144},
    "batches": {"computed": 1, "in_last_call": 1, "seconds_each": 0.4, "host_seconds_each": 0.01},
    "validation": {
        "queued_jobs": 0,
        "queued_nonces": 0,
        "nonces_per_second": None,
        "completed_jobs": 0,
        "cancelled_jobs": 0,
        "checked_nonces": 0,
        "failed_nonces": 0,
        "fraud_verdicts": 0,
        "share": 0.25,
        "max_stall_ms": 10.0,
        "slices": 40,
        "slices_concurrent_with_inference": 8,
        "slices_beside_inference": 8,
        "layer_ms": 1.6,
        "max_stall_is_met": True,
        "stall_ms": {"p50": 9.6, "p99": 10.4, "max": 11.2},
        "share_used": 0.24,
    },
    "inference": {
        "connections": 0,
        "quiet_connections": 0,
        "is_active": False,
        "longest_loop_hold_ms": 2.9,
    },
    "callbacks": {
        "outbox": "/home/node/.local/state/hallmark/outbox-port-8000.db",
        "used_ratio": 0.0,
        "free_bytes": 53687091200,
        "queued": 0,
        "in_flight": 0,
        "delivered": 1,
        "retried": 0,
        "dropped": 0,
        "dropped_by_reason": dict.fromkeys(DROP_REASONS, 0),
        "dead_letters": 0,
        "kept": 0,
        "bytes": 0,
        "oldest_age": None,
        "next_attempt": None,
        "last_error": None,
        "receivers": {},
    },
    "interrupted_round": None,
    "numerics": {"dtype": "bfloat16", "kernels": "triton", "batch_size": 32, "seq_len": 256},
}

VERSIONS: Final[dict[str, Any]] = {
    "version": "0.1.0",
    "hallmark_version": "0.1.0",
    "vllm_version": "0.32.0",
    "torch_version": "2.13.0",
    "protocol": PROTOCOL,
    "poc_validation_inference": True,
}
