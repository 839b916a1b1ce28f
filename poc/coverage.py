"""What the batches of one prover cover of its walk, taken together."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from hallmark.poc.proof import ProofBatch

__all__ = ["gaps", "joined_stretch"]

Stretch = tuple[int, int]


def joined_stretch(proofs: Iterable[ProofBatch]) -> Stretch | None:
    """The stretch of one walk that batches cover together; None where that cannot be said.

    They must be of one node, say what they cover, and follow one another without a gap or an overlap; a batch
    that came twice counts once. Two groups of a node walk other nonces by the same indices, and so overlap.
    """
    nodes: set[int] = set()
    claimed: dict[Stretch, frozenset[int]] = {}
    for proof in proofs:
        nonces = frozenset(proof.nonces)
        if proof.covered is None or claimed.setdefault(proof.covered, nonces) != nonces:
            return None
        nodes.add(proof.node_id)
    stretches = sorted(claimed)
    follow = all(last + 1 == first for (_, last), (first, _) in pairwise(stretches))
    if len(nodes) != 1 or not follow:
        return None
    return stretches[0][0], stretches[-1][1]


def gaps(stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    """The stretches of a walk that lie between those that are covered, in order."""
    end: int | None = None
    for first, last in sorted(stretches):
        if end is not None and first > end + 1:
            yield end + 1, first - 1
        end = last if end is None else max(end, last)
