"""The two batches in a body of `/validated`: what the prover claimed, and what was recomputed of it."""

from collections.abc import Mapping
from typing import Any

__all__ = ["claimed_batch", "is_verdict", "recomputed_batch"]


def is_verdict(body: Mapping[str, Any]) -> bool:
    """Return whether a body is one of `/validated`, not of `/generated`."""
    return "received_dist" in body


def claimed_batch(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prover's batch, as `ProofBatch.parse` reads it; the body need not be a good one.

    Its `failed_nonces` are the validator's: those that the prover claims are no failed ones of its own.
    """
    batch = _with_vectors(body, body.get("received_dist"), body.get("received_vectors"))
    nonces, failed = body.get("nonces"), body.get("failed_nonces")
    if isinstance(nonces, list) and isinstance(failed, list):
        claimed = {nonce for nonce in nonces if isinstance(nonce, int)}
        batch["failed_nonces"] = [
            nonce for nonce in failed if not isinstance(nonce, int) or nonce not in claimed
        ]
    return batch


def recomputed_batch(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was recomputed, as a batch; `dist` and `vectors` are null for what was not."""
    names = [name for name in ("nonces", "dist", "vectors") if body.get(name) is not None]
    columns = [body[name] for name in names]
    recomputed = dict(body)
    if all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        known = [place for place, distance in enumerate(body.get("dist") or ()) if distance is not None]
        recomputed.update(
            {name: [column[place] for place in known] for name, column in zip(names, columns, strict=True)}
        )
    return _with_vectors(recomputed, recomputed.get("dist"), recomputed.get("vectors"))


def _with_vectors(body: Mapping[str, Any], dist: object, vectors: object) -> dict[str, Any]:
    batch = {**body, "dist": dist, "vectors": vectors}
    if vectors is None:
        batch["encoding"] = None
    return batch
