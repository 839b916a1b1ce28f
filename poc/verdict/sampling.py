"""Which nonces of delivered batches are recomputed, and what batches cover of a prover's walk together."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import pairwise

from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.streams import length_prefixed

__all__ = ["draw_sample", "gaps", "joined_range"]

IndexRange = tuple[int, int]


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


def joined_range(proofs: Iterable[ProofBatch]) -> IndexRange | None:
    """The range_ of one walk that batches cover together; None where that cannot be said.

    They must be of one node, say what they cover, and follow one another without a gap or an overlap; a batch
    that came twice counts once. Two groups of a node walk other nonces by the same indices, and so overlap.
    """
    nodes: set[int] = set()
    claimed: dict[IndexRange, frozenset[int]] = {}
    for proof in proofs:
        nonces = frozenset(proof.nonces)
        if proof.covered is None or claimed.setdefault(proof.covered, nonces) != nonces:
            return None
        nodes.add(proof.node_id)
    ranges = sorted(claimed)
    follow = all(last + 1 == first for (_, last), (first, _) in pairwise(ranges))
    if len(nodes) != 1 or not follow:
        return None
    return ranges[0][0], ranges[-1][1]


def gaps(ranges: Iterable[IndexRange]) -> Iterator[IndexRange]:
    """The ranges of a walk that lie between those that are covered, in order."""
    end: int | None = None
    for first, last in sorted(ranges):
        if end is not None and first > end + 1:
            yield end + 1, first - 1
        end = last if end is None else max(end, last)
