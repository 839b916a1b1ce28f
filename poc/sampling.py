"""Which nonces of a delivered batch are recomputed, where not all are."""

import hashlib

from hallmark.poc.proof import ProofBatch
from hallmark.poc.streams import length_prefixed

__all__ = ["draw_sample"]


def draw_sample(proof: ProofBatch, count: int, seed: str) -> tuple[int, ...]:
    """The nonces of a batch that are recomputed, where not all are: those with the smallest hashes.

    The hash is SHA-256 of the seed, the block hash, the public key and the nonce, each with its length as
    in the protocol's streams. So the draw depends on nothing else, and anyone can repeat it.

    Args:
        proof: The batch.
        count: How many; all where the batch has no more.
        seed: What the prover could not know when it delivered.

    Returns:
        The nonces in the order of the batch, each once.
    """
    nonces = dict.fromkeys(proof.nonces)
    prefix = length_prefixed(seed, proof.block_hash, proof.public_key)

    def rank(nonce: int) -> bytes:
        return hashlib.sha256(prefix + length_prefixed(nonce)).digest()

    chosen = set(sorted(nonces, key=rank)[:count])
    return tuple(nonce for nonce in nonces if nonce in chosen)
