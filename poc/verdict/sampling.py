"""Which nonces of delivered batches are recomputed, and what batches cover of a prover's walk together."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from hallmark.poc.protocol.proof import ProofBatch
from hallmark.poc.protocol.streams import length_prefixed

__all__ = ["covered_together", "draw_sample", "drawing_order", "gaps"]

IndexRange = tuple[int, int]


def draw_sample(proof: ProofBatch, count: int, seed: str) -> tuple[int, ...]:
    """Return the nonces of a batch that are recomputed, where not all are: those with the smallest hashes.

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
    chosen = set(drawing_order(nonces, seed, proof.block_hash, proof.public_key)[:count])
    return tuple(nonce for nonce in nonces if nonce in chosen)


def drawing_order(nonces: Iterable[int], seed: str, block_hash: str, public_key: str) -> tuple[int, ...]:
    """Return the nonces of one prover and block in the order in which they are drawn, that of their hashes.

    Args:
        nonces: The nonces, of any number of batches.
        seed: As for `draw_sample`, which takes the first of a batch's.
        block_hash: The block's.
        public_key: The prover's.

    Returns:
        Each nonce once.
    """
    prefix = length_prefixed(seed, block_hash, public_key)

    def rank(nonce: int) -> bytes:
        return hashlib.sha256(prefix + length_prefixed(nonce)).digest()

    return tuple(sorted(set(nonces), key=rank))


def covered_together(proofs: Iterable[ProofBatch], node_count: int | None, n_groups: int) -> int | None:
    """Return how many nonces a prover's batches cover together, each counted once.

    None where that is not known.

    All must say what they cover, and leave no gap in any walk: what lies in it may be what was not found, and
    a batch of nothing is not sent. They may overlap, as a batch that is delivered again does. Where
    `node_count` is not known, indices of two nodes or of two groups cannot be compared: then they must be of
    one node, and those that are not the same must not overlap.

    Args:
        proofs: The batches.
        node_count: The round's; None: it is not stated.
        n_groups: The round's.
    """
    batches = [*proofs]
    walks: defaultdict[int, list[IndexRange]] = defaultdict(list)
    for proof in batches:
        if proof.covered is None:
            return None
        walk, start = _walk(proof, node_count, n_groups)
        walks[walk].append((start + proof.covered[0], start + proof.covered[1]))
    if node_count is None and not _is_one_walk(batches):
        return None
    total = 0
    for ranges in walks.values():
        if any(gaps(ranges)):
            return None
        total += max(last for _, last in ranges) - min(first for first, _ in ranges) + 1
    return total


def _walk(proof: ProofBatch, node_count: int | None, n_groups: int) -> IndexRange:
    """Return the residue class that a batch's nonces are of, and which of it is index 0 of its walk.

    A node that is none of the round's walks another one's nonces, from a later one on.
    """
    if node_count is None:
        return proof.node_id, 0
    group = (min((*proof.nonces, *proof.failed_nonces)) - proof.node_id) // node_count % n_groups
    start, walk = divmod(proof.node_id + group * node_count, node_count * n_groups)
    return walk, start


def _is_one_walk(proofs: Iterable[ProofBatch]) -> bool:
    """Return whether batches of unknown walks are of one node, and no two that overlap have other nonces."""
    nodes: set[int] = set()
    claimed: dict[IndexRange | None, frozenset[int]] = {}
    for proof in proofs:
        nonces = frozenset(proof.nonces)
        if claimed.setdefault(proof.covered, nonces) != nonces:
            return False
        nodes.add(proof.node_id)
    ranges = sorted(filter(None, claimed))
    return len(nodes) == 1 and all(last < first for (_, last), (first, _) in pairwise(ranges))


def gaps(ranges: Iterable[IndexRange]) -> Iterator[IndexRange]:
    """Yield the ranges of a walk that lie between those that are covered, in order."""
    end: int | None = None
    for first, last in sorted(ranges):
        if end is not None and first > end + 1:
            yield end + 1, first - 1
        end = last if end is None else max(end, last)
